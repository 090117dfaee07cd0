"""The overlay with memory and serial line, and the same as a whole ECP5 design with pins."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from ciuic.abi import OverlayConfig, serial

from ..control import ADDRESS_BITS
from ..overlay import Overlay
from .bridge import SerialBridge
from .crossing import Crossing
from .memory import OnChipMemory
from .uart import UartReceiver, UartTransmitter

__all__ = ["CLOCK_DIVISOR", "CRYSTAL_HZ", "VCO_HZ", "Ecp5System", "Ecp5Top"]

CRYSTAL_HZ = 25_000_000
# Until a build finds what the design is fast enough for (`ciuic_hw.build.pll`).
VCO_HZ = 600_000_000
CLOCK_DIVISOR = 8


class Ecp5System(Component):
    """All but pins and clocks.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    received : In(stream)
        Bytes from the host, see `ciuic.abi.serial`.
    sent : Out(stream)
        Bytes to it.
    interrupt : Out(1)
        See `Overlay`.

    Attributes
    ----------
    overlay
        The `Overlay`.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.overlay = Overlay(config)
        super().__init__(
            {
                "received": In(stream.Signature(8)),
                "sent": Out(stream.Signature(8)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bus = {"bus_bytes": config.bus_bytes, "address_bits": config.address_bits}
        m.submodules.overlay = overlay = self.overlay
        m.submodules.bridge = bridge = SerialBridge(register_bits=ADDRESS_BITS, **bus)
        m.submodules.memory = memory = OnChipMemory(
            nbytes=serial.MEMORY_BYTES, managers=1 + config.ports, **bus
        )
        connect(m, flipped(self.received), bridge.i)
        connect(m, bridge.o, flipped(self.sent))
        connect(m, bridge.registers, overlay.control)
        connect(m, bridge.memory, memory.port_0)
        connect(m, overlay.memory, memory.port_1)
        for port in range(1, config.ports):
            connect(m, getattr(overlay, f"memory_{port}"), getattr(memory, f"port_{port + 1}"))
        m.d.comb += self.interrupt.eq(overlay.interrupt)
        return m


class Ecp5Top(Component):
    """A whole design: `Ecp5System` with a PLL, and a serial line in the crystal's clock.

    The line is independent of the PLL, whose divisor is chosen when a design's speed is known.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    clk : In(1)
        Crystal, `CRYSTAL_HZ`.
    rx, tx : In(1), Out(1)
        The serial line.
    led : Out(1)
        The interrupt.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__({"clk": In(1), "rx": In(1), "tx": Out(1), "led": Out(1)})

    def elaborate(self, platform):
        m = Module()
        # Registers begin as the bitstream sets them: the clock stands until the PLL has locked.
        # A reset would have to reach all of them in a cycle.
        m.domains.sync = ClockDomain(reset_less=True)
        m.domains.line = ClockDomain(reset_less=True)
        self._clocks(m)
        divisor = CRYSTAL_HZ // serial.BAUD
        in_line = DomainRenamer("line")
        m.submodules.receiver = receiver = in_line(UartReceiver(divisor))
        m.submodules.transmitter = transmitter = in_line(UartTransmitter(divisor))
        m.submodules.received = received = Crossing(from_domain="line", to_domain="sync")
        m.submodules.sent = sent = Crossing(from_domain="sync", to_domain="line")
        m.submodules.system = system = Ecp5System(self.config)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            # A byte takes hundreds of cycles, so the last one is through.
            received.i.payload.eq(receiver.o.payload),
            received.i.valid.eq(receiver.o.valid),
            self.tx.eq(transmitter.tx),
            self.led.eq(system.interrupt),
        ]
        connect(m, received.o, system.received)
        connect(m, system.sent, sent.i)
        connect(m, sent.o, transmitter.i)
        return m

    def _clocks(self, m):
        """Let the PLL make the clock; pins and parameters of it and DCCA: Lattice FPGA-TN-02200."""
        feedback, locked, steady = Signal(), Signal(), Signal()
        clock, gated = Signal(name="pll_clock"), Signal(name="core_clock")
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=str(CRYSTAL_HZ / 1e6),
            # Loop filter and charge pump, as Project Trellis' ecppll sets them: zero does not lock.
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=1,
            p_CLKFB_DIV=1,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=VCO_HZ // CRYSTAL_HZ,
            p_CLKOP_CPHASE=VCO_HZ // CRYSTAL_HZ - 1,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_DIV=CLOCK_DIVISOR,
            p_CLKOS_CPHASE=0,
            i_CLKI=self.clk,
            i_CLKFB=feedback,
            o_CLKOP=feedback,
            o_CLKOS=clock,
            o_LOCK=locked,
            **{f"i_{pin}": Const(0) for pin in ("RST", "STDBY", "PHASESEL0", "PHASESEL1")},
            **{f"i_{pin}": Const(1) for pin in ("PHASEDIR", "PHASESTEP", "PHASELOADREG")},
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(0),
            i_ENCLKOS=Const(0),
        )
        m.domains.pll = ClockDomain(reset_less=True)
        m.submodules.steady = FFSynchronizer(locked, steady, o_domain="pll")
        m.submodules.gate = Instance("DCCA", i_CLKI=clock, i_CE=steady, o_CLKO=gated)
        m.d.comb += [
            ClockSignal().eq(gated),
            ClockSignal("pll").eq(clock),
            ClockSignal("line").eq(self.clk),
        ]
