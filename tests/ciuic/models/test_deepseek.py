"""DeepSeek-V3's architecture against logits that transformers computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ciuic.errors import ShapeError
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.quantize import QuantizedMatrix
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from . import small_deepseek

RECORDED = np.load(Path(__file__).parents[2] / "data" / "deepseek_logits.npz")
ERROR = 1e-5  # of the largest logit; float32 against transformers' float32
SMALL_STRIDE, TINY_STRIDE = 4, 64


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("variant", small_deepseek.VARIANTS)
def test_logits_equal_transformers(tmp_path: Path, variant: str) -> None:
    """At once (long enough for the plain form), and token by token through the cache."""
    ids, want = small_deepseek.token_ids(variant), RECORDED[variant]
    with load_model(small_deepseek.write_folder(tmp_path, variant), quantize=None) as model:
        assert error(model.logits(ids)[:, ::SMALL_STRIDE], want) < ERROR
        cache = model.new_cache()
        rows = [model.prefill(ids[:7], cache), *(model.decode(id_, cache) for id_ in ids[7:])]
    assert error(np.array(rows)[:, ::SMALL_STRIDE], want[6:]) < ERROR


def test_trained_model_equals_transformers() -> None:
    ids, want = RECORDED["deepseek-tiny-ids"].tolist(), RECORDED["deepseek-tiny"]
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        assert error(model.logits(ids)[:, ::TINY_STRIDE], want) < ERROR


def test_trained_model_continues_a_text() -> None:
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        assert model.encode("And God") == model.encode("And God", raw=True)
        text = "".join(model.generate("And God said unto", max_tokens=12))
        assert model.tokenizer.decode(model.encode(text, raw=True)) == text
    assert text.startswith(" ")
    assert len(text.split()) >= 6


def test_int8_is_near_float() -> None:
    ids = RECORDED["deepseek-tiny-ids"].tolist()
    with load_model(DEFAULT_MODEL, quantize="int8") as model:
        found = error(model.logits(ids)[:, ::TINY_STRIDE], RECORDED["deepseek-tiny"])
    assert 1e-4 < found < 0.15


def test_the_cache_holds_latents_and_nothing_else(tmp_path: Path) -> None:
    with load_model(small_deepseek.write_folder(tmp_path)) as model:
        cache = model.new_cache()
        model.prefill([2, 3, 4], cache)
        slots = model.config.max_seq_len  # less than a block
        assert cache.nbytes == 3 * slots * (32 + 8) * 4  # layers, slots, kv_rank + rope, float32
        assert cache.length == 3


def test_an_fpga_runs_every_linear_layer_and_the_softmax(tmp_path: Path) -> None:
    """In the overlay's number formats all devices give the same bits."""
    ids = small_deepseek.token_ids("base")[:9]
    runtime = Runtime()
    path = small_deepseek.write_folder(tmp_path)
    with load_model(path, quantize="auto", runtime=runtime) as model:
        model.place({0: "fpga:emulated?config=tiny", 1: "fpga:emulated?config=tiny", 2: "cpu"})
        model.layers[2].as_fpga = True
        got = model.logits(ids)
        fallen = {op for _, op in runtime.fallbacks}
        assert fallen.isdisjoint({"linear", "latent_attention"})
        for layer in model.layers:
            layer.device, layer.as_fpga = "cpu", True
        assert np.array_equal(model.logits(ids), got)


def test_experts_run_only_where_tokens_are(tmp_path: Path) -> None:
    """One token goes through its top_k experts: no more weights are read than theirs."""
    with load_model(small_deepseek.write_folder(tmp_path), quantize=None) as model:
        model.logits([5])
        for layer in model.layers[1:]:
            read = {role for role in layer.weights._loaded if role.startswith("expert.")}
            assert len(read) == 3 * small_deepseek.BASE["num_experts_per_tok"]


def test_roles_that_must_be_exact_are_not_quantized(tmp_path: Path) -> None:
    with load_model(small_deepseek.write_folder(tmp_path), quantize="int8") as model:
        weights = dict(model.layers[1].weights)
    assert {role for role, weight in weights.items() if isinstance(weight, CiuicTensor)} == {
        *("attn_norm", "ffn_norm", "q_norm", "kv_norm"),
        *("router", "router_bias", "up_keys", "up_values"),
    }
    assert isinstance(weights["expert.7.down"], QuantizedMatrix)
    assert weights["expert.7.down"].shape == (24, 48)


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ids = [4, 5, 6]
    with (
        load_model(small_deepseek.write_folder(whole), quantize=None) as one,
        load_model(small_deepseek.write_folder(parts, shards=3), quantize=None) as three,
    ):
        assert np.array_equal(one.logits(ids), three.logits(ids))


def test_forward_is_causal_and_keeps_the_type(tmp_path: Path) -> None:
    seed = 33
    hidden = np.random.default_rng(seed).standard_normal((6, 48)).astype(np.float32)
    with load_model(small_deepseek.write_folder(tmp_path), quantize=None) as model:
        layer = model.layers[1]
        whole = layer.forward(hidden)
        tensor = layer.forward(CiuicTensor.from_numpy(hidden))
        assert isinstance(tensor, CiuicTensor)
        assert np.array_equal(tensor.numpy(), whole)
        assert np.allclose(layer.forward(hidden[:2]), whole[:2], atol=1e-5), f"seed {seed}"
        with pytest.raises(ShapeError, match=r"^hidden must be \(tokens, 48\), not \(3, 7\)$"):
            layer.forward(np.zeros((3, 7), np.float32))
