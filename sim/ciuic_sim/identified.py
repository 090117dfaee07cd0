"""Designs with the AXI signals that cocotbext-axi wants, no more and no fewer.

The overlay does without identifiers; AXI3 has shorter lengths, and identifiers of beats to write.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, Signature, connect, flipped
from ciuic_hw.overlay import Overlay
from ciuic_hw.zynq.system import Zynq7System

from ciuic.abi import AddressMap, OverlayConfig

__all__ = ["IdentifiedOverlay", "Zynq7AsAxi4"]

IDS = {"awid": Out(1), "bid": In(1), "arid": Out(1), "rid": In(1)}
AXI4_WIDTHS = {"arlen": 8, "awlen": 8, "arlock": 1, "awlock": 1}


class IdentifiedOverlay(Component):
    """An `Overlay` whose memory ports have the IDs too; all are zero.

    Members
    -------
    control, memory, memory_<port>, interrupt
        See `Overlay`.
    """

    def __init__(self, config: OverlayConfig) -> None:
        self._overlay = Overlay(config)
        members = self._overlay.signature.members
        self._ports = [name for name in members if name.startswith("memory")]
        identified = {
            name: Out(Signature({**members[name].signature.members, **IDS})) for name in self._ports
        }
        super().__init__({**members, **identified})

    def elaborate(self, platform: Any) -> Module:
        """Return the overlay and the wires to it."""
        m = Module()
        m.submodules.overlay = overlay = self._overlay
        connect(m, flipped(self.control), overlay.control)
        m.d.comb += self.interrupt.eq(overlay.interrupt)
        for port in self._ports:
            inside, outside = getattr(overlay, port), getattr(self, port)
            for name, member in inside.signature.members.items():
                inner, outer = getattr(inside, name), getattr(outside, name)
                m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m


class Zynq7AsAxi4(Component):
    """A `Zynq7System` whose AXI3 ports have the widths of AXI4; their bursts stay those of AXI3.

    Members
    -------
    control, memory, memory_<port>, interrupt
        See `Zynq7System`.
    """

    def __init__(self, config: OverlayConfig, addresses: AddressMap) -> None:
        self._system = Zynq7System(config, addresses)
        members = {}
        for name, member in self._system.signature.members.items():
            if member.is_port:
                members[name] = member
                continue
            # The signature of a member that comes in is flipped already.
            members[name] = Out(
                Signature(
                    {
                        one: inner.flow(AXI4_WIDTHS.get(one, inner.shape))
                        for one, inner in member.signature.members.items()
                        if one != "wid"
                    }
                )
            )
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        """Return the system and the wires to it."""
        m = Module()
        m.submodules.system = system = self._system
        m.d.comb += self.interrupt.eq(system.interrupt)
        for port, member in self.signature.members.items():
            if member.is_port:
                continue
            for name, one in getattr(self, port).signature.members.items():
                inner, outer = (
                    getattr(getattr(system, port), name),
                    getattr(getattr(self, port), name),
                )
                m.d.comb += outer.eq(inner) if one.flow is Out else inner.eq(outer)
        return m
