"""How commands speak: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

WAIT_SECONDS = 1.0  # work that is shorter is not worth a line in a log

Align = Literal["<", ">"]
Report = Callable[[str, int, int], None]
"""``report(what, done, total)``: called often by long work; ``total`` in the unit of ``done``."""


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Return rows as an aligned table.

    Parameters
    ----------
    rows
        Heading -> value; numbers are aligned to the right.
    columns
        Headings in their order; those of the first row if None.
    """
    if columns is None:
        columns = list(rows[0]) if rows else []
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    aligns = [_align([row.get(column, "") for row in rows]) for column in columns]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, aligns, widths, strict=True)).rstrip()
        for line in lines
    )


def _align(values: Sequence[object]) -> Align:
    numbers = [isinstance(value, int | float) for value in values if value is not None]
    return ">" if numbers and all(numbers) else "<"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def print_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Print rows as `table` lays them out."""
    print(table(rows, columns))


def print_json(value: object) -> None:
    """Print one JSON value; dataclasses, enums, paths and numpy numbers are understood."""
    print(json.dumps(value, indent=2, default=_plain, allow_nan=False))


def _plain(value: Any) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"value must be plain data, not {value!r}")


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Report]:
    """Show how far long work has come, on stderr.

    On a terminal each ``what`` is a bar (needs the extra ``cli``); elsewhere work of a second and
    more is one line when it is complete, so that logs stay short. Nothing is written to stdout.

    Yields
    ------
    Report
        ``report(what, done, total)``; a ``what`` is complete when ``done == total``.
    """
    out = sys.stderr if stream is None else stream
    if not out.isatty():
        yield _LineProgress(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bars: dict[str, Any] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        console=Console(file=out),
    ) as shown:

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = shown.add_task(what, total=total)
            shown.update(bars[what], completed=done, total=total)

        yield report


class _LineProgress:
    """One line per completed piece of work that somebody had to wait for, with its seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        if done >= total:
            del self._started[what]
            if now - started >= WAIT_SECONDS:
                self._stream.write(f"{what}: done in {now - started:.1f} s\n")
                self._stream.flush()
