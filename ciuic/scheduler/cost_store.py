"""Where calibrations are kept: one JSON file in the user's cache folder, for this machine.

What was measured holds for a fingerprint: of the machine and its software, and for each device of
its name, driver and overlay. A calibration with another fingerprint is left alone, not used.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ciuic.cache import cache_folder
from ciuic.devices import Device
from ciuic.errors import UsageError

from .cost import Calibrated, Calibration, Link

FORMAT = 1  # of the file; others are not read


def store_path() -> Path:
    """Return the file of this user's calibrations."""
    return cache_folder() / "calibration.json"


def writable_store_path() -> Path:
    """Return the file of this user's calibrations, its folder made.

    Raises
    ------
    UsageError
        If the folder cannot be written to.
    """
    path = store_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the cache folder {path.parent} cannot be made: {error}") from error
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"the cache folder {path.parent} cannot be written to")
    return path


def machine_fingerprint() -> str:
    """Return what a calibration depends on besides the device."""
    return ", ".join(
        (
            platform.machine(),
            _processor(),
            f"{os.cpu_count()} CPUs",
            f"{platform.system()} {platform.release()}",
            f"Python {platform.python_version()}",
            f"numpy {np.__version__}",
        )
    )


def _processor() -> str:
    """Return the processor's name as the kernel has it; Python's own is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@dataclass
class CostStore:
    """The calibrations of a file.

    Attributes
    ----------
    machine
        Fingerprint of the machine.
    devices
        URI -> fingerprint of the device, and what was measured.
    """

    machine: str
    devices: dict[str, tuple[str, Calibration]] = field(default_factory=dict)

    @classmethod
    def load(cls) -> CostStore:
        """Return what a file holds for this machine: nothing if it is absent or for another one.

        A file that cannot be understood is as good as none: it is there to be written again.
        """
        here = cls(machine_fingerprint())
        try:
            found = json.loads(store_path().read_text(encoding="utf-8"))
            if found["format"] != FORMAT or found["machine"] != here.machine:
                return here
            here.devices = {uri: _from_json(one) for uri, one in found["devices"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(here.machine)
        return here

    def of(self, device: Device) -> Calibration | None:
        """Return what was measured of a device, if it is still the same."""
        fingerprint, calibration = self.devices.get(device.uri, (None, None))
        return calibration if fingerprint == device.fingerprint else None

    def put(self, device: Device, calibration: Calibration) -> None:
        """Keep what was measured of a device."""
        self.devices[device.uri] = (device.fingerprint, calibration)

    def save(self) -> Path:
        """Write the file, whole or not at all, and return its path.

        Raises
        ------
        UsageError
            If the cache folder cannot be written to.
        """
        path = writable_store_path()
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        content = {
            "format": FORMAT,
            "machine": self.machine,
            "devices": {uri: _to_json(*one) for uri, one in self.devices.items()},
        }
        try:
            draft.write_text(json.dumps(content), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path


def stored_calibration(device: Device) -> Calibration | None:
    """Return what this user's file holds for a device as it is."""
    return CostStore.load().of(device)


def _to_json(fingerprint: str, calibration: Calibration) -> dict[str, Any]:
    link = calibration.link
    return {
        "fingerprint": fingerprint,
        "tasks": [task._asdict() for task in calibration.tasks],
        "link": None if link is None else link._asdict(),
    }


def _from_json(found: Mapping[str, Any]) -> tuple[str, Calibration]:
    tasks = tuple(
        Calibrated(
            op=str(task["op"]),
            inputs=tuple(tuple(map(int, shape)) for shape in task["inputs"]),
            offset=int(_checked(task["offset"])),
            seconds=_checked(task["seconds"], positive=True),
            roofline=_checked(task["roofline"], positive=True),
        )
        for task in found["tasks"]
    )
    link = found["link"]
    if link is not None:
        per_byte = _checked(link["seconds_per_byte"], positive=True)
        link = Link(_checked(link["latency"]), per_byte)
    return str(found["fingerprint"]), Calibration(tasks, link)


def _checked(value: Any, *, positive: bool = False) -> float:
    """Return a figure that can be: finite, and not below 0, or 0 if it must be ``positive``."""
    figure = float(value)
    if not 0 <= figure < math.inf or (positive and figure == 0):
        raise ValueError(f"a figure must be positive, not {value!r}")
    return figure
