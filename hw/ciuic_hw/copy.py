"""The copy engine: bytes from one place in memory to another."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component

from ciuic.abi import OverlayConfig, Status

from .arithmetic import count
from .axi.ports import EngineSignature
from .streams import delay

__all__ = ["CopyEngine"]


class CopyEngine(Component):
    """Run COPY and NOP descriptors; a NOP is a copy of no bytes.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    descriptor, done, active, read, write
        See `EngineSignature`.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(dict(EngineSignature(config).members))

    def elaborate(self, platform):
        m = Module()
        source = Signal(self.config.address_bits)
        target = Signal(self.config.address_bits)
        nbytes = Signal(32)
        idle = Signal()
        # Far from what it counts; there is time until the last write is acknowledged.
        busy = count(m, delay(m, self.active, 1), delay(m, idle, 1), 32, name="busy")
        failed_read, failed_write = Signal(), Signal()
        read, write = self.read, self.write

        m.d.comb += [
            read.request.p.addr.eq(source),
            read.request.p.nbytes.eq(nbytes),
            write.request.p.addr.eq(target),
            write.request.p.nbytes.eq(nbytes),
            write.data.p.eq(read.data.p.data),
            write.data.valid.eq(read.data.valid),
            read.data.ready.eq(write.data.ready),
            self.active.eq(read.data.valid & read.data.ready),
        ]
        with m.If(self.active):
            m.d.sync += failed_read.eq(failed_read | read.data.p.error)
        with m.If(write.error):
            m.d.sync += failed_write.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.descriptor.ready.eq(1), idle.eq(1)]
                m.d.sync += [
                    source.eq(self.descriptor.p.a_addr),
                    target.eq(self.descriptor.p.o_addr),
                    nbytes.eq(self.descriptor.p.n),
                    failed_read.eq(0),
                    failed_write.eq(0),
                ]
                with m.If(self.descriptor.valid):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.next = "READ"
                with m.If(nbytes == 0):
                    m.next = "REPORT"
            with m.State("READ"):
                m.d.comb += read.request.valid.eq(1)
                with m.If(read.request.ready):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += write.request.valid.eq(1)
                with m.If(write.request.ready):
                    m.next = "MOVE"
            with m.State("MOVE"):
                with m.If(~write.busy):
                    m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += [
                    self.done.valid.eq(1),
                    self.done.p.busy.eq(busy),
                    self.done.p.status.eq(
                        Mux(
                            failed_read,
                            Status.READ_ERROR,
                            Mux(failed_write, Status.WRITE_ERROR, Status.OK),
                        )
                    ),
                ]
                with m.If(self.done.ready):
                    m.next = "IDLE"
        return m
