"""DeepSeek-V2 and V3 beyond their logits, which test_references compares with transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic.errors import ShapeError
from ciuic.models.deepseek_config import DeepseekConfig
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.quantize import QuantizedMatrix
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from . import small_deepseek, small_folder
from .test_references import RECORDED, error


def test_trained_model_continues_a_text() -> None:
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        assert model.encode("And God") == model.encode("And God", raw=True)
        text = "".join(model.generate("And God said unto", max_tokens=12))
        assert model.tokenizer.decode(model.encode(text, raw=True)) == text
    assert text.startswith(" ")
    assert len(text.split()) >= 6


def test_int8_is_near_float() -> None:
    ids, want = RECORDED["deepseek-tiny-ids"].tolist(), RECORDED["deepseek-tiny"]
    with load_model(DEFAULT_MODEL, quantize="int8") as model:
        found = error(model.logits(ids), want)
    assert 1e-4 < found < 0.15


def test_the_cache_holds_latents_and_nothing_else(tmp_path: Path) -> None:
    with load_model(small_deepseek.write_folder(tmp_path)) as model:
        cache = model.new_cache()
        model.prefill([2, 3, 4], cache)
        slots = model.config.max_seq_len  # less than a block
        assert cache.nbytes == 3 * slots * (32 + 8) * 4  # layers, slots, kv_rank + rope, float32
        assert cache.length == 3


def test_an_fpga_runs_every_linear_layer_and_attention(tmp_path: Path) -> None:
    """In the overlay's number formats all devices give the same bits."""
    ids = small_deepseek.token_ids("base")[:9]
    runtime = Runtime()
    path = small_deepseek.write_folder(tmp_path)
    with load_model(path, quantize="auto", runtime=runtime) as model:
        model.place({0: "fpga:emulated?config=tiny", 1: "fpga:emulated?config=tiny", 2: "cpu"})
        model.layers[2].as_fpga, model.layers[2].attention = True, "int8x8"  # tiny has 8 columns
        got = model.logits(ids)
        fallen = {op for _, op in runtime.fallbacks}
        assert fallen.isdisjoint({"linear", "latent_attention"})
        for layer in model.layers:
            layer.device, layer.as_fpga, layer.attention = "cpu", True, "int8x8"
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


def test_layers_of_multi_token_prediction_are_ignored(tmp_path: Path) -> None:
    """They come after the others, as in DeepSeek-V3's own checkpoint."""
    ids = [4, 5, 6]
    keys = small_deepseek.config("base")
    tensors = small_deepseek.random_tensors(keys, 0)
    extra = {
        name.replace("layers.2.", "layers.3."): tensor
        for name, tensor in tensors.items()
        if "layers.2." in name
    }
    extra["model.layers.3.eh_proj.weight"] = np.ones((48, 96), np.float32)
    keys["num_nextn_predict_layers"] = 1
    plain = small_deepseek.write_folder(tmp_path / "plain")
    more = small_folder.write_model(tmp_path / "more", keys, {**tensors, **extra})
    with load_model(plain, quantize=None) as one, load_model(more, quantize=None) as two:
        assert len(two.layers) == 3
        assert np.array_equal(one.logits(ids), two.logits(ids))


@pytest.mark.parametrize(
    ("changes", "normalize", "scale"),
    [
        ({}, False, 2.5),
        ({"norm_topk_prob": True}, True, 1.0),
        ({"norm_topk_prob": True, "num_experts_per_tok": 1}, False, 2.5),
    ],
)
def test_v2_normalizes_shares_or_scales_them(
    tmp_path: Path, changes: dict[str, Any], normalize: bool, scale: float
) -> None:
    """As DeepSeek's own code has it; transformers does not normalize at all."""
    with load_model(small_deepseek.write_folder(tmp_path, "v2", changes=changes)) as model:
        config = model.config
    assert isinstance(config, DeepseekConfig)
    assert (config.normalize_shares, config.share_scale) == (normalize, scale)


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
