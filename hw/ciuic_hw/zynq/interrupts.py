"""An interrupt controller that PYNQ knows: the registers of AMD's AXI INTC that it uses.

Source: AMD PG099, AXI Interrupt Controller, tables 2-3 to 2-13. For one level-sensitive input and
a level-sensitive output.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from ..axi.bus import Axi4Lite

__all__ = ["InterruptController"]

STATUS, PENDING, ENABLE, ACKNOWLEDGE = 0x00, 0x04, 0x08, 0x0C
SET_ENABLE, CLEAR_ENABLE, VECTOR, MASTER_ENABLE = 0x10, 0x14, 0x18, 0x1C
NO_VECTOR = 0xFFFF_FFFF


class InterruptController(Component):
    """Hold an interrupt until it is acknowledged; show it while it is enabled.

    Parameters
    ----------
    address_bits
        Width of an address in bits.

    Members
    -------
    bus : In(Axi4Lite)
        The registers. Others read as zero and change nothing.
    interrupt : In(1)
        Level.
    irq : Out(1)
        Level.
    """

    def __init__(self, *, address_bits: int):
        super().__init__(
            {
                "bus": In(Axi4Lite(address_bits=address_bits)),
                "interrupt": In(1),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        status, enable, master, hardware = Signal(), Signal(), Signal(), Signal()
        pending = status & enable
        m.d.comb += self.irq.eq(pending & master)

        write = Signal()
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            bus.awready.eq(write),
            bus.wready.eq(write),
        ]
        m.d.sync += bus.bvalid.eq(write | bus.bvalid & ~bus.bready)
        value = bus.wdata[:2]
        acknowledged = Signal()
        with m.If(write & bus.wstrb[0]):
            with m.Switch(bus.awaddr[2:]):
                with m.Case(STATUS >> 2):
                    with m.If(~hardware):  # software may play the hardware until that is enabled
                        m.d.sync += status.eq(value[0])
                with m.Case(ENABLE >> 2):
                    m.d.sync += enable.eq(value[0])
                with m.Case(ACKNOWLEDGE >> 2):
                    m.d.comb += acknowledged.eq(value[0])
                with m.Case(SET_ENABLE >> 2):
                    m.d.sync += enable.eq(enable | value[0])
                with m.Case(CLEAR_ENABLE >> 2):
                    m.d.sync += enable.eq(enable & ~value[0])
                with m.Case(MASTER_ENABLE >> 2):
                    m.d.sync += [master.eq(value[0]), hardware.eq(hardware | value[1])]
        with m.If(hardware & self.interrupt):
            m.d.sync += status.eq(1)
        with m.Elif(acknowledged):
            m.d.sync += status.eq(0)

        read = Signal()
        m.d.comb += [
            read.eq(bus.arvalid & (~bus.rvalid | bus.rready)),
            bus.arready.eq(read),
        ]
        m.d.sync += bus.rvalid.eq(read | bus.rvalid & ~bus.rready)
        with m.If(read):
            with m.Switch(bus.araddr[2:]):
                with m.Case(STATUS >> 2):
                    m.d.sync += bus.rdata.eq(status)
                with m.Case(PENDING >> 2):
                    m.d.sync += bus.rdata.eq(pending)
                with m.Case(ENABLE >> 2):
                    m.d.sync += bus.rdata.eq(enable)
                with m.Case(VECTOR >> 2):
                    m.d.sync += bus.rdata.eq(Mux(pending, 0, NO_VECTOR))
                with m.Case(MASTER_ENABLE >> 2):
                    m.d.sync += bus.rdata.eq(Cat(master, hardware))
                with m.Default():
                    m.d.sync += bus.rdata.eq(0)
        return m
