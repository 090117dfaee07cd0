"""Every family against logits that transformers computed (tools/reference_models.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.ops import latent_attention
from ciuic.runtime import Runtime

from . import small_deepseek, small_dense

LOGITS = Path(__file__).parents[2] / "data" / "model_logits.npz"
with np.load(LOGITS) as arrays:
    RECORDED = dict(arrays)
ERROR = 1e-5  # of the largest logit; float32 against transformers' float32
PROMPT = 7  # tokens read at once before the others come one by one


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference from recorded logits, of the largest of them."""
    stride = -(-got.shape[1] // want.shape[1])
    return float(np.abs(got[:, ::stride] - want).max() / np.abs(want).max())


def check(model: Model, ids: list[int], want: np.ndarray) -> None:
    """Compare logits of all tokens at once, and token by token through the cache."""
    assert error(model.logits(ids), want) < ERROR
    cache = model.new_cache()
    rows = [
        model.prefill(ids[:PROMPT], cache),
        *(model.decode(id_, cache) for id_ in ids[PROMPT:]),
    ]
    assert error(np.array(rows), want[PROMPT - 1 :]) < ERROR


@pytest.mark.parametrize("form", ["plain", "absorbed"])
@pytest.mark.parametrize("variant", small_deepseek.VARIANTS)
def test_deepseek_equals_transformers(
    tmp_path: Path, variant: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = (0, 1) if form == "plain" else (1, 0)
    monkeypatch.setattr(latent_attention, "_forms", lambda *_: costs)
    with load_model(small_deepseek.write_folder(tmp_path, variant), quantize=None) as model:
        check(model, small_deepseek.token_ids(variant), RECORDED[variant])


@pytest.mark.parametrize("variant", small_dense.VARIANTS)
def test_dense_families_equal_transformers(tmp_path: Path, variant: str) -> None:
    with load_model(small_dense.write_folder(tmp_path, variant), quantize=None) as model:
        check(model, small_dense.token_ids(variant), RECORDED[variant])


def test_trained_model_equals_transformers() -> None:
    ids, want = RECORDED["deepseek-tiny-ids"].tolist(), RECORDED["deepseek-tiny"]
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        check(model, ids, want)


@pytest.mark.parametrize("variant", ["v2", "llama3", "llama-every-bias", "qwen2"])
def test_the_overlay_computes_every_linear_layer(tmp_path: Path, variant: str) -> None:
    """In its number formats all devices give the same bits, biases included."""
    family = small_dense if variant in small_dense.VARIANTS else small_deepseek
    ids, runtime = family.token_ids(variant)[:9], Runtime()
    with load_model(family.write_folder(tmp_path, variant), runtime=runtime) as model:
        model.place(dict.fromkeys(range(len(model.layers)), "fpga:emulated?config=tiny"))
        got = model.logits(ids)
        assert {"linear", "attention", "latent_attention"}.isdisjoint(
            op for _, op in runtime.fallbacks
        )
        for layer in model.layers:
            layer.device, layer.as_fpga, layer.attention = "cpu", True, "int8x8"
        assert np.array_equal(model.logits(ids), got)
    assert 1e-4 < error(got, RECORDED[variant][:9]) < 0.3


def test_every_recorded_model_is_compared() -> None:
    tiny = {"deepseek-tiny", "deepseek-tiny-ids"}
    assert RECORDED.keys() == {*small_deepseek.VARIANTS, *small_dense.VARIANTS, *tiny}
