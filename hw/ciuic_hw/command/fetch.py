"""Reads descriptors from the ring, one ahead of the one that waits for dispatch."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import DESCRIPTOR, OverlayConfig
from ciuic.abi.registers import RING_LOG2_MAX

from ..axi.ports import ReadPort
from ..layouts import DESCRIPTOR_LAYOUT

__all__ = ["FETCHED_LAYOUT", "Fetch", "ring_position"]

FETCHED_LAYOUT = data.StructLayout({"descriptor": DESCRIPTOR_LAYOUT, "cycle": 64, "error": 1})


def ring_position(index, log2):
    """Return the entry of a ring of ``1 << log2`` entries that an index falls on."""
    return index[:RING_LOG2_MAX] & ((1 << log2) - 1)[:RING_LOG2_MAX]


class Fetch(Component):
    """Read descriptors up to the doorbell.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    run : In(1)
        Fetch while set.
    base, log2, doorbell : In
        The ring.
    cycle : In(64)
        Cycle counter.
    read : Out(ReadPort)
        Memory.
    fetched : Out(stream)
        The descriptor, the cycle in which it had been read, and whether a read was refused.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "run": In(1),
                "base": In(64),
                "log2": In(4),
                "doorbell": In(32),
                "cycle": In(64),
                "read": Out(ReadPort(config)),
                "fetched": Out(stream.Signature(FETCHED_LAYOUT)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus_bits = self.config.bus_bytes * 8
        out, beat = self.fetched, self.read.data
        index = Signal(32)
        words = Signal(DESCRIPTOR.nbytes * 8, reset_less=True)
        fetched = Signal(FETCHED_LAYOUT, reset_less=True)
        failed = Signal()
        offset, addr = Signal(32), Signal(self.config.address_bits)
        ahead = Signal()  # descriptors are waiting in the ring
        m.d.sync += [
            offset.eq(ring_position(index, self.log2) << exact_log2(DESCRIPTOR.nbytes)),
            addr.eq(self.base + offset),
            ahead.eq(index != self.doorbell),
        ]

        m.d.comb += [beat.ready.eq(1), out.p.eq(fetched)]
        with m.If(beat.valid):
            m.d.sync += [
                words.eq(Cat(words[bus_bits:], beat.p.data)),
                failed.eq(failed | beat.p.error),
            ]
        with m.If(out.ready):
            m.d.sync += out.valid.eq(0)
        with m.FSM():
            with m.State("REQUEST"):
                m.d.comb += [
                    self.read.request.valid.eq(self.run & ahead),
                    self.read.request.p.addr.eq(addr),
                    self.read.request.p.nbytes.eq(DESCRIPTOR.nbytes),
                ]
                with m.If(self.read.request.valid & self.read.request.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                with m.If(beat.valid & beat.p.last):
                    m.next = "OFFER"
            with m.State("OFFER"):
                with m.If(~out.valid):
                    m.d.sync += [
                        out.valid.eq(1),
                        fetched.descriptor.eq(words),
                        fetched.cycle.eq(self.cycle),
                        fetched.error.eq(failed),
                        index.eq(index + 1),
                        failed.eq(0),
                    ]
                    m.next = "STEP"
            with m.State("STEP"):
                m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "REQUEST"
        return m
