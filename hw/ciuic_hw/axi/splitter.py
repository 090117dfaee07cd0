"""Cuts a request into bursts that AXI allows."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from .bus import BOUNDARY_BYTES
from .ports import request_layout

__all__ = ["BurstSplitter", "burst_layout"]


def burst_layout(config: OverlayConfig) -> data.StructLayout:
    """Return one burst: address, beats, bytes in the last beat less one, last of its request."""
    return data.StructLayout(
        {
            "addr": config.address_bits,
            "beats": 9,
            "tail": exact_log2(config.bus_bytes),
            "last": 1,
        }
    )


class BurstSplitter(Component):
    """Cut requests into bursts of at most ``max_burst`` beats that stay within 4 KiB.

    Parameters
    ----------
    config
        The overlay's configuration.
    max_burst
        Longest burst in beats, at most 256.

    Members
    -------
    request : In(stream)
        See `ports`.
    burst : Out(stream)
        See `burst_layout`.

    Latency
    -------
    Two cycles from a request to its first burst, one burst a cycle, one cycle between requests.
    """

    def __init__(self, config: OverlayConfig, *, max_burst: int):
        self.config = config
        self.max_burst = max_burst
        super().__init__(
            {
                "request": In(stream.Signature(request_layout(config))),
                "burst": Out(stream.Signature(burst_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        shift = exact_log2(self.config.bus_bytes)
        page_beats = BOUNDARY_BYTES // self.config.bus_bytes

        addr = Signal(self.config.address_bits)
        beats_left = Signal(33 - shift)
        tail = Signal(shift)
        pending = Signal()

        to_boundary = Signal(range(page_beats + 1))
        allowed = Signal(range(self.max_burst + 1))
        beats = Signal(range(self.max_burst + 1))
        m.d.comb += [
            to_boundary.eq(page_beats - addr[shift : shift + exact_log2(page_beats)]),
            allowed.eq(Mux(to_boundary < self.max_burst, to_boundary, self.max_burst)),
            beats.eq(Mux(beats_left < allowed, beats_left, allowed)),
        ]

        burst = self.burst
        with m.If(~burst.valid | burst.ready):
            m.d.sync += [
                burst.valid.eq(pending),
                burst.p.addr.eq(addr),
                burst.p.beats.eq(beats),
                burst.p.tail.eq(tail),
                burst.p.last.eq(beats == beats_left),
            ]
            with m.If(pending):
                m.d.sync += [
                    addr.eq(addr + (beats << shift)),
                    beats_left.eq(beats_left - beats),
                    pending.eq(beats != beats_left),
                ]

        m.d.comb += self.request.ready.eq(~pending)
        with m.If(self.request.valid & ~pending):
            nbytes = self.request.p.nbytes
            m.d.sync += [
                addr.eq(self.request.p.addr),
                beats_left.eq((nbytes + (self.config.bus_bytes - 1)) >> shift),
                tail.eq(nbytes[:shift] - 1),
                pending.eq(1),
            ]
        return m
