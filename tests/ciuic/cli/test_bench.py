"""`ciuic bench`: benches are command modules, found by entry points."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from ciuic import cli
from ciuic.cli import bench

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer one bench, ``probe``, whose status is its ``--status``."""
    module = ModuleType("ciuic_probe", "Measure nothing.\n\nIn detail.")
    module.EXAMPLES = "ciuic bench probe --status 3"
    module.add_arguments = lambda parser: parser.add_argument("--status", type=int, default=0)
    module.run = lambda arguments: arguments.status
    monkeypatch.setitem(sys.modules, "ciuic_probe", module)
    points = [EntryPoint("probe", "ciuic_probe", bench.GROUP)]
    monkeypatch.setattr(bench, "entry_points", lambda group: points)


def test_without_a_name_benches_are_listed(capsys: Capture) -> None:
    assert cli.main(["bench"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "probe  Measure nothing."


def test_arguments_after_the_name_are_the_benchs() -> None:
    assert cli.main(["bench", "probe", "--status", "3"]) == 3


def test_bench_explains_itself(capsys: Capture) -> None:
    assert cli.main(["bench", "probe", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ciuic bench probe ")
    assert "In detail." in shown


def test_unknown_bench_gets_a_suggestion(capsys: Capture) -> None:
    assert cli.main(["bench", "prob"]) == 2
    assert capsys.readouterr().err == (
        "ciuic: error: bench must be one of probe, not 'prob'; did you mean 'probe'?\n"
    )


def test_unknown_argument_of_a_bench_gets_a_suggestion(capsys: Capture) -> None:
    assert cli.main(["bench", "probe", "--statsu=1"]) == 2
    assert "unknown argument '--statsu=1'; did you mean '--status'?" in capsys.readouterr().err


def test_remainder_keeps_options_for_the_bench() -> None:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    parsed = parser.parse_args(["sim", "--json", "--config", "tiny"])
    assert (parsed.bench, parsed.arguments) == ("sim", ["--json", "--config", "tiny"])
