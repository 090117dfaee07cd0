"""The clock of an ECP5 design, chosen when it is known how fast the design is.

Placement and routing do not depend on it: two dividers in the configuration of the routed design
are all that changes. CLKOP is fed back, so that its divider is what the crystal is multiplied with
(Lattice FPGA-TN-02200, sysCLOCK PLL); CLKOS drives the design.
"""

import re
from dataclasses import dataclass

from ciuic.errors import DeviceError

__all__ = ["Pll", "fastest", "with_pll"]

MOST_DIVIDED = 128
SLOWEST_HZ, FASTEST_HZ = 400_000_000, 800_000_000  # of the VCO: Lattice FPGA-DS-02012


@dataclass(frozen=True)
class Pll:
    """What a PLL makes of a crystal: ``multiplier`` times its frequency, over ``divisor``."""

    crystal_hz: int
    multiplier: int
    divisor: int

    @property
    def hz(self) -> float:
        """The clock in Hz."""
        return self.crystal_hz * self.multiplier / self.divisor


def fastest(crystal_hz: int, limit_hz: float) -> Pll:
    """Return the PLL with the fastest clock that is within a limit.

    Of several that make it, it is the one whose VCO is farthest from its own limits.

    Raises
    ------
    DeviceError
        If the slowest clock is too fast.
    """
    multipliers = range(-(-SLOWEST_HZ // crystal_hz), FASTEST_HZ // crystal_hz + 1)
    plls = (Pll(crystal_hz, up, down) for up in multipliers for down in range(1, MOST_DIVIDED + 1))
    middle = (SLOWEST_HZ + FASTEST_HZ) / 2
    best = max(
        (pll for pll in plls if pll.hz <= limit_hz),
        key=lambda pll: (pll.hz, -abs(crystal_hz * pll.multiplier - middle)),
        default=None,
    )
    if best is None:
        slowest = SLOWEST_HZ / MOST_DIVIDED / 1e6
        raise DeviceError(
            f"design must run at {slowest:g} MHz, the slowest clock of the PLL, "
            f"not {limit_hz / 1e6:g}"
        )
    return best


def with_pll(text: str, pll: Pll) -> str:
    """Return a configuration of Project Trellis with other dividers in its PLL.

    Raises
    ------
    DeviceError
        If there is not one PLL.
    """
    for word, value in (
        ("CLKOP_DIV", pll.multiplier - 1),
        ("CLKOP_CPHASE", pll.multiplier - 1),
        ("CLKOS_DIV", pll.divisor - 1),
    ):
        pattern = rf"^word: {word} [01]{{7}}$"
        text, count = re.subn(pattern, f"word: {word} {value:07b}", text, flags=re.MULTILINE)
        if count != 1:
            raise DeviceError(f"overlay.config must have one PLL, not {count}")
    return text
