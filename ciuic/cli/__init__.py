"""The `ciuic` command: one module a sub-command, imported only when that command is called.

A command module offers

- its docstring, which ``--help`` shows as the description,
- ``EXAMPLES``: lines that ``--help`` shows at its end,
- ``add_arguments(parser)``,
- ``run(arguments) -> int``: the exit status; output through `ciuic.cli.output`.

Exit status: 0 done; 1 a check failed; 2 wrong usage or a `CiuicError`; 130 interrupted;
141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import cast

from ciuic.errors import CiuicError, UsageError

from .extras import extra_of_module
from .parser import Command, Parser, run_command, suggestion

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "devices": "show the devices of this machine, and why others are absent",
    "run": "let a model write text, its layers spread over devices",
    "chat": "talk with a model, which remembers what was said",
    "plan": "show where a model's layers would go, its memory and times, before loading it",
    "fetch": "download SmolLM2-135M-Instruct",
    "calibrate": "measure this machine's devices, for better plans",
    "convert": "write a model's weights as devices take them, once",
    "bench": "measure, and print each figure with what it depends on",
    "board": "run a simulated board, which programs for PYNQ.remote reach",
    "build": "synthesize an overlay for a board, place and route it, show what it takes",
    "doctor": "show what is installed, what is missing and how to mend it",
}
"""Command -> one line of help. Command ``x`` is the module ``ciuic.cli.x`` or an entry point."""

GROUP = "ciuic.commands"
"""Entry points of this group are command modules of other packages."""

INTERRUPTED = 130
READER_GONE = 141


def _frame() -> Parser:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="ciuic",
        description="Run LLMs on CPU, GPU and FPGA.",
        epilog=f"commands:\n{lines}\n\n`ciuic COMMAND --help` explains a command.",
        usage="ciuic [--help] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _load(name: str) -> Command:
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(
            f"command must be one of {known}, not {name!r}{suggestion(name, COMMANDS)}"
        )
    external = next(iter(entry_points(group=GROUP, name=name)), None)
    if external is not None:
        return cast("Command", external.load())
    return cast("Command", importlib.import_module(f"{__name__}.{name}"))


def _run(argv: Sequence[str]) -> int:
    frame = _frame()
    chosen = frame.parse_args(argv)
    if chosen.version:
        from importlib.metadata import version

        print(f"ciuic {version('ciuic')}")
        return 0
    if chosen.command is None:
        frame.print_help()
        return 0
    status = run_command(f"ciuic {chosen.command}", _load(chosen.command), chosen.arguments)
    sys.stdout.flush()
    return status


def _missing_package(error: ModuleNotFoundError) -> str | None:
    extra = extra_of_module(error.name or "")
    if extra is None:
        return None
    return f"this needs the package {error.name!r}, which is not installed; run: {extra.install}"


def _fail(message: object, status: int) -> int:
    print(f"ciuic: error: {message}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of the process if None.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except CiuicError as error:
        story = "" if error.story is None else f"\n{error.story}"
        return _fail(f"{error}{story}", error.exit_code)
    except ModuleNotFoundError as error:
        message = _missing_package(error)
        if message is None:
            raise
        return _fail(message, CiuicError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout at exit; let it do so where nobody complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
