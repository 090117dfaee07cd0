"""load_model: files that lack something are refused before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ciuic.errors import ModelFormatError, UsageError
from ciuic.models.loading import load_model
from ciuic.models.names import SMOLLM2

from .conftest import Write, metadata, random_tensors, write_gguf


def test_model_tells_what_it_is(small_model: Write) -> None:
    with load_model(small_model()) as model:
        assert model.hidden_size == 64
        assert len(model.layers) == 2
        assert repr(model) == "<Model 'small': 2 layers of 64>"


def test_model_that_is_not_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelFormatError, match=r"not fetched yet; run: ciuic fetch$"):
        load_model(SMOLLM2)


def test_other_architecture_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata(), random_tensors(), architecture="gpt9")
    with pytest.raises(
        ModelFormatError,
        match=r": architecture must be one of deepseek2, llama, qwen2, not 'gpt9'$",
    ):
        load_model(path)


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"])
def test_missing_tensor_is_refused(small_model: Write, name: str) -> None:
    with pytest.raises(ModelFormatError, match=rf": tensor {re.escape(name)} is missing$"):
        load_model(small_model(without=name))


@pytest.mark.parametrize(
    "key", ["llama.block_count", "llama.embedding_length", "llama.attention.head_count"]
)
def test_missing_key_is_refused(small_model: Write, key: str) -> None:
    with pytest.raises(ModelFormatError, match=rf": key {re.escape(key)} is missing$"):
        load_model(small_model(without=key))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            {"llama.block_count": "two"},
            "llama.block_count must be an integer from 0 to 2147483647, not 'two'",
        ),
        ({"llama.block_count": 0}, "n_layers must be positive, not 0"),
        ({"llama.block_count": 1 << 30}, "1073741824 layers need more tensors than there are"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing"),
        (
            {"llama.feed_forward_length": 97},
            "tensor blk.0.ffn_gate.weight must have shape (97, 64), not (96, 64)",
        ),
        ({"llama.attention.head_count": 5}, "64 channels do not divide among 5 heads"),
        (
            {"llama.attention.head_count_kv": 3},
            "n_heads must be a multiple of n_kv_heads (3), not 4",
        ),
        ({"llama.rope.scaling.type": "linear"}, "rotary scaling (linear) is not supported"),
        (
            {"llama.rope.dimension_count": 8},
            "rotary and value widths must be the head's width 16, not 8 and 16",
        ),
        ({"llama.expert_count": 4}, "experts are not supported in architecture llama"),
        ({"tokenizer.chat_template": "{% for %}"}, "the chat template cannot be parsed: "),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    small_model: Write, keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelFormatError, match=re.escape(reason)):
        load_model(small_model(keys=keys))


def test_unknown_quantization_is_refused(small_model: Write) -> None:
    with pytest.raises(
        UsageError, match=r"^quantize must be 'auto', 'int8', 'int4' or None, not 'int3'$"
    ):
        load_model(small_model(), quantize="int3")  # type: ignore[arg-type]
