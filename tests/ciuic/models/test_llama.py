"""The Llama family against a plain float64 model and against transformers' recorded logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ciuic.errors import ShapeError
from ciuic.models.gguf_file import GgufFile
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix
from ciuic.tensor import CiuicTensor

from . import plain_llama
from .conftest import DIM, KV_HEADS, LAYERS, Write, metadata, random_tensors, write_gguf

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "data" / "smollm2_logits.json").read_text()
)
FLOAT_ERROR = 1e-5  # of the largest logit; float32 against transformers' float32
INT8_ERROR = 0.25  # of the largest logit; W8A8 with one scale per token is that coarse


def token_ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, 250, count).tolist()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_logits_equal_the_plain_model(small_model: Write, tied: bool, n_kv_heads: int) -> None:
    seed = 20 + n_kv_heads
    path = small_model(seed, tied=tied, n_kv_heads=n_kv_heads)
    ids = token_ids(seed, 23)
    tensors = random_tensors(seed, tied=tied, n_kv_heads=n_kv_heads)
    expected = plain_llama.logits(tensors, metadata(n_kv_heads), ids)
    with load_model(path, quantize=None) as model:
        got = model.logits(ids)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max(), f"seed {seed}"


def test_cache_gives_what_the_whole_sequence_gives(small_model: Write) -> None:
    seed = 31
    ids = token_ids(seed, 12)
    with load_model(small_model(seed), quantize=None) as model:
        whole = model.logits(ids)
        cache = model.new_cache()
        assert np.allclose(model.prefill(ids[:5], cache), whole[4], atol=1e-5), f"seed {seed}"
        for position in range(5, 12):
            got = model.decode(ids[position], cache)
            assert np.allclose(got, whole[position], atol=1e-5), f"seed {seed} at {position}"
        assert cache.length == 12


def test_long_prompts_are_read_in_parts(
    small_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 32
    ids = token_ids(seed, 50)
    with load_model(small_model(seed), quantize=None) as model:
        whole = model.logits(ids)
        monkeypatch.setattr("ciuic.models.model.PREFILL_TOKENS", 16)
        assert np.allclose(model.logits(ids), whole, atol=1e-5), f"seed {seed}"
        reports: list[tuple[str, int, int]] = []
        model.prefill(ids, model.new_cache(), lambda *report: reports.append(report))
    assert [done for _, done, _ in reports] == [16, 32, 48, 50]


def test_forward_is_causal_and_keeps_the_type(small_model: Write) -> None:
    seed = 33
    hidden = np.random.default_rng(seed).standard_normal((6, DIM)).astype(np.float32)
    with load_model(small_model(seed), quantize=None) as model:
        layer = model.layers[0]
        whole = layer.forward(hidden)
        assert isinstance(whole, np.ndarray)
        tensor = layer.forward(CiuicTensor.from_numpy(hidden))
        assert isinstance(tensor, CiuicTensor)
        assert np.array_equal(tensor.numpy(), whole)
        assert np.allclose(layer.forward(hidden[:2]), whole[:2], atol=1e-5), f"seed {seed}"


def test_layers_in_a_row_give_the_logits(small_model: Write) -> None:
    """What the layers compute one by one by hand is what the model computes."""
    seed = 34
    ids = token_ids(seed, 4)
    with load_model(small_model(seed), quantize=None) as model:
        hidden = random_tensors(seed)["token_embd.weight"][ids]
        for layer in model.layers:
            hidden = layer.forward(hidden)
        normed = plain_llama.norm(hidden, random_tensors(seed)["output_norm.weight"], 1e-5)
        expected = normed @ random_tensors(seed)["token_embd.weight"].T
        assert np.allclose(model.logits(ids), expected, atol=1e-4), f"seed {seed}"


def test_forward_refuses_other_shapes(small_model: Write) -> None:
    with (
        load_model(small_model()) as model,
        pytest.raises(ShapeError, match=rf"^hidden must be \(tokens, {DIM}\), not \(3, 7\)$"),
    ):
        model.layers[0].forward(np.zeros((3, 7), np.float32))


def test_int8_is_near_float(small_model: Write) -> None:
    seed = 35
    path, ids = small_model(seed), token_ids(35, 20)
    with load_model(path, quantize=None) as exact, load_model(path, quantize="int8") as quantized:
        want, got = exact.logits(ids), quantized.logits(ids)
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 0 < error < 0.05, f"seed {seed}"


def test_int4_is_near_float(small_model: Write) -> None:
    seed = 37
    path, ids = small_model(seed), token_ids(37, 20)
    with load_model(path, quantize=None) as exact, load_model(path, quantize="int4") as quantized:
        want, got = exact.logits(ids), quantized.logits(ids)
        assert isinstance(quantized.layers[0].weights["k"], GroupQuantizedMatrix)
    error = np.sqrt(((got - want) ** 2).mean() / (want**2).mean())
    assert 0.01 < error < 0.3, f"seed {seed}"


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1"])
def test_int4_takes_the_integers_of_the_file(tmp_path: Path, name: str) -> None:
    tensors, key = random_tensors(38), "blk.0.ffn_down.weight"
    path = write_gguf(
        tmp_path / "q4.gguf", metadata(), tensors, {key: gguf.GGMLQuantizationType[name]}
    )
    with load_model(path, quantize="int4") as model, GgufFile(path) as file:
        weight, want = model.layers[0].weights["down"], file.tensor(key).T  # (k, n)
    assert isinstance(weight, GroupQuantizedMatrix)
    assert (weight.offsets is None) == (name == "Q4_0")
    # Only scales and offsets are rounded, to 2**-16 of the column's largest scale.
    steps = np.abs(want).max(axis=0) * 2.0**-15
    assert (np.abs(weight.dequantize() - want) <= 8.5 * steps).all()


def test_weights_are_named_and_transposed(small_model: Write) -> None:
    with load_model(small_model(), quantize="int8") as model:
        weights = dict(model.layers[1].weights)
    assert len(weights) == len(model.layers[1].weights) == 9
    assert all(isinstance(w, QuantizedMatrix) == (len(w.shape) == 2) for w in weights.values())
    assert weights["k"].shape == (DIM, KV_HEADS * 16)


def test_auto_is_int8_on_fpgas_and_float32_elsewhere(small_model: Write) -> None:
    with load_model(small_model()) as model:
        weights = model.layers[0].weights
        assert isinstance(weights["q"], CiuicTensor)
        assert isinstance(weights.on("FPGA")["q"], QuantizedMatrix)
        assert weights.on("FPGA")["attn_norm"] is weights["attn_norm"]
        assert weights.on("GPU") is weights.on("CPU") is weights


def test_layer_as_fpga_computes_what_the_overlay_computes(small_model: Write) -> None:
    seed = 36
    hidden = np.random.default_rng(seed).standard_normal((5, DIM)).astype(np.float32)
    with load_model(small_model(seed)) as model:
        layer = model.layers[0]
        plain = layer.forward(hidden)
        layer.as_fpga = True
        layer.attention = model.runtime.device("fpga:emulated").attention
        as_fpga = layer.forward(hidden)
        layer.as_fpga, layer.attention, layer.device = False, None, "fpga:emulated"
        assert np.array_equal(layer.forward(hidden), as_fpga), f"seed {seed}"
        assert 0 < np.abs(plain - as_fpga).max() < 0.05 * np.abs(plain).max(), f"seed {seed}"


def test_load_reports_each_part(small_model: Write) -> None:
    reports: list[tuple[str, int, int]] = []
    with load_model(small_model()) as model:
        model.load(lambda *report: reports.append(report))
    assert reports[-1] == ("loading weights", LAYERS + 2, LAYERS + 2)
    assert len(reports) == LAYERS + 3


@pytest.fixture(scope="module")
def smollm2_float(smollm2_path: Path) -> Model:
    return load_model(smollm2_path, quantize=None)


@pytest.fixture(scope="module")
def smollm2_int8(smollm2_path: Path) -> Model:
    return load_model(smollm2_path, quantize="int8")


def recorded_error(model: Model, prompt: dict[str, Any]) -> float:
    """Return the largest difference from transformers over the largest logit of its position."""
    got = model.logits(prompt["ids"])
    worst = 0.0
    for row in prompt["positions"]:
        logits = got[row["position"]]
        assert logits.argmax() == row["top_ids"][0]
        for ids, values in (
            (row["top_ids"], row["top_logits"]),
            (RECORDED["sample_ids"], row["sample_logits"]),
        ):
            error = float(np.abs(logits[ids] - np.array(values)).max())
            worst = max(worst, error / row["largest"])
    return worst


@pytest.mark.model
@pytest.mark.parametrize("prompt", RECORDED["prompts"], ids=range(len(RECORDED["prompts"])))
def test_float_logits_and_text_equal_those_of_transformers(
    smollm2_float: Model, prompt: dict[str, Any]
) -> None:
    assert recorded_error(smollm2_float, prompt) < FLOAT_ERROR
    generation = smollm2_float.generate(prompt["ids"], len(prompt["greedy"]))
    assert "".join(generation) == generation.text
    assert generation.ids == prompt["greedy"]


@pytest.mark.model
@pytest.mark.parametrize("prompt", RECORDED["prompts"], ids=range(len(RECORDED["prompts"])))
def test_int8_logits_are_near_those_of_transformers(
    smollm2_int8: Model, prompt: dict[str, Any]
) -> None:
    assert recorded_error(smollm2_int8, prompt) < INT8_ERROR


@pytest.mark.model
def test_int8_costs_little_likelihood(smollm2_float: Model, smollm2_int8: Model) -> None:
    """The likelihood of text, over all recorded prompts, falls by less than 3 %."""

    def loss(model: Model) -> float:
        total = 0.0
        for prompt in RECORDED["prompts"]:
            logits = model.logits(prompt["ids"])[:-1].astype(np.float64)
            targets = logits[np.arange(len(logits)), prompt["ids"][1:]]
            total += float((np.log(np.exp(logits).sum(axis=1)) - targets).sum())
        return total

    assert loss(smollm2_int8) < 1.03 * loss(smollm2_float)
