"""Start a cocotb bench of one component on Verilator.

A bench is a pair of files: ``<name>_tests.py`` runs inside the simulator, ``test_<name>.py`` calls
`launch` from pytest. The component's ports keep the names that Amaranth gives them.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ciuic_hw.build import processes

from . import build

PARAMETERS_VARIABLE = "CIUIC_BENCH_PARAMETERS"
SEED_VARIABLE = "CIUIC_BENCH_SEED"  # repeats a run: its value is printed by a failed bench


class BenchFailed(AssertionError):
    """Tests inside the simulator failed; the message holds their log and the seed."""


def launch(
    component: Any,
    test_module: Path,
    *,
    parameters: Mapping[str, object] | None = None,
    tests: str | None = None,
    seed: int | None = None,
) -> None:
    """Build a component and run the cocotb tests of a module on it.

    Parameters
    ----------
    component
        An Amaranth ``wiring.Component``.
    test_module
        File with the cocotb tests.
    parameters
        JSON values that the tests read with `ciuic_sim.bench.parameters`.
    tests
        Regular expression of the names of the tests to run; all if omitted.
    seed
        Seed of every random number in the bench; a new one if omitted.

    Raises
    ------
    BenchFailed
        If a test failed or none ran.
    """
    from amaranth.back import rtlil

    launch_netlist(
        rtlil.convert(component, name=build.TOP, emit_src=False),
        test_module,
        parameters=parameters,
        tests=tests,
        seed=seed,
    )


def launch_netlist(
    netlist: str,
    test_module: Path,
    *,
    parameters: Mapping[str, object] | None = None,
    tests: str | None = None,
    seed: int | None = None,
) -> None:
    """Do as `launch` does, with a component's RTLIL."""
    from cocotb_tools.check_results import get_results

    executable = build.bench_executable(netlist)
    if seed is None:
        seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))
    with tempfile.TemporaryDirectory(prefix="ciuic-bench-") as name:
        folder = Path(name)
        results = folder / "results.xml"
        environment = _environment(test_module, results, seed)
        environment[PARAMETERS_VARIABLE] = json.dumps(dict(parameters or {}))
        if tests is not None:
            environment["COCOTB_TEST_FILTER"] = tests
        repeat = f"{SEED_VARIABLE}={seed}"
        try:
            log = processes.run([str(executable)], folder=folder, environment=environment)
        except processes.BuildFailed as error:
            raise BenchFailed(f"the simulator stopped ({repeat}): {error}") from error
        if not results.exists():
            raise BenchFailed(f"the simulator ran no test ({repeat}):\n{log}")
        count, failed = get_results(results)
    if failed or not count:
        raise BenchFailed(f"{failed} of {count} tests failed ({repeat}):\n{log}")


def _environment(test_module: Path, results: Path, seed: int) -> dict[str, str]:
    import find_libpython
    from cocotb_tools import config

    python = find_libpython.find_libpython()
    if python is None:
        raise RuntimeError("cocotb needs a Python with a shared library, and none was found")
    search = [str(test_module.resolve().parent), *filter(None, sys.path)]
    return {
        **os.environ,
        "GPI_USERS": f"{python};{config.pygpi_entry_point()}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(search),
        "COCOTB_TOPLEVEL": build.TOP,
        "TOPLEVEL_LANG": "verilog",
        "COCOTB_TEST_MODULES": test_module.stem,
        "COCOTB_RESULTS_FILE": str(results),
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_ANSI_OUTPUT": "0",
    }
