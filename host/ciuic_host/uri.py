"""Names of FPGA devices: ``fpga:<kind>[@<address>]?<option>=<value>&...``.

The kind names a transport; transports announce themselves through the entry-point group
``ciuic.transports``, so that this package need not know them all. A transport reads its options
with the methods of `Options`, which checks them, and the rest are errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ciuic.errors import DeviceNotFound, UsageError

from .transport import Transport

SCHEME = "fpga"
GROUP = "ciuic.transports"

OpenTransport = Callable[["Options"], Transport]
Report = Callable[[str, int, int], None]  # what, steps done, steps in all


def no_report(what: str, done: int, total: int) -> None:
    """Tell nobody how far long work has come."""


class Options:
    """The options of a device's name.

    Parameters
    ----------
    uri
        The whole name, for error messages.
    values
        Option names and their texts.
    report
        Called while the transport is made ready, if that takes long.
    address
        Of the machine that the device is on, where the name has one.
    """

    def __init__(
        self,
        uri: str,
        values: dict[str, str],
        report: Report = no_report,
        *,
        address: str | None = None,
    ) -> None:
        self.uri = uri
        self.report = report
        self._values = values
        self._known: list[str] = []
        self._address = address
        self._elsewhere = False  # whether devices of this kind may be on another machine

    def address(self) -> str | None:
        """Return the machine that the device is on; None if it is this one."""
        self._elsewhere = True
        return self._address

    def path(self, name: str) -> Path | None:
        """Return an option that is the path of a file; None if it was not given."""
        value = self._take(name, "")
        return Path(value).expanduser() if value else None

    def text(self, name: str, default: str, choices: Iterable[str]) -> str:
        """Return an option that is one of several words."""
        value = self._take(name, default)
        words = sorted(choices)
        if value not in words:
            raise UsageError(f"{self.uri}: {name} must be one of {words}, not {value!r}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return an option that is an integer from ``low`` to ``high``."""
        text = self._take(name, str(default))
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise UsageError(
                f"{self.uri}: {name} must be an integer from {low} to {high}, not {text!r}"
            )
        return int(text)

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is 0 or 1."""
        return bool(self.integer(name, int(default), 0, 1))

    def check_all_known(self) -> None:
        """Raise `UsageError` if there is an option or an address that was not asked for."""
        if self._address is not None and not self._elsewhere:
            raise UsageError(f"{self.uri}: device must be on this machine, not @{self._address}")
        for name in self._values:
            if name not in self._known:
                raise UsageError(
                    f"{self.uri}: option must be one of {sorted(self._known)}, not {name!r}"
                )

    def _take(self, name: str, default: str) -> str:
        self._known.append(name)
        return self._values.get(name, default)


def transports() -> dict[str, EntryPoint]:
    """Return the kinds of transport that are installed."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def open_transport(uri: str, report: Report = no_report) -> Transport:
    """Open the transport that a name stands for.

    Raises
    ------
    DeviceNotFound
        If there is no such kind.
    UsageError
        If the name or an option cannot be read.
    """
    kind, options = parse(uri, report)
    kinds = transports()
    if kind not in kinds:
        raise DeviceNotFound(uri, f"kind must be one of {sorted(kinds)}, not {kind!r}")
    opener: OpenTransport = kinds[kind].load()
    return opener(options)


def split_option(uri: str, name: str) -> tuple[str, str | None]:
    """Return a name without one option, and that option's text."""
    head, _, query = uri.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    rest = "&".join("".join(pair) for pair in pairs if pair[0] != name)
    values = [value for option, _, value in pairs if option == name]
    if len(values) > 1 or any(value not in ("0", "1") for value in values):
        raise UsageError(f"{uri}: {name} must be 0 or 1, given once, not {values}")
    return f"{head}?{rest}" if rest else head, values[0] if values else None


def parse(uri: str, report: Report = no_report) -> tuple[str, Options]:
    """Return the kind and the options of a name."""
    parts = urlsplit(uri)
    if parts.scheme != SCHEME or parts.netloc or parts.fragment or not parts.path:
        raise UsageError(
            f"FPGA device must be {SCHEME}:<kind>[@address][?option=value], not {uri!r}"
        )
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise UsageError(f"{uri}: options must be name=value, not {parts.query!r}") from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise UsageError(f"{uri}: an option must be given once, not twice")
    kind, at, address = parts.path.partition("@")
    if at and not address:
        raise UsageError(f"{uri}: there must be an address behind @")
    return kind, Options(uri, values, report, address=address if at else None)
