"""The notebooks run from top to bottom, on an emulated overlay and on a simulated board."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient: pip install 'ciuic[notebooks]'")

FOLDER = Path(__file__).parents[2] / "host" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_SECONDS = 300  # the first to open a simulated board compiles its overlay
EMULATED, BOARD = "fpga:emulated?config=tiny", "fpga:pynq-sim?config=tiny"
ON_THE_BOARD = ("1-first-steps", "2-a-model-layer")  # the other one uses no device
RUNS = [
    *((path, EMULATED) for path in NOTEBOOKS),
    *(
        pytest.param(FOLDER / f"{stem}.ipynb", BOARD, marks=[pytest.mark.pynq, pytest.mark.rtl])
        for stem in ON_THE_BOARD
    ),
]


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize(("path", "uri"), RUNS, ids=lambda value: getattr(value, "stem", value))
def test_notebook_runs(path: Path, uri: str, tmp_path: Path) -> None:
    if uri == BOARD:
        pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")
    executed = tmp_path / path.name
    # A process of its own, as Jupyter's client sets up an event loop and warns of its settings.
    program = (
        "import sys, nbformat, nbclient;"
        "book = nbformat.read(sys.argv[1], 4);"
        f"nbclient.NotebookClient(book, timeout={CELL_SECONDS}, kernel_name='python3').execute();"
        "nbformat.write(book, sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, executed],
        env={
            **os.environ,
            "CIUIC_DEVICE": uri,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(executed, 4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    if "matplotlib" in path.read_text(encoding="utf-8"):
        shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
        assert any("image/png" in data for data in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path: Path) -> None:
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
