"""The register bank on the AXI4-Lite slave, elaborated from `ciuic.abi.registers`."""

from functools import reduce
from operator import or_

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import OverlayConfig
from ciuic.abi import registers as regs

from .axi.bus import Axi4Lite
from .streams import delay

__all__ = ["ControlRegisters"]

ADDRESS_BITS = regs.SPAN.bit_length() - 1
NEIGHBOURS = 8  # registers that are read together


class ControlRegisters(Component):
    """Registers that the host reads and writes.

    Parameters
    ----------
    config
        The overlay's configuration; its shape can be read by the host.
    build_hash
        Identity of the gateware's sources, 32 bits.

    Members
    -------
    bus : In(Axi4Lite)
        The slave. Reads and writes outside the map read as zero and change nothing.
    reset_request : Out(1)
        Strobe: the host asked for a soft reset.
    resetting : In(1)
        A soft reset is under way.
    clear : In(1)
        The soft reset takes place; ring and interrupt state stay at their start.
    enable, ring_base, completion_base, ring_log2, doorbell, watchdog : Out
        What the host set.
    busy, halted, code, completed : In
        State of the command processor.
    done, error : In(1)
        Strobes: what interrupts tell.
    counters : In
        One 64-bit value for each of `registers.COUNTERS`.
    interrupt : Out(1)
        Level.
    """

    def __init__(self, config: OverlayConfig, *, build_hash: int):
        self.config = config
        self.build_hash = build_hash
        super().__init__(
            {
                "bus": In(Axi4Lite(address_bits=ADDRESS_BITS)),
                "reset_request": Out(1),
                "resetting": In(1),
                "clear": In(1),
                "enable": Out(1),
                "ring_base": Out(64),
                "completion_base": Out(64),
                "ring_log2": Out(4),
                "doorbell": Out(32),
                "watchdog": Out(32),
                "busy": In(1),
                "halted": In(1),
                "code": In(8),
                "completed": In(32),
                "done": In(1),
                "error": In(1),
                **{f"count_{name}": In(64) for name in regs.COUNTERS},
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        interrupt_enable, interrupt_status = Signal(2), Signal(2)
        latched = Signal(32)  # the high half of the counter whose low half was read last
        fields = {f.name: f for f in regs.STATUS.fields}
        status = Signal(32)
        m.d.comb += [
            status[fields["busy"].low].eq(self.busy),
            status[fields["halted"].low].eq(self.halted),
            status[fields["resetting"].low].eq(self.resetting),
            status[fields["code"].low :][: fields["code"].width].eq(self.code),
        ]

        # Writes: address and data together, then the answer; the register is chosen meanwhile and
        # written in the next cycle.
        write = Signal()
        written = {register: Signal(name=f"w_{register.name}") for register in regs.REGISTERS}
        wdata = Signal.like(bus.wdata, reset_less=True)
        wstrb = Signal.like(bus.wstrb, reset_less=True)
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & ~bus.bvalid),
            bus.awready.eq(write),
            bus.wready.eq(write),
            bus.bresp.eq(0),
        ]
        m.d.sync += [
            bus.bvalid.eq(write | bus.bvalid & ~bus.bready),
            wdata.eq(bus.wdata),
            wstrb.eq(bus.wstrb),
        ]
        for register, strobe in written.items():
            m.d.sync += strobe.eq(write & (bus.awaddr[2:] == register.offset // 4))

        def set_on(register, target, high=False):
            """Return the statement that stores the written bytes of a register."""
            part = target[32:64] if high else target[:32]
            merged = Cat(
                Mux(wstrb[i], wdata.word_select(i, 8), part.word_select(i, 8)) for i in range(4)
            )
            with m.If(written[register]):
                m.d.sync += part.eq(merged)

        set_on(regs.RING_BASE_LO, self.ring_base)
        set_on(regs.RING_BASE_HI, self.ring_base, high=True)
        set_on(regs.COMPLETION_BASE_LO, self.completion_base)
        set_on(regs.COMPLETION_BASE_HI, self.completion_base, high=True)
        set_on(regs.DOORBELL, self.doorbell)
        set_on(regs.WATCHDOG, self.watchdog)
        control = {f.name: f for f in regs.CONTROL.fields}
        with m.If(written[regs.CONTROL] & wstrb[0]):
            m.d.sync += self.enable.eq(wdata[control["enable"].low])
            m.d.comb += self.reset_request.eq(wdata[control["reset"].low])
        with m.If(written[regs.RING_LOG2] & wstrb[0]):
            m.d.sync += self.ring_log2.eq(wdata[:4])
        with m.If(written[regs.INTERRUPT_ENABLE] & wstrb[0]):
            m.d.sync += interrupt_enable.eq(wdata[:2])
        cleared = Signal(2)
        with m.If(written[regs.INTERRUPT_STATUS] & wstrb[0]):
            m.d.comb += cleared.eq(wdata[:2])
        m.d.sync += interrupt_status.eq(interrupt_status & ~cleared | Cat(self.done, self.error))
        m.d.comb += self.interrupt.eq((interrupt_status & interrupt_enable).any())
        with m.If(self.clear):
            m.d.sync += [self.doorbell.eq(0), interrupt_status.eq(0)]

        # Reads: the register is chosen in one cycle, read in the next, with its neighbours in the
        # map, and the answer put together in the third.
        values = {
            regs.CONTROL: self.enable << control["enable"].low,
            regs.STATUS: status,
            regs.INTERRUPT_ENABLE: interrupt_enable,
            regs.INTERRUPT_STATUS: interrupt_status,
            regs.RING_BASE_LO: self.ring_base[:32],
            regs.RING_BASE_HI: self.ring_base[32:],
            regs.COMPLETION_BASE_LO: self.completion_base[:32],
            regs.COMPLETION_BASE_HI: self.completion_base[32:],
            regs.RING_LOG2: self.ring_log2,
            regs.DOORBELL: self.doorbell,
            regs.COMPLETED: self.completed,
            regs.WATCHDOG: self.watchdog,
            **regs.identity(self.config, self.build_hash),
        }
        for name in regs.COUNTERS:
            low, high = regs.counter(name)
            values[low] = getattr(self, f"count_{name}")[:32]
            values[high] = latched
        read, coming, reading, answering = Signal(), Signal(), Signal(), Signal()
        addr = delay(m, bus.araddr[2:], 1, reset_less=True)  # it comes from far
        m.d.comb += [
            read.eq(bus.arvalid & ~coming & ~reading & ~answering & ~bus.rvalid),
            bus.arready.eq(read),
            bus.rresp.eq(0),
        ]
        m.d.sync += [
            coming.eq(read),
            reading.eq(coming),
            answering.eq(reading),
            bus.rvalid.eq(answering | bus.rvalid & ~bus.rready),
        ]
        chosen = {register: Signal(name=f"r_{register.name}") for register in values}
        for register, one in chosen.items():
            m.d.sync += one.eq(addr == register.offset // 4)
        counting = {
            regs.counter(name)[0]: getattr(self, f"count_{name}")[32:] for name in regs.COUNTERS
        }
        with m.If(reading & Cat(chosen[register] for register in counting).any()):
            m.d.sync += latched.eq(_chosen(chosen, counting))
        registers, parts = list(values), []
        for start in range(0, len(registers), NEIGHBOURS):
            some = {one: values[one] for one in registers[start : start + NEIGHBOURS]}
            parts.append(delay(m, _chosen(chosen, some), 1, reset_less=True))
        with m.If(answering):
            m.d.sync += bus.rdata.eq(reduce(or_, parts))
        return m


def _chosen(chosen, values):
    """Return the value whose register is chosen, of 32 bits."""
    masked = [Mux(chosen[register], value, 0) for register, value in values.items()]
    return Cat(Cat(one[bit : bit + 1] for one in masked).any() for bit in range(32))
