"""Benches notice broken gateware: each single-line mutation makes the bench named for it fail.

`make mutants` runs them all, a build of the RTL each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .mutations import BENCHES, MUTATIONS, TESTS, Mutation

ROOT = Path(__file__).parents[2]
GATEWARE = ROOT / "hw" / "ciuic_hw"
LIMIT_SECONDS = 900.0  # a bench on gateware that hangs waits for its own limits first
RAN = {True: "** TESTS=", False: "AssertionError"}
"""What a bench (True: on Verilator) prints if the mutated gateware was built and simulated."""


def run(bench: str, folder: Path, tests: str = ".*") -> subprocess.CompletedProcess[str]:
    """Run a bench, or some of its tests, on the gateware in a folder, with a cache of its own."""
    paths = (folder, *(ROOT / part for part in (".", "hw", "host", "sim")))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", bench],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COCOTB_TEST_FILTER": tests,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_applies(mutation: Mutation) -> None:
    lines = (GATEWARE / mutation.file).read_text().splitlines()
    assert [line.count(mutation.old) for line in lines if mutation.old in line] == [1]
    assert mutation.new != mutation.old


@pytest.mark.mutants
@pytest.mark.parametrize("bench", BENCHES)
def test_bench_passes_on_a_copy(bench: str, tmp_path: Path) -> None:
    shutil.copytree(GATEWARE, tmp_path / "ciuic_hw")
    done = run(bench, tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.mutants
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    shutil.copytree(GATEWARE, tmp_path / "ciuic_hw")
    file = tmp_path / "ciuic_hw" / mutation.file
    file.write_text(file.read_text().replace(mutation.old, mutation.new))
    done = run(mutation.bench, tmp_path, TESTS[mutation.bench])
    assert done.returncode == 1, done.stdout
    assert RAN[mutation.bench.startswith("sim/")] in done.stdout, done.stdout
    shutil.rmtree(tmp_path)
