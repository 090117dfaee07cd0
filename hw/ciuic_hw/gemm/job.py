"""One GEMM descriptor as the engine's units see it: sizes in blocks, and how rows are tiled."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE

from ..layouts import DESCRIPTOR_LAYOUT

__all__ = ["JobPlanner", "job_layout", "word_bytes"]


def word_bytes(config: OverlayConfig) -> int:
    """Return the bytes of one word of the activation scratchpad."""
    return max(config.rows, config.bus_bytes)


def scratchpad_words(config: OverlayConfig) -> int:
    """Return the words of one bank of the activation scratchpad."""
    return config.bank_words * config.rows // word_bytes(config)


def job_layout(config: OverlayConfig) -> data.StructLayout:
    """Return a job: the descriptor's fields and the loop bounds derived from them."""
    size_bits = MAX_SIZE.bit_length()
    k_bits = GEMM_MAX_K.bit_length()
    return data.StructLayout(
        {
            "a_addr": config.address_bits,
            "w_addr": config.address_bits,
            "o_addr": config.address_bits,
            "a_stride": 32,
            "o_stride": 32,
            "m": size_bits,
            "k": k_bits,
            "n": size_bits,
            "k_blocks": k_bits,  # tiles along K
            "n_blocks": size_bits,  # tiles along N
            "row_words": k_bits,  # scratchpad words of a row of A
            "tile_m": range(config.accumulator_rows + 1),  # rows of A in a scratchpad bank
            "sliced": 1,  # a single row is longer than a bank
            "bad": 1,  # sizes that the engine does not take
        }
    )


class JobPlanner(Component):
    """Turn descriptors into jobs and hand each job to every unit.

    A unit takes the job when it is done with its last, so that units may work on two neighbouring
    descriptors at a time; the next descriptor is taken when all units have this one.

    Parameters
    ----------
    config
        The overlay's configuration.
    units
        Names of the units; the last one also gets bad jobs, to report them in order.

    Members
    -------
    descriptor : In(stream)
        Descriptors.
    <unit> : Out(stream)
        Jobs.
    """

    def __init__(self, config: OverlayConfig, units: tuple[str, ...]):
        self.config = config
        self.units = units
        job = stream.Signature(job_layout(config))
        super().__init__(
            {
                "descriptor": In(stream.Signature(DESCRIPTOR_LAYOUT)),
                **{unit: Out(job) for unit in units},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        descriptor = self.descriptor.p
        job = Signal(job_layout(config))
        pending = Signal(len(self.units))
        words = scratchpad_words(config)

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptor.ready.eq(~pending.any())
                with m.If(self.descriptor.valid & ~pending.any()):
                    m.d.sync += [
                        getattr(job, name).eq(getattr(descriptor, name))
                        for name in (
                            "a_addr", "w_addr", "o_addr", "a_stride", "o_stride", "m", "k", "n",
                        )
                    ]  # fmt: skip
                    m.d.sync += job.bad.eq(
                        (descriptor.m == 0)
                        | (descriptor.k == 0)
                        | (descriptor.n == 0)
                        | (descriptor.m > MAX_SIZE)
                        | (descriptor.k > GEMM_MAX_K)
                        | (descriptor.n > MAX_SIZE)
                    )
                    m.next = "BLOCKS"
            with m.State("BLOCKS"):
                m.d.sync += [
                    job.k_blocks.eq((job.k + (config.rows - 1)) >> exact_log2(config.rows)),
                    job.n_blocks.eq((job.n + (config.cols - 1)) >> exact_log2(config.cols)),
                    job.row_words.eq(
                        (job.k + (word_bytes(config) - 1)) >> exact_log2(word_bytes(config))
                    ),
                ]
                m.next = "TILES"
            with m.State("TILES"):
                m.d.sync += [job.tile_m.eq(1), job.sliced.eq(job.row_words > words)]
                for log2 in range(1, ceil_log2(config.accumulator_rows) + 1):
                    with m.If(job.row_words << log2 <= words):
                        m.d.sync += job.tile_m.eq(1 << log2)
                reporter = 1 << len(self.units) - 1
                m.d.sync += pending.eq(Mux(job.bad, reporter, (1 << len(self.units)) - 1))
                m.next = "TAKE"

        for index, unit in enumerate(self.units):
            port = getattr(self, unit)
            m.d.comb += [port.p.eq(job), port.valid.eq(pending[index])]
            with m.If(port.valid & port.ready):
                m.d.sync += pending[index].eq(0)
        return m
