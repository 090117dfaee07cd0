"""GGUF files of every architecture against the logits that transformers computed of folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ciuic.errors import ModelFormatError
from ciuic.models.gguf_deepseek import DeepseekTensors
from ciuic.models.gguf_file import SUPPORTED, GgufFile
from ciuic.models.loading import load_model

from . import small_deepseek, small_dense, small_folder, small_gguf
from .conftest import write_gguf
from .test_references import RECORDED, check, error

# What GGUF has no key for, or llama.cpp's converter refuses.
FOLDERS_ONLY = {"float8", "halves", "yarn-mscales-differ"}
DEEPSEEK = [variant for variant in small_deepseek.VARIANTS if variant not in FOLDERS_ONLY]


@pytest.mark.parametrize("variant", small_dense.VARIANTS)
def test_dense_families(tmp_path: Path, variant: str) -> None:
    path, _ = small_gguf.write(tmp_path / "m.gguf", variant)
    with load_model(path, quantize=None) as model:
        check(model, small_dense.token_ids(variant), RECORDED[variant])


@pytest.mark.parametrize("absorbed", [True, False], ids=["split", "joined"])
@pytest.mark.parametrize("variant", DEEPSEEK)
def test_deepseek(tmp_path: Path, variant: str, absorbed: bool) -> None:
    path, _ = small_gguf.write(tmp_path / "m.gguf", variant, absorbed=absorbed)
    with load_model(path, quantize=None) as model:
        ids = small_deepseek.token_ids(variant)
        assert error(model.logits(ids), RECORDED[variant]) < 1e-5


WHOLE_BLOCKS = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "kv_lora_rank": 256,
    "q_lora_rank": 256,
    "v_head_dim": 64,
    "num_attention_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
}


@pytest.mark.parametrize("type_name", sorted(set(SUPPORTED) - {"F32"}))
@pytest.mark.parametrize("variant", ["v2", "base", "llama3", "qwen2"])
def test_quantized_files_are_the_models_of_their_dequantized_weights(
    tmp_path: Path, variant: str, type_name: str
) -> None:
    """What is dequantized here is what the `gguf` package makes of it, experts and all."""
    path, values = small_gguf.write(
        tmp_path / "q.gguf", variant, type_name=type_name, changes=WHOLE_BLOCKS
    )
    with GgufFile(path) as file:
        quantized = {name for name, info in file.tensors.items() if info.type.name == type_name}
        metadata = dict(file.metadata)
        architecture = str(metadata.pop("general.architecture"))
    assert {"token_embd.weight", "blk.1.attn_output.weight"} <= quantized
    assert "blk.1.ffn_down_exps.weight" in quantized or architecture != "deepseek2"
    write_gguf(tmp_path / "f.gguf", metadata, values, architecture=architecture)
    ids = [5, 6, 7, 8]
    with (
        load_model(path, quantize=None) as model,
        load_model(tmp_path / "f.gguf", quantize=None) as exact,
    ):
        assert np.array_equal(model.logits(ids), exact.logits(ids))


def test_tokenizer_is_that_of_the_folder(tmp_path: Path) -> None:
    folder = small_deepseek.write_folder(tmp_path / "folder")
    path, _ = small_gguf.write(tmp_path / "m.gguf", "base")
    with load_model(folder) as one, load_model(path) as two:
        for text in ("the a the", "Then, a thé!\n 12"):
            assert one.encode(text, raw=True) == two.encode(text, raw=True)
        assert one.tokenizer.end_ids == two.tokenizer.end_ids == {1}


def test_only_the_experts_that_are_needed_are_read(tmp_path: Path) -> None:
    path, stored = small_gguf.write(tmp_path / "m.gguf", "base")
    with GgufFile(path) as file:
        tensors = DeepseekTensors(file, 8)
        experts = stored["blk.1.ffn_up_exps.weight"]
        for expert, wanted in enumerate(experts):
            assert np.array_equal(tensors.tensor(f"blk.1.ffn_up_exps.weight[{expert}]"), wanted)
        assert f"blk.1.ffn_up_exps.weight[{len(experts)}]" not in tensors.tensors


@pytest.mark.parametrize(
    ("changes", "without", "reason"),
    [
        ({"expert_gating_func": 7}, "", "expert_gating_func must be 1 (softmax) or 2 (sigmoid)"),
        ({"expert_count": 9}, "", "n_groups must divide 9 experts"),
        ({"expert_count": 12}, "", "ffn_gate_exps.weight must hold 12 experts, not 8"),
        (
            {"attention.kv_lora_rank": 16},
            "",
            "attn_kv_a_mqa.weight must have shape (24, 48), not (40, 48)",
        ),
        ({"rope.dimension_count": 30}, "", "nope_dim must be at least 1, not -6"),
        ({"rope.scaling.type": "longrope"}, "", "rotary scaling (longrope) is not supported"),
        ({"rope.scaling.factor": 0.5}, "", "rotary scaling do not work together"),
        ({"rope.scaling.yarn_attn_factor": 2.0}, "", "yarn_attn_factor must be 1.0, not 2.0"),
        (
            {"rope.scaling.yarn_ext_factor": [1.0, 2.0]},
            "",
            "yarn_ext_factor must be 1.0, not array(",
        ),
        ({"nextn_predict_layers": 3}, "", "n_layers must be at least 1, not 0"),
        ({}, "blk.1.attn_v_b.weight", "tensor blk.1.attn_kv_b.weight is missing"),
        ({}, "blk.2.ffn_down_exps.weight", "tensor blk.2.ffn_down_exps.weight[0] is missing"),
        ({}, "blk.1.exp_probs_b.bias", "tensor blk.1.exp_probs_b.bias is missing"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], without: str, reason: str
) -> None:
    keys = small_deepseek.config("base")
    metadata = {**small_gguf.deepseek_metadata(keys, absorbed=True), **changes}
    metadata = {f"deepseek2.{key}": value for key, value in metadata.items()}
    tensors = small_gguf.converted(small_deepseek.random_tensors(keys, 0), keys, absorbed=True)
    tensors.pop(without, None)
    everything = {**metadata, **small_gguf.tokenizer_metadata()}
    path = write_gguf(tmp_path / "m.gguf", everything, tensors, architecture="deepseek2")
    with pytest.raises(ModelFormatError, match=re.escape(reason)):
        load_model(path)


def test_blocks_of_multi_token_prediction_are_not_read(tmp_path: Path) -> None:
    """A file whose last block is one more than the model's layers."""
    keys = small_deepseek.config("base")
    metadata = small_gguf.deepseek_metadata(keys, absorbed=True)
    metadata |= {"block_count": 4, "nextn_predict_layers": 1}
    metadata = {f"deepseek2.{key}": value for key, value in metadata.items()}
    tensors = small_gguf.converted(small_deepseek.random_tensors(keys, 0), keys, absorbed=True)
    everything = {**metadata, **small_gguf.tokenizer_metadata()}
    path = write_gguf(tmp_path / "m.gguf", everything, tensors, architecture="deepseek2")
    with load_model(path, quantize=None) as model:
        assert len(model.layers) == 3
        assert error(model.logits(small_deepseek.token_ids("base")), RECORDED["base"]) < 1e-5


@pytest.mark.parametrize("divisors", [np.ones(3, np.float32), np.zeros(4, np.float32)])
def test_divisors_that_do_not_fit_are_refused(tmp_path: Path, divisors: np.ndarray) -> None:
    keys = small_dense.config("llama")
    metadata = {f"llama.{key}": value for key, value in small_gguf.dense_metadata(keys).items()}
    tensors = small_gguf.converted(small_dense.random_tensors(keys, 0), keys, absorbed=False)
    everything = {**metadata, **small_gguf.tokenizer_metadata()}
    path = write_gguf(tmp_path / "m.gguf", everything, {**tensors, "rope_freqs.weight": divisors})
    with pytest.raises(ModelFormatError, match=r"tensor rope_freqs\.weight must (be pos|have sha)"):
        load_model(path)


def test_steering_tokens_that_people_see_are_shown(tmp_path: Path) -> None:
    """Those of type USER_DEFINED, such as <think>; no text spells them."""
    keys = small_dense.config("qwen2")
    metadata = {f"qwen2.{key}": value for key, value in small_gguf.dense_metadata(keys).items()}
    tokenizer = small_gguf.tokenizer_metadata()
    think = tokenizer["tokenizer.ggml.tokens"].index("[PAD0]")
    tokenizer["tokenizer.ggml.tokens"][think] = "<｜think｜>"
    tokenizer["tokenizer.ggml.token_type"][think] = gguf.TokenType.USER_DEFINED
    tensors = small_gguf.converted(small_dense.random_tensors(keys, 0), keys, absorbed=False)
    path = write_gguf(tmp_path / "m.gguf", {**metadata, **tokenizer}, tensors, architecture="qwen2")
    with load_model(path) as model:
        assert model.tokenizer.decode([think]) == "<｜think｜>"
        assert model.tokenizer.special["<｜think｜>"] == think
        assert think not in model.encode("<｜think｜>", raw=True)
    assert len(small_folder.SPECIAL) == 2
