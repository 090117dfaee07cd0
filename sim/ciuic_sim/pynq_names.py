"""What PYNQ's images call the boards, and Linux their processors."""

from __future__ import annotations

from ciuic.abi.boards import Family

PYNQ_NAMES = {"pynq-z2": "Pynq-Z2", "kv260": "KV260"}
"""Name of a board in `ciuic.abi.ADDRESS_MAPS` -> its name in ``/proc/device-tree/chosen``."""

LINUX_MACHINES: dict[Family, str] = {"zynq-7000": "armv7l", "zynq-ultrascale+": "aarch64"}
"""Family of a processing system -> its machine, as ``uname -m`` says."""
