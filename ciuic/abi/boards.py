"""Where the overlay's registers and memory are on each board: the one description of the addresses.

From it come the constants of the Vivado scripts, the `.hwh` of the simulated board, the runtime's
offsets and the tables of ``hw/boards/README.md``. No part of the gateware: it is the same for all.

Sources: AMD UG585 (Zynq-7000), table 4-1; AMD UG1085 (Zynq UltraScale+), table 10-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .registers import ABI_VERSION_VALUE, SPAN

INSTANCE = "ciuic"  # the overlay in the block design, so an attribute of `pynq.Overlay`
VLNV = f"ciuic:accelerator:overlay:{ABI_VERSION_VALUE}.0"  # what drivers bind to
CONTROLLER = "axi_intc_0"  # the interrupt controller in the block design

Family = Literal["zynq-7000", "zynq-ultrascale+"]


@dataclass(frozen=True)
class Region:
    """A range of addresses.

    Parameters
    ----------
    base
        First address.
    span
        Bytes.
    """

    base: int
    span: int

    @property
    def last(self) -> int:
        """Last address."""
        return self.base + self.span - 1

    def holds(self, address: int) -> bool:
        """Return whether an address is in the region."""
        return self.base <= address <= self.last

    def overlaps(self, other: Region) -> bool:
        """Return whether an address is in both."""
        return self.base <= other.last and other.base <= self.last


@dataclass(frozen=True, kw_only=True)
class AddressMap:
    """The addresses of a board.

    Parameters
    ----------
    family
        Of its processing system.
    die
        What the name of the part in its bitstreams contains.
    control
        The overlay's registers (`ciuic.abi.registers`), as the processors see them.
    interrupt_controller
        The registers of `CONTROLLER`, as the processors see them.
    memory
        The memory, as processors and overlay see it; the first region starts at zero.
    memory_ports
        How many ports for memory the processing system has; an overlay's port number *n* is
        connected to the *n*-th.
    """

    family: Family
    die: str
    control: Region
    interrupt_controller: Region
    memory: tuple[Region, ...]
    memory_ports: int = 4

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory."""
        return sum(region.span for region in self.memory)


ADDRESS_MAPS: dict[str, AddressMap] = {
    "pynq-z2": AddressMap(
        family="zynq-7000",
        die="7z020",
        control=Region(0x4000_0000, SPAN),
        interrupt_controller=Region(0x4180_0000, 0x1_0000),
        memory=(Region(0, 512 << 20),),  # DDR3; TUL PYNQ-Z2 reference manual v1.0, section 3.1
    ),
    "kv260": AddressMap(
        family="zynq-ultrascale+",
        die="xck26",
        control=Region(0xA000_0000, SPAN),
        interrupt_controller=Region(0xA001_0000, 0x1_0000),
        memory=(Region(0, 2 << 30), Region(0x8_0000_0000, 2 << 30)),  # DDR4; AMD UG1089, table 1
    ),
}
"""Name of a board, which is that of its configuration -> its addresses."""

BOARD_MEMORY_BYTES: dict[str, int] = {name: one.memory_bytes for name, one in ADDRESS_MAPS.items()}
"""Name of a board -> bytes of its memory."""
