"""`ciuic bench decode` on small models, and the numpy loop that it compares with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ciuic.cli import bench_decode, main
from ciuic.cli.numpy_llama import NumpyLlama
from ciuic.models.converted import convert
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL

from .conftest import Write

SHORT = ["--prompt-tokens", "6", "--tokens", "4", "--rounds", "2"]


@pytest.fixture(autouse=True)
def _little_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_decode, "READ_NBYTES", 1 << 20)


@pytest.mark.parametrize("seed", range(3))
def test_the_numpy_loop_is_the_model(small_model: Write, seed: int) -> None:
    with load_model(small_model(seed, tied=seed != 1), quantize=None) as model:
        plain = NumpyLlama(model)
        cache, other = plain.new_cache(), model.new_cache()
        rng = np.random.default_rng(seed)
        prompt = rng.integers(0, model.config.vocab_size, 7).tolist()
        got, want = plain.prefill(prompt, cache), model.prefill(prompt, other)
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
        for token_id in prompt[:3]:
            got, want = plain.decode(token_id, cache), model.decode(token_id, other)
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_figures_hang_together(small_model: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(small_model())
    assert main(["bench", "decode", path, "--json", *SHORT]) == 0
    prefill, decode = json.loads(capsys.readouterr().out)
    assert (prefill["phase"], decode["phase"]) == ("prefill", "decode")
    with load_model(path, quantize="int8") as model:
        parts = [*(layer.weights for layer in model.layers), model.network.head]
        nbytes = sum(weight.nbytes for part in parts for _, weight in part)
        slot = 4 * 2 * 2 * 2 * 16  # layers, keys and values, kv heads, head_dim
    assert decode["bytes_per_token"] == nbytes + slot * (6 + 4 / 2)
    assert prefill["bytes_per_token"] == nbytes / 6 + slot * 3
    for row in (prefill, decode):
        used = row["tokens_per_second"] * row["bytes_per_token"]
        assert row["fraction_of_limit"] == pytest.approx(used / row["bandwidth"])
        assert row["ratio_to_numpy"] > 0
        assert row["peak_rss_bytes"] > nbytes


def test_models_without_a_loop_have_no_ratio(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with load_model(small_model(), quantize="int8") as model:
        convert(model, tmp_path / "c")
    for path in (DEFAULT_MODEL, str(tmp_path / "c")):
        assert main(["bench", "decode", path, "--json", *SHORT]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["ratio_to_numpy"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "--tokens must be at least 1, not 0"),
        (["--tokens", "1000"], "at most 128 tokens, the context of small, not 1006"),
    ],
)
def test_bad_counts_are_refused(
    small_model: Write,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["bench", "decode", str(small_model()), *SHORT, *arguments]) == 2
    assert message in capsys.readouterr().err
