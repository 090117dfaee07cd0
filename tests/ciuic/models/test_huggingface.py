"""Hugging Face folders: what is broken or foreign is a `ModelFormatError`, and nothing else."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ciuic.errors import ModelFormatError
from ciuic.models.huggingface import HuggingFaceFolder
from ciuic.models.loading import load_model

from . import small_deepseek, small_dense, small_folder
from .conftest import Rewrite

CASES = 10_000  # of random changes to a header or a config
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_deepseek.write_folder(tmp_path / "model")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a folder with a tensor of float32, one of float16 and one of FP8 with its scales."""
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(4, np.float16),
        "c": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "c_scale_inv": np.ones((1, 1), np.float32),
    }
    keys = {"quantization_config": small_deepseek.FLOAT8}
    return small_folder.write_model(tmp_path, keys, tensors)


def read_all(path: Path) -> None:
    """Open a folder and read every tensor."""
    source = HuggingFaceFolder(path)
    try:
        for name in source.tensors:
            source.tensor(name)
    finally:
        source.close()


def write_raw(path: Path, header: dict[str, Any], data: bytes = b"") -> None:
    """Write a safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_values_come_back_in_every_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    wanted = np.array([[1.5, -2.0, 0.0], [3.140625, 1e-3, -65504.0]], np.float32)
    bfloat16 = (wanted.view(np.uint32) >> 16).astype("<u2")
    blobs = {"F32": wanted.tobytes(), "F16": wanted.astype("<f2").tobytes()}
    blobs["BF16"] = bfloat16.tobytes()
    header, data = {}, b""
    for dtype, blob in blobs.items():
        offsets = [len(data), len(data) + len(blob)]
        header[dtype] = {"dtype": dtype, "shape": [2, 3], "data_offsets": offsets}
        data += blob
    write_raw(tmp_path / WEIGHTS, header, data)
    source = HuggingFaceFolder(tmp_path)
    assert np.array_equal(source.tensor("F32"), wanted)
    assert np.array_equal(source.tensor("F16"), wanted.astype(np.float16).astype(np.float32))
    assert np.array_equal(source.tensor("BF16"), (bfloat16.astype(np.uint32) << 16).view("f4"))
    source.close()


def test_every_truncation_is_refused(plain: Path, rewrite: Rewrite) -> None:
    whole = (plain / WEIGHTS).read_bytes()
    for cut in range(len(whole)):
        rewrite(plain / WEIGHTS, whole[:cut])
        with pytest.raises(ModelFormatError):
            HuggingFaceFolder(plain)


@pytest.mark.parametrize("part", range(4))
def test_random_changes_are_refused_or_read(plain: Path, part: int, rewrite: Rewrite) -> None:
    """Bits flipped, bytes replaced, pieces cut out or doubled, up to eight changes a file."""
    whole = (plain / WEIGHTS).read_bytes()
    rng = np.random.default_rng(part)
    refused = 0
    tracemalloc.start()
    for case in range(CASES // 4):
        broken = bytearray(whole)
        for _ in range(rng.integers(1, 9)):
            at = int(rng.integers(len(broken)))
            match rng.integers(4):
                case 0:
                    broken[at] ^= 1 << rng.integers(8)
                case 1:
                    broken[at] = rng.integers(256)
                case 2:
                    del broken[at : at + int(rng.integers(1, 9))]
                case _:
                    broken[at:at] = broken[at : at + int(rng.integers(1, 9))]
        rewrite(plain / WEIGHTS, bytes(broken))
        try:
            read_all(plain)
        except ModelFormatError:
            refused += 1
        except Exception as error:
            pytest.fail(f"part {part}, case {case}: {error!r}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused > CASES // 8
    assert peak < 200_000  # Python's own; a header that asks for gigabytes gets none


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [6], "data_offsets": [0, 1 << 62]},
        {"dtype": "F32", "shape": [6], "data_offsets": [8, 32]},
        {"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]},
        {"dtype": "F99", "shape": [6], "data_offsets": [0, 24]},
        {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [5], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": 6, "data_offsets": [0, 24]},
        {},
        [],
    ],
)
def test_headers_that_do_not_fit_are_refused(plain: Path, entry: Any) -> None:
    write_raw(plain / WEIGHTS, {"t": entry}, bytes(24))
    with pytest.raises(ModelFormatError):
        HuggingFaceFolder(plain)


def test_overlapping_tensors_are_refused(plain: Path) -> None:
    entry = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
    write_raw(plain / WEIGHTS, {"t": entry, "u": entry}, bytes(24))
    with pytest.raises(ModelFormatError, match="not a whole safetensors file"):
        HuggingFaceFolder(plain)


def test_header_longer_than_the_file_is_refused(plain: Path) -> None:
    (plain / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ModelFormatError, match="not a whole safetensors file"):
        HuggingFaceFolder(plain)


def test_values_that_are_not_finite_are_refused(plain: Path) -> None:
    save_file({"t": np.array([np.nan], np.float32)}, plain / WEIGHTS)
    with pytest.raises(ModelFormatError, match="tensor t holds values that are not finite"):
        read_all(plain)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "model.bin"]
)
def test_shards_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = small_deepseek.write_folder(tmp_path / "model", shards=2)
    (path / INDEX).write_text(json.dumps({"weight_map": {"t": name}}))
    with pytest.raises(ModelFormatError, match=r"a shard must be a \.safetensors file in"):
        HuggingFaceFolder(path)


def test_absent_shard_is_named(tmp_path: Path) -> None:
    path = small_deepseek.write_folder(tmp_path / "model", shards=2)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFormatError, match=r"00002\.safetensors: cannot be read"):
        HuggingFaceFolder(path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {}}])
def test_index_of_another_form_is_refused(tmp_path: Path, index: Any) -> None:
    path = small_deepseek.write_folder(tmp_path / "model", shards=2)
    (path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelFormatError, match=INDEX):
        HuggingFaceFolder(path)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFormatError, match=re.escape(name)):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFormatError, match=re.escape(name)):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model_type": "gpt9"},
            "model_type must be one of deepseek_v2, deepseek_v3, llama, qwen2, not 'gpt9'",
        ),
        ({"model_type": ["deepseek_v3"]}, "model_type must be one of deepseek_v2, deepseek_v3,"),
        ({"vocab_size": None}, "key vocab_size is missing"),
        ({"n_routed_experts": 1 << 30}, "layers.1.mlp.experts.8.gate_proj.weight is missing"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        ({"hidden_size": "48"}, "hidden_size must be an integer from 0 to"),
        ({"hidden_size": 1 << 40}, "hidden_size must be an integer from 0 to"),
        ({"hidden_size": 0}, "dim must be at least 1, not 0"),
        ({"hidden_size": 64}, "must have shape (64,), not (48,)"),
        ({"num_hidden_layers": 4}, "tensor model.layers.3.input_layernorm.weight is missing"),
        ({"n_group": 3}, "n_groups must divide 8 experts and be at least 2, not 3"),
        ({"num_experts_per_tok": 5}, "top_k must be at most 4, not 5"),
        ({"qk_rope_head_dim": 7}, "rope_dim must be even, not 7"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', not 'gelu'"),
        ({"scoring_func": "softmax"}, "scoring_func must be 'sigmoid', not 'softmax'"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quant_method must be 'fp8', not 'gptq'",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}},
            "weight_block_size must be two positive integers, not [128]",
        ),
        ({"rope_parameters": 3}, "rope_parameters must be an object, not 3"),
        ({"rope_parameters": {"rope_type": "su"}}, "rope_type must be 'default', 'yarn' or"),
        (
            {"rope_parameters": {**small_deepseek.YARN, "factor": 0.5}},
            "the parameters of rotary scaling do not work together",
        ),
        ({"rms_norm_eps": -1.0}, "norm_eps must be positive, not -1.0"),
        ({"vocab_size": 100}, "embed_tokens.weight must have shape (100, 48)"),
        ({"eos_token_id": 9999}, "eos_token_id must be from 0 to 260, not 9999"),
    ],
)
def test_config_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = small_deepseek.write_folder(tmp_path / "model", changes=changes)
    with pytest.raises(ModelFormatError, match=re.escape(reason)):
        load_model(path)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("base", "tokenizer.json"),
        *((variant, "config.json") for variant in ("float8", "v2", "llama3", "qwen2-yarn")),
    ],
)
def test_changes_of_json_are_refused_or_work(
    tmp_path: Path, variant: str, name: str, rewrite: Rewrite
) -> None:
    """Each value anywhere in the file becomes another; the model computes or is refused."""
    family = small_dense if variant in small_dense.VARIANTS else small_deepseek
    folder = family.write_folder(tmp_path, variant)
    spec = json.loads((folder / name).read_text())
    others = [None, -1, 0, 1.5, "", "x", [], {}, [1], {"a": 1}, True, 1 << 70, 1e300]
    places: list[tuple[Any, Any]] = []

    def walk(value: Any, depth: int) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items if depth < 4 else ():
            places.append((value, key))
            if isinstance(inner, dict | list) and len(inner) < 40:
                walk(inner, depth + 1)

    walk(spec, 0)
    for holder, key in places:
        before = holder[key]
        for other in others:
            holder[key] = other
            rewrite(folder / name, json.dumps(spec).encode())
            try:
                with load_model(folder) as model:
                    model.encode("the a", raw=True)
                    if name == "config.json":
                        assert np.isfinite(model.logits([5])).all()
            except ModelFormatError:
                pass
            except Exception as error:
                pytest.fail(f"{key} = {other!r}: {error!r}")
        holder[key] = before


def test_special_tokens_are_never_read_from_text(folder: Path) -> None:
    with load_model(folder) as model:
        ids = model.encode("the<|end|>", raw=True)
        assert ids[0] == model.tokenizer.bos_id == 0
        assert 1 not in ids[1:]
        assert model.tokenizer.end_ids == {1}
        assert model.tokenizer.decode(ids) == "the<|end|>"


def test_begin_token_is_found_in_a_row_of_post_processors(folder: Path) -> None:
    """As in the tokenizer.json of Llama 3."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    spec["post_processor"] = {
        "type": "Sequence",
        "processors": [byte_level, spec["post_processor"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with load_model(folder) as model:
        assert model.tokenizer.bos_id == 0


def test_chat_template_cannot_reach_the_system(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}"
    )
    from ciuic.errors import UsageError

    with load_model(folder) as model, pytest.raises(UsageError, match="refused the messages"):
        model.encode("hello")
