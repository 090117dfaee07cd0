"""How long work tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""``report(what, done, total)``: called often; ``total`` is in the unit of ``done``."""


def silent(what: str, done: int, total: int) -> None:
    """Report to nobody."""


class Cancelled(Exception):
    """Raised from a report to end the work before the next piece of it."""
