"""Show the devices of this machine: what kind, under which URI, with how much memory.

Emulated devices stand in for hardware and are used only when asked for. For each kind of device
that is not here, the reason is shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from ciuic.devices import Device

EXAMPLES = """
ciuic devices
ciuic devices --json
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One device; memory in bytes."""

    kind: str
    uri: str
    name: str
    memory_bytes: int
    emulated: bool


def describe(device: Device) -> Row:
    """Return the row of an open device."""
    return Row(
        kind=device.kind,
        uri=device.uri,
        name=device.name,
        memory_bytes=device.capacity_bytes,
        emulated=device.emulated,
    )


def print_devices(rows: Sequence[Row]) -> None:
    """Print devices as a table."""
    output.print_table(
        [
            {
                "device": row.uri,
                "kind": row.kind,
                "name": row.name,
                "memory (MiB)": row.memory_bytes // 2**20,
                "": "emulated" if row.emulated else "",
            }
            for row in rows
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic devices``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the devices."""
    rows, absent = _examine()
    if arguments.json:
        output.print_json({"devices": rows, "absent": absent})
        return 0
    print_devices(rows)
    for what, reason in absent.items():
        print(f"{what}: not here: {reason}")
    return 0


def _examine() -> tuple[list[Row], dict[str, str]]:
    """Return the devices that open here, and why others do not."""
    from ciuic.devices import DeviceManager
    from ciuic.devices.manager import availability
    from ciuic.errors import CiuicError

    absent = {name: reason for name, reason in availability().items() if reason is not None}
    rows = []
    with DeviceManager() as manager:
        uris = [uri for uri in manager.list_uris() if uri.partition(":")[0] not in absent]
        with output.progress() as report:
            for done, uri in enumerate(uris, start=1):
                try:
                    rows.append(describe(manager.open(uri)))
                except CiuicError as error:
                    absent[uri] = str(error)
                report("opening devices", done, len(uris))
    return rows, absent
