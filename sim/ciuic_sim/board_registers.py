"""Registers of a board round the overlay: interrupt controller and processing system.

Sources: AMD PG099 (AXI INTC 4.1), register space; AMD UG585, B.28 (slcr); AMD UG1087 (CRL_APB,
CRF_APB, AFIFM, FPD_SLCR, LPD_SLCR).
"""

from __future__ import annotations

from ciuic.abi import Region
from ciuic.abi.boards import Family

ISR, IPR, IER, IAR, SIE, CIE, IVR, MER = range(0, 0x20, 4)
MASTER_ENABLE, HARDWARE_ENABLE = 1, 2
NO_VECTOR = 0xFFFF_FFFF


class InterruptController:
    """An AXI INTC with one input and one output, both levels."""

    def __init__(self) -> None:
        self.input = False
        self._status = self._enabled = self._master = 0

    @property
    def output(self) -> bool:
        """Whether it interrupts the processors."""
        both = MASTER_ENABLE | HARDWARE_ENABLE
        return self._master & both == both and bool(self._latch() & self._enabled)

    def read(self, offset: int) -> int:
        """Return a register."""
        pending = self._latch() & self._enabled
        vector = 0 if pending else NO_VECTOR
        values = {ISR: self._status, IPR: pending, IER: self._enabled, MER: self._master}
        return vector if offset == IVR else values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self._latch()
        if offset == IER:
            self._enabled = value & 1
        elif offset == SIE:
            self._enabled |= value & 1
        elif offset == CIE:
            self._enabled &= ~value
        elif offset == IAR:
            self._status &= ~value
        elif offset == MER:
            self._master = value & (MASTER_ENABLE | HARDWARE_ENABLE)

    def _latch(self) -> int:
        # A level is remembered until it is acknowledged, and again while it lasts.
        self._status |= int(self.input)
        return self._status


class StoredRegisters:
    """Registers that keep what is written to them.

    Parameters
    ----------
    values
        Address -> value after start-up; the others are zero.
    """

    def __init__(self, values: dict[int, int]) -> None:
        self._values = dict(values)

    def read(self, address: int) -> int:
        """Return the register at an address."""
        return self._values.get(address, 0)

    def write(self, address: int, value: int) -> None:
        """Write the register at an address."""
        self._values[address] = value


SLCR, CRL_APB, CRF_APB = 0xF800_0000, 0xFF5E_0000, 0xFD1A_0000
FPD_SLCR_WIDTHS, LPD_SLCR_WIDTHS = 0xFD61_5000, 0xFF41_9000
AFIFM = (*range(0xFD36_0000, 0xFD3C_0000, 0x1_0000), 0xFF9B_0000)

# Where a processing system has registers that PYNQ uses, and what they hold once it has started:
# PLLs that multiply 50 MHz (Zynq-7000) and 33.333 MHz, clocks for the logic of 10 and 25 MHz.
PROCESSING_SYSTEMS: dict[Family, tuple[tuple[Region, ...], dict[int, int]]] = {
    "zynq-7000": (
        (Region(SLCR, 0x1000),),
        {
            SLCR + 0x100: 26 << 12,  # ARM_PLL_CTRL: 1300 MHz
            SLCR + 0x104: 21 << 12,  # DDR_PLL_CTRL: 1050 MHz
            SLCR + 0x108: 20 << 12,  # IO_PLL_CTRL: 1000 MHz
            SLCR + 0x120: 2 << 8,  # ARM_CLK_CTRL: 650 MHz
            **{SLCR + 0x170 + 0x10 * index: 10 << 20 | 10 << 8 for index in range(4)},
        },
    ),
    "zynq-ultrascale+": (
        tuple(
            Region(base, 0x1000)
            for base in (CRL_APB, CRF_APB, FPD_SLCR_WIDTHS, LPD_SLCR_WIDTHS, *AFIFM)
        ),
        {
            CRL_APB + 0x20: 60 << 8 | 1 << 16,  # IOPLL_CTRL: 33.333 MHz * 60 / 2
            CRL_APB + 0x30: 64 << 8 | 1 << 16,  # RPLL_CTRL
            CRF_APB + 0x20: 72 << 8 | 1 << 16,  # APLL_CTRL
            CRF_APB + 0x2C: 64 << 8 | 1 << 16,  # DPLL_CTRL
            CRF_APB + 0x38: 90 << 8 | 1 << 16,  # VPLL_CTRL
            CRF_APB + 0x60: 1 << 8,  # ACPU_CTRL
            **{CRL_APB + 0xC0 + 4 * index: 1 << 24 | 4 << 16 | 10 << 8 for index in range(4)},
        },
    ),
}
