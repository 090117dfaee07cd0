"""The processing systems of Zynq-7000 and Zynq UltraScale+, as the tools name their parts.

Sources of the names: `hw/boards/names.tsv`. Of the clocks: AMD UG585, section 25.10 (an FCLK is the
IO PLL divided twice, by 1 to 63 each), AMD UG1085, table 37-1 (the same for the PL clocks).
"""

from __future__ import annotations

from dataclasses import dataclass

from ciuic.abi import AddressMap, OverlayConfig
from ciuic.abi.boards import Family
from ciuic.errors import UsageError

__all__ = ["PROCESSING_SYSTEMS", "PlClock", "ProcessingSystem", "check_fits"]

DIVISORS = range(1, 64)
PL_CLOCKS = 4
FIRST_HP = 2  # S_AXI_HP0_FPD is the third general-purpose slave of an UltraScale+


@dataclass(frozen=True)
class PlClock:
    """A clock of the programmable logic.

    Parameters
    ----------
    divisors
        By which the PLL is divided, one after the other.
    hz
        What that gives, in Hz.
    """

    divisors: tuple[int, int]
    hz: float


@dataclass(frozen=True, kw_only=True)
class ProcessingSystem:
    """A kind of processing system.

    Parameters
    ----------
    kind, version
        Of the vendor's block: ``xilinx.com:ip:KIND:VERSION``.
    control
        The master interface for registers.
    memory
        The slave interfaces for memory.
    segments
        The address segments of a board's memory regions, of the port with number ``{port}``;
        ``{gp}`` is that port's number among all general-purpose ones.
    unused
        Segments behind the same port that are no memory, named alike.
    control_clock, memory_clock
        Pins: the clocks of the interfaces, ``{port}`` as above.
    clock, reset, interrupt
        Pins: the clock and the reset (low) of the logic, an interrupt of the processors.
    pll_hz
        Frequency of the PLL that clocks are divided from, in Hz, on the board that has the system:
        base.tcl of PYNQ for PYNQ-Z2 (a crystal of 50 MHz) and of Kria-PYNQ for KV260.
    bus_bytes
        The widest memory port, in bytes.
    axi3
        Whether its ports are AXI3, whose bursts are 16 beats at most.
    """

    kind: str
    version: str
    control: str
    memory: tuple[str, ...]
    segments: tuple[str, ...]
    unused: tuple[str, ...]
    control_clock: str
    memory_clock: str
    clock: str
    reset: str
    interrupt: str
    pll_hz: float
    bus_bytes: int
    axi3: bool

    @property
    def vlnv(self) -> str:
        """The vendor's name of the block."""
        return f"xilinx.com:ip:{self.kind}:{self.version}"

    @property
    def instance(self) -> str:
        """The block in the design."""
        return f"{self.kind}_0"

    def memory_segments(self, port: int) -> tuple[str, ...]:
        """Return the segments behind a memory port, one a region of the board's memory."""
        return tuple(one.format(port=port, gp=port + FIRST_HP) for one in self.segments)

    def unused_segments(self, port: int) -> tuple[str, ...]:
        """Return the segments behind a memory port that the overlay has nothing to do with."""
        return tuple(one.format(port=port, gp=port + FIRST_HP) for one in self.unused)

    def pl_clock(self, wanted_hz: float) -> PlClock:
        """Return the fastest clock that is not faster than wanted, of equals the first."""
        pairs = [(one, two) for one in DIVISORS for two in DIVISORS]
        slow = [pair for pair in pairs if self._hz(pair) <= wanted_hz * (1 + 1e-6)]
        divisors = max(slow, key=self._hz, default=(DIVISORS[-1], DIVISORS[-1]))
        return PlClock(divisors, self._hz(divisors))

    def _hz(self, divisors: tuple[int, int]) -> float:
        return self.pll_hz / (divisors[0] * divisors[1])

    def parameters(self, config: OverlayConfig) -> dict[str, str]:
        """Return what the block is configured with for an overlay: CONFIG name -> value."""
        megahertz = f"{config.clock_hz / 1e6:g}"
        if self.kind == "processing_system7":
            found = {
                "PCW_CRYSTAL_PERIPHERAL_FREQMHZ": "50",  # the board's; the IO PLL is 20 times it
                "PCW_USE_M_AXI_GP0": "1",
                "PCW_USE_FABRIC_INTERRUPT": "1",
                "PCW_IRQ_F2P_INTR": "1",
                "PCW_FPGA0_PERIPHERAL_FREQMHZ": megahertz,
            }
            for port in range(config.ports):
                found[f"PCW_USE_S_AXI_HP{port}"] = "1"
                found[f"PCW_S_AXI_HP{port}_DATA_WIDTH"] = str(config.bus_bytes * 8)
            for index in range(PL_CLOCKS):
                found[f"PCW_FPGA_FCLK{index}_ENABLE"] = str(int(index == 0))
            return found
        found = {
            "PSU__USE__M_AXI_GP0": "1",
            "PSU__MAXIGP0__DATA_WIDTH": "32",
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            "PSU__USE__IRQ0": "1",
            "PSU__HIGH_ADDRESS__ENABLE": "1",
            "PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL",  # what PYNQ divides from
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": megahertz,
        }
        for port in range(config.ports):
            found[f"PSU__USE__S_AXI_GP{port + FIRST_HP}"] = "1"
            found[f"PSU__SAXIGP{port + FIRST_HP}__DATA_WIDTH"] = str(config.bus_bytes * 8)
        for index in range(PL_CLOCKS):
            found[f"PSU__FPGA_PL{index}_ENABLE"] = str(int(index == 0))
        return found

    def achieved(self, config: OverlayConfig) -> dict[str, str]:
        """Return the parameters that the tool finds for an overlay, of those that PYNQ reads."""
        clock = self.pl_clock(config.clock_hz)
        found = {}
        for index in range(PL_CLOCKS):
            one, two = map(str, clock.divisors if index == 0 else (1, 1))
            megahertz = f"{(clock.hz if index == 0 else 10e6) / 1e6:.6f}"
            if self.kind == "processing_system7":
                found |= {
                    f"PCW_FCLK{index}_PERIPHERAL_DIVISOR0": one,
                    f"PCW_FCLK{index}_PERIPHERAL_DIVISOR1": two,
                    f"PCW_FCLK{index}_PERIPHERAL_CLKSRC": "IO PLL",
                    f"PCW_ACT_FPGA{index}_PERIPHERAL_FREQMHZ": megahertz,
                }
            else:
                found |= {
                    f"PSU__CRL_APB__PL{index}_REF_CTRL__DIVISOR0": one,
                    f"PSU__CRL_APB__PL{index}_REF_CTRL__DIVISOR1": two,
                    f"PSU__CRL_APB__PL{index}_REF_CTRL__SRCSEL": "IOPLL",
                    f"PSU__CRL_APB__PL{index}_REF_CTRL__ACT_FREQMHZ": megahertz,
                }
        if self.kind == "zynq_ultra_ps_e":
            found["C_MAXIGP0_DATA_WIDTH"] = "32"
            for port in range(config.ports):
                found[f"C_SAXIGP{port + FIRST_HP}_DATA_WIDTH"] = str(config.bus_bytes * 8)
        return found


PROCESSING_SYSTEMS: dict[Family, ProcessingSystem] = {
    "zynq-7000": ProcessingSystem(
        kind="processing_system7",
        version="5.5",
        control="M_AXI_GP0",
        memory=tuple(f"S_AXI_HP{port}" for port in range(4)),
        segments=("S_AXI_HP{port}/HP{port}_DDR_LOWOCM",),
        unused=(),
        control_clock="M_AXI_GP0_ACLK",
        memory_clock="S_AXI_HP{port}_ACLK",
        clock="FCLK_CLK0",
        reset="FCLK_RESET0_N",
        interrupt="IRQ_F2P",
        pll_hz=1000e6,
        bus_bytes=8,
        axi3=True,
    ),
    "zynq-ultrascale+": ProcessingSystem(
        kind="zynq_ultra_ps_e",
        version="3.5",
        control="M_AXI_HPM0_FPD",
        memory=tuple(f"S_AXI_HP{port}_FPD" for port in range(4)),
        segments=("SAXIGP{gp}/HP{port}_DDR_LOW", "SAXIGP{gp}/HP{port}_DDR_HIGH"),
        unused=("SAXIGP{gp}/HP{port}_LPS_OCM", "SAXIGP{gp}/HP{port}_QSPI"),
        control_clock="maxihpm0_fpd_aclk",
        memory_clock="saxihp{port}_fpd_aclk",
        clock="pl_clk0",
        reset="pl_resetn0",
        interrupt="pl_ps_irq0",
        pll_hz=999.99e6,
        bus_bytes=16,
        axi3=False,
    ),
}


def check_fits(addresses: AddressMap, config: OverlayConfig) -> ProcessingSystem:
    """Return the processing system that a configuration is connected to.

    Raises
    ------
    UsageError
        If its memory ports are not those that the processing system has, or do not reach the
        memory.
    """
    system = PROCESSING_SYSTEMS[addresses.family]
    if config.ports > len(system.memory):
        raise UsageError(
            f"{config.name}: ports must be at most {len(system.memory)}, not {config.ports}"
        )
    if config.bus_bytes > system.bus_bytes:
        raise UsageError(
            f"{config.name}: bus_bytes must be at most {system.bus_bytes}, not {config.bus_bytes}"
        )
    last = max(region.last for region in addresses.memory)
    if last >> config.address_bits:
        raise UsageError(
            f"{config.name}: address_bits must be at least {last.bit_length()} to reach the "
            f"memory, not {config.address_bits}"
        )
    return system
