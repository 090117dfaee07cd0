"""The overlay with AXI IDs, which cocotbext-axi wants and the overlay does without."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, In, Out, Signature, connect, flipped
from ciuic_hw.overlay import Overlay

from ciuic.abi import OverlayConfig

__all__ = ["IdentifiedOverlay"]

IDS = {"awid": Out(1), "bid": In(1), "arid": Out(1), "rid": In(1)}


class IdentifiedOverlay(Component):
    """An `Overlay` whose memory port has the IDs too; all are zero.

    Members
    -------
    control, memory, interrupt
        See `Overlay`.
    """

    def __init__(self, config: OverlayConfig) -> None:
        self._overlay = Overlay(config)
        memory = self._overlay.signature.members["memory"].signature
        super().__init__(
            {
                **self._overlay.signature.members,
                "memory": Out(Signature({**memory.members, **IDS})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Return the overlay and the wires to it."""
        m = Module()
        m.submodules.overlay = overlay = self._overlay
        connect(m, flipped(self.control), overlay.control)
        m.d.comb += self.interrupt.eq(overlay.interrupt)
        for name, member in overlay.memory.signature.members.items():
            inner, outer = getattr(overlay.memory, name), getattr(self.memory, name)
            m.d.comb += outer.eq(inner) if member.flow is Out else inner.eq(outer)
        return m
