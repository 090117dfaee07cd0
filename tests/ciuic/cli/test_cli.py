"""The frame of the `ciuic` command: help, errors and exit status."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ciuic import cli
from ciuic.errors import DeviceNotFound

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Return a function that makes ``ciuic probe`` do something."""

    def install(action: Callable[[], int]) -> None:
        module = ModuleType("ciuic.cli.probe", "Probe the frame.")
        module.EXAMPLES = "ciuic probe --deep"
        module.add_arguments = lambda parser: parser.add_argument("--deep", action="store_true")
        module.run = lambda arguments: action()
        monkeypatch.setitem(sys.modules, "ciuic.cli.probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", "probe the frame")

    return install


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_every_command(argv: list[str], capsys: Capture) -> None:
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    for name, summary in cli.COMMANDS.items():
        assert f"  {name} " in shown
        assert summary in shown


def test_help_imports_no_command() -> None:
    program = (
        "import sys, ciuic.cli; ciuic.cli.main(['--help']); "
        "print([n for n in sys.modules if n.startswith('ciuic.cli.')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "['ciuic.cli.extras', 'ciuic.cli.parser']"


def test_version_is_that_of_the_distribution(capsys: Capture) -> None:
    from importlib.metadata import version

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ciuic {version('ciuic')}\n"


def test_every_command_explains_itself(capsys: Capture) -> None:
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: ciuic {name} ")
        assert f"examples:\n  ciuic {name}" in shown


def test_unknown_command_gets_a_suggestion(capsys: Capture) -> None:
    assert cli.main(["doctr"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    known = ", ".join(cli.COMMANDS)
    assert shown.err == (
        f"ciuic: error: command must be one of {known}, not 'doctr'; did you mean 'doctor'?\n"
    )


def test_unknown_argument_gets_a_suggestion(capsys: Capture) -> None:
    assert cli.main(["doctor", "--jsn"]) == 2
    assert capsys.readouterr().err.endswith(
        "ciuic doctor: error: unknown argument '--jsn'; did you mean '--json'?\n"
    )


def test_arguments_reach_the_command_and_its_status_comes_back(
    command: Callable[[Callable[[], int]], None],
) -> None:
    command(lambda: 1)
    assert cli.main(["probe", "--deep"]) == 1


def test_ciuic_errors_are_one_line_and_status_2(
    command: Callable[[Callable[[], int]], None], capsys: Capture
) -> None:
    command(raising(DeviceNotFound("gpu:7", "kind must be one of cpu")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == ("ciuic: error: no device 'gpu:7': kind must be one of cpu\n")


def test_a_missing_package_names_the_command_that_installs_it(
    command: Callable[[Callable[[], int]], None], capsys: Capture
) -> None:
    command(raising(ModuleNotFoundError("No module named 'gguf'", name="gguf")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == (
        "ciuic: error: this needs the package 'gguf', which is not installed; "
        "run: python -m pip install 'ciuic[model]'\n"
    )


def test_a_module_of_no_extra_is_a_bug(command: Callable[[Callable[[], int]], None]) -> None:
    command(raising(ModuleNotFoundError("No module named 'ciuic.nothing'", name="ciuic.nothing")))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_ctrl_c_ends_with_status_130(
    command: Callable[[Callable[[], int]], None], capsys: Capture
) -> None:
    command(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "ciuic: error: interrupted\n"


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    program = Path(sys.executable).with_name("ciuic")
    process = subprocess.Popen(
        [program, "doctor", "--for", "run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), complaint) == (cli.READER_GONE, b"")
