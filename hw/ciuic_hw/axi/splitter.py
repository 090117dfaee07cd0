"""Cuts a request into bursts that AXI allows."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import less
from .bus import BOUNDARY_BYTES, MAX_BURST_BEATS
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
        Longest burst in beats, a power of two of at most 256.

    Members
    -------
    request : In(stream)
        See `ports`.
    burst : Out(stream)
        See `burst_layout`.

    Latency
    -------
    Four cycles from a request to its first burst, three from burst to burst.
    """

    def __init__(self, config: OverlayConfig, *, max_burst: int):
        if max_burst & (max_burst - 1) or not 1 <= max_burst <= MAX_BURST_BEATS:
            raise ValueError(
                f"max_burst must be a power of two of at most {MAX_BURST_BEATS}, not {max_burst!r}"
            )
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

        addr = Signal(self.config.address_bits, reset_less=True)
        bytes_left = Signal(32, reset_less=True)
        tail = Signal(shift, reset_less=True)
        allowed = Signal(range(self.max_burst + 1))  # by boundary and length
        final = Signal()  # the request ends before that
        rest = Signal(range(self.max_burst + 1))  # its beats then
        next_addr, next_left = Signal.like(addr), Signal.like(bytes_left)  # behind the burst
        # In the last part of a page that a burst can fill, the boundary is nearer than its length.
        beat = addr[shift : shift + exact_log2(page_beats)]
        inside = exact_log2(self.max_burst)
        m.d.sync += [
            allowed.eq(self.max_burst - Mux(beat[inside:].all(), beat[:inside], 0)),
            next_addr.eq(addr + (allowed << shift)),
            next_left.eq(bytes_left - (allowed << shift)),
            final.eq(~less(allowed << shift, bytes_left)),
            rest.eq((bytes_left[: len(rest) + shift] + (self.config.bus_bytes - 1)) >> shift),
        ]

        burst = self.burst
        offered = Signal(burst_layout(self.config), reset_less=True)
        m.d.comb += burst.p.eq(offered)
        with m.If(burst.ready):
            m.d.sync += burst.valid.eq(0)
        with m.FSM():  # a state for each step of the arithmetic
            with m.State("TAKE"):
                m.d.comb += self.request.ready.eq(1)
                nbytes = self.request.p.nbytes
                m.d.sync += [addr.eq(self.request.p.addr), bytes_left.eq(nbytes)]
                m.d.sync += tail.eq(nbytes[:shift] - 1)
                with m.If(self.request.valid):
                    m.next = "ALLOW"
            with m.State("ALLOW"):
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "OFFER"
            with m.State("OFFER"):
                with m.If(~burst.valid):
                    m.d.sync += [
                        burst.valid.eq(1),
                        offered.addr.eq(addr),
                        offered.beats.eq(Mux(final, rest, allowed)),
                        offered.tail.eq(tail),
                        offered.last.eq(final),
                        addr.eq(next_addr),
                        bytes_left.eq(next_left),
                    ]
                    m.next = "ALLOW"
                    with m.If(final):
                        m.next = "TAKE"
        return m
