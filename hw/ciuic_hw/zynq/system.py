"""The overlay for a Zynq-7000: as an IP for Vivado, and whole, with the processing system.

`Zynq7Overlay` has AXI3 memory ports and is what Vivado packages. `Zynq7System` also has the control
side, so that no vendor IP is needed. `Zynq7Top` is that with the processing system: a bitstream.
"""

from amaranth.hdl import *
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Component, Out, connect, flipped
from amaranth.utils import exact_log2

from ciuic.abi import AddressMap, OverlayConfig

from ..overlay import Overlay
from . import memory
from .axi3 import Axi3
from .control import ControlBridge
from .interrupts import InterruptController
from .ps7 import Ps7

__all__ = ["Zynq7Overlay", "Zynq7System", "Zynq7Top", "memory_name"]


def memory_name(port: int) -> str:
    """Return what the overlay calls a memory port."""
    return f"memory_{port}" if port else "memory"


class Zynq7Overlay(Component):
    """An `Overlay` with AXI3 memory ports.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    control, interrupt
        See `Overlay`.
    memory, memory_<port> : Out(Axi3)
        The memory ports.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self._overlay = Overlay(config)
        members = self._overlay.signature.members
        axi3 = Axi3(
            bus_bytes=config.bus_bytes, address_bits=config.address_bits, id_bits=memory.ID_BITS
        )
        super().__init__(
            {
                "control": members["control"],
                "interrupt": members["interrupt"],
                **{memory_name(port): Out(axi3) for port in range(config.ports)},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.overlay = overlay = self._overlay
        connect(m, flipped(self.control), overlay.control)
        m.d.comb += self.interrupt.eq(overlay.interrupt)
        for port in range(config.ports):
            name = memory_name(port)
            bridge = memory.Axi3Bridge(bus_bytes=config.bus_bytes, address_bits=config.address_bits)
            m.submodules[f"{name}_bridge"] = bridge
            connect(m, getattr(overlay, name), bridge.axi4)
            connect(m, bridge.axi3, flipped(getattr(self, name)))
        return m


class Zynq7System(Component):
    """All that is in the logic: the overlay, the bridges, the interrupt controller.

    Parameters
    ----------
    config
        What to build.
    addresses
        Where the processors find it.

    Members
    -------
    control : In(Axi3)
        The processors.
    memory, memory_<port> : Out(Axi3)
        The memory ports.
    interrupt : Out(1)
        Level, of the interrupt controller.
    """

    def __init__(self, config: OverlayConfig, addresses: AddressMap):
        self.config = config
        self.addresses = addresses
        self._overlay = Zynq7Overlay(config)
        self._bridge = ControlBridge(
            {"overlay": addresses.control, "interrupts": addresses.interrupt_controller}
        )
        members = self._overlay.signature.members
        super().__init__(
            {
                "control": self._bridge.signature.members["axi3"],
                "interrupt": Out(1),
                **{name: members[name] for name in map(memory_name, range(config.ports))},
            }
        )

    def elaborate(self, platform):
        m = Module()
        span = self.addresses.interrupt_controller.span
        m.submodules.overlay = overlay = self._overlay
        m.submodules.control = control = self._bridge
        m.submodules.interrupts = interrupts = InterruptController(address_bits=exact_log2(span))
        connect(m, flipped(self.control), control.axi3)
        connect(m, control.overlay, overlay.control)
        connect(m, control.interrupts, interrupts.bus)
        m.d.comb += [
            interrupts.interrupt.eq(overlay.interrupt),
            self.interrupt.eq(interrupts.irq),
        ]
        for port in range(self.config.ports):
            name = memory_name(port)
            connect(m, getattr(overlay, name), flipped(getattr(self, name)))
        return m


class Zynq7Top(Elaboratable):
    """A whole design, without pins: `Zynq7System` at the processing system.

    Parameters
    ----------
    config
        What to build; 64-bit memory ports.
    addresses
        Where the processors find it.
    """

    def __init__(self, config: OverlayConfig, addresses: AddressMap):
        self.config = config
        self.addresses = addresses

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.ps7 = ps7 = Ps7(ports=self.config.ports)
        m.submodules.system = system = Zynq7System(self.config, self.addresses)
        m.submodules.reset = ResetSynchronizer(~ps7.reset_n)
        m.d.comb += [ClockSignal().eq(ps7.clock), ps7.interrupts.eq(system.interrupt)]
        connect(m, ps7.control, system.control)
        for port in range(self.config.ports):
            connect(m, getattr(system, memory_name(port)), getattr(ps7, f"memory_{port}"))
        return m
