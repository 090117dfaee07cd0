"""`ciuic bench quality` on deepseek-tiny and few tokens; a broken scale is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ciuic.cli import bench_quality, main
from ciuic.models import perplexity, weights
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.quantize_int4 import GroupQuantizedMatrix, quantize_groups

BENCH = ["bench", "quality", DEFAULT_MODEL]


def rows(capsys: pytest.CaptureFixture[str], tokens: int, status: int) -> list[dict[str, Any]]:
    assert main([*BENCH, "--tokens", str(tokens), "--json"]) == status
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_format_has_a_row_within_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, 600, 0)
    formats = ["float32", "w8a8", "w4a8", "softmax_q16", "attention_int8"]
    assert [row["format"] for row in found] == formats
    assert found[0]["relative_increase"] == 0
    for row in found:
        assert row["model"] == DEFAULT_MODEL
        assert row["tokens"] == 511  # one window, its first token given
        assert 30 < row["perplexity"] < 150  # 36.6 over all held-out text, less past each token
        assert row["relative_increase"] <= row["limit"]
        ratio = row["perplexity"] / found[0]["perplexity"]
        assert row["relative_increase"] == pytest.approx(ratio - 1)
    assert len({row["perplexity"] for row in found}) == 5  # each format computes otherwise


def test_a_broken_scale_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(matrix: np.ndarray) -> GroupQuantizedMatrix:
        right = quantize_groups(matrix)
        return replace(right, scales=np.roll(right.scales, 1, axis=1))

    monkeypatch.setattr(weights, "quantize_groups", broken)
    found = {row["format"]: row["relative_increase"] for row in rows(capsys, 128, 1)}
    assert found["w4a8"] > bench_quality.FORMATS["w4a8"].limit
    assert found["w8a8"] < found["w4a8"]


def test_perplexity_is_that_of_its_definition() -> None:
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        parts = perplexity.windows(model, "It was a dark night. " * 20, 90)
        got = perplexity.perplexity(model, parts)
        losses = []
        for ids in parts:
            for logits, following in zip(model.logits(ids).astype(float), ids[1:], strict=False):
                losses.append(np.log(np.exp(logits).sum()) - logits[following])
    assert got == pytest.approx(np.exp(np.mean(losses)), rel=1e-9)


@pytest.mark.parametrize("tokens", [2, 37, 512, 1300, 100_000_000])
def test_windows_are_spread_over_the_text(tokens: int) -> None:
    text = bench_quality.TEXT.read_text(encoding="utf-8")
    with load_model(DEFAULT_MODEL, quantize=None) as model:
        parts = perplexity.windows(model, text, tokens)
        whole = model.tokenizer.encode(text)
        bos = model.tokenizer.bos_id
    assert sum(map(len, parts)) <= tokens
    assert {len(part) for part in parts} == {min(tokens, perplexity.WINDOW)}
    assert all(part[0] == bos for part in parts)
    assert parts[0][1:] == whole[: len(parts[0]) - 1]
    if tokens == 1300:
        assert parts[1][1:] == whole[len(whole) // 2 :][: perplexity.WINDOW - 1]


def test_bad_input_is_refused_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BENCH, "--tokens", "1"]) == 2
    assert "--tokens must be at least 2, not 1" in capsys.readouterr().err
    assert main([*BENCH, "no-such-model.gguf"]) == 2
    assert "no-such-model.gguf" in capsys.readouterr().err
