"""How a command's arguments are read: descriptions keep their layout, typing errors get a hint."""

from __future__ import annotations

import argparse
import difflib
import inspect
import logging
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Command(Protocol):
    """What a command module offers."""

    __doc__: str | None
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work and return the exit status."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Parser(argparse.ArgumentParser):
    """Parser of one command."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse ``args``; end the program with status 2 and a hint if they cannot be used."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}{suggestion(word, options)}")
        return parsed


def run_command(name: str, command: Command, argv: Sequence[str]) -> int:
    """Parse a command's arguments, set up logging, run the command and return its status.

    Parameters
    ----------
    name
        The command as it is typed, e.g. ``"ciuic doctor"``.
    """
    parser = Parser(
        prog=name,
        description=inspect.cleandoc(command.__doc__ or ""),
        epilog="examples:\n" + textwrap.indent(inspect.cleandoc(command.EXAMPLES), "  "),
    )
    command.add_arguments(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens to stderr")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="ciuic: %(levelname)s: %(message)s",
    )
    return command.run(arguments)
