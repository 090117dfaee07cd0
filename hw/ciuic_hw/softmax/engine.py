"""The softmax engine: descriptors in, rows read, rows written."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ciuic.abi import OverlayConfig

from ..attention.ports import LanesPort
from ..axi.ports import EngineSignature, ReadPort
from ..streams import SkidBuffer, StreamRegister
from .datapath import SoftmaxDatapath
from .layouts import result_beat_layout, write_job_layout
from .reader import RowReader
from .writer import RowWriter

__all__ = ["SoftmaxEngine"]


class SoftmaxEngine(wiring.Component):
    """Softmax over rows in memory, `ciuic.reference.softmax` bit for bit.

    Rows follow each other without idle cycles, those of the next descriptor too: while one is
    normalized, the next goes through exp and the one after it is read. Only valid elements are
    read.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    descriptor, done, active, read, write
        As in `ciuic_hw.axi.ports.EngineSignature`; ``read`` carries scores.
    read_lengths : Out(ReadPort)
        Lengths of rows.
    borrower : In(LanesPort)
        With ``config.attention``: the lanes for the attention engine.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                **dict(EngineSignature(config).members),
                "read_lengths": Out(ReadPort(config)),
                **({"borrower": In(LanesPort(config))} if config.attention else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = RowReader(self.config)
        m.submodules.datapath = datapath = SoftmaxDatapath(self.config)
        m.submodules.writer = writer = RowWriter(self.config)
        wiring.connect(m, wiring.flipped(self.descriptor), reader.descriptor)
        wiring.connect(m, reader.request, wiring.flipped(self.read.request))
        wiring.connect(m, reader.lengths, wiring.flipped(self.read_lengths))
        wiring.connect(m, wiring.flipped(self.read.data), datapath.i)
        wiring.connect(m, reader.score_bytes, datapath.score_bytes)
        wiring.connect(m, reader.row, datapath.row)
        # Many bits of the jobs that wait are written at once.
        m.submodules.jobs = jobs = StreamRegister(write_job_layout(self.config))
        wiring.connect(m, reader.job, jobs.i)
        wiring.connect(m, jobs.o, writer.job)
        # The way back from memory's `ready` to the lanes' results is long.
        m.submodules.results = results = SkidBuffer(result_beat_layout(self.config))
        wiring.connect(m, datapath.o, results.i)
        wiring.connect(m, results.o, writer.i)
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        wiring.connect(m, writer.done, wiring.flipped(self.done))
        if self.config.attention:
            wiring.connect(m, wiring.flipped(self.borrower), datapath.borrower)
        m.d.comb += [
            writer.row_begin.eq(datapath.row_begin),
            self.active.eq(datapath.active),
        ]
        return m
