"""The attention engine with the engines whose parts it borrows, as one component for benches."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, Out, connect, flipped
from ciuic_hw.attention.engine import AttentionEngine
from ciuic_hw.axi.ports import EngineSignature, ReadPort
from ciuic_hw.gemm.engine import GemmEngine
from ciuic_hw.softmax.engine import SoftmaxEngine

from ciuic.abi import OverlayConfig

__all__ = ["AttentionDut"]


class AttentionDut(Component):
    """An attention engine; the others have no descriptors of their own.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    descriptor, done, active, read, write, read_weights_<port>, read_parameters
        See `AttentionEngine`.
    """

    def __init__(self, config: OverlayConfig) -> None:
        self.config = config
        super().__init__(
            {
                **dict(EngineSignature(config).members),
                **{f"read_weights_{port}": Out(ReadPort(config)) for port in range(config.ports)},
                "read_parameters": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        """Join the engines."""
        m = Module()
        m.submodules.gemm = gemm = GemmEngine(self.config)
        m.submodules.softmax = softmax = SoftmaxEngine(self.config)
        m.submodules.attention = attention = AttentionEngine(self.config)
        connect(m, attention.array, gemm.borrower)
        connect(m, attention.lanes, softmax.borrower)
        for name in self.signature.members:
            if name != "active":
                connect(m, getattr(attention, name), flipped(getattr(self, name)))
        m.d.comb += self.active.eq(attention.active)
        return m
