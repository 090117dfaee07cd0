"""The softmax engine: descriptors in, rows read, rows written."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import exact_log2

from ciuic.abi import Flag, Format, Status, numerics

from ..axi.ports import EngineSignature
from ..layouts import DESCRIPTOR_LAYOUT
from .datapath import SoftmaxDatapath
from .layouts import extent_layout
from .rows import RowLength, RowRequests

__all__ = ["SoftmaxEngine"]

SCORE_FORMATS = (Format.INT32, Format.INT16, Format.INT8)
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)


class SoftmaxEngine(wiring.Component):
    """Softmax over rows in memory, `ciuic.reference.softmax` bit for bit.

    Rows follow each other without idle cycles: while one is normalized, the next goes through
    exp and the one after it is read.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    descriptor, done, active, read, write
        As in `ciuic_hw.axi.ports.EngineSignature`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {name: Out(EngineSignature(config)) for name in ()}
            | dict(EngineSignature(config).members)
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.datapath = datapath = SoftmaxDatapath(self.config)
        return m
