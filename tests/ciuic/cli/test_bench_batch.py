"""`ciuic bench batch`: figures of real runs, and a failure where a batch writes other tokens."""

from __future__ import annotations

import json

import pytest

from ciuic.cli import bench_batch, main
from ciuic.cli.parser import run_command
from ciuic.models.continuation import Continuation

ARGUMENTS = ["--sizes", "1", "3", "--tokens", "6", "--rounds", "2", "--json"]


def test_figures_are_those_of_the_same_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("ciuic bench batch", bench_batch, ARGUMENTS) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert row["model"] == "deepseek-tiny"
        assert row["same_tokens"]
        assert row["limit"] == row["batch"]
        assert row["gain"] == pytest.approx(
            row["tokens_per_second"] / row["alone_tokens_per_second"]
        )


def test_other_tokens_are_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Continuation.take

    def wrong(self: Continuation, logits: object) -> str:
        piece = take(self, logits)
        if type(self) is Continuation:  # a text of a batch
            self.ids[-1] = (self.ids[-1] + 1) % 2000
        return piece

    monkeypatch.setattr(Continuation, "take", wrong)
    assert run_command("ciuic bench batch", bench_batch, ARGUMENTS) == 1
    assert not json.loads(capsys.readouterr().out)[0]["same_tokens"]


@pytest.mark.parametrize("wrong", [["--sizes", "0"], ["--tokens", "1"], ["--rounds", "0"]])
def test_bad_input_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "batch", *wrong]) == 2
    assert "must be at least" in capsys.readouterr().err
