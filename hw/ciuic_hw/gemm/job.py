"""One GEMM descriptor as the engine's units see it: sizes in blocks, and how rows are tiled."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import Flag, Format, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE
from ciuic.abi.numerics import W4_MAX_K

from ..jobs import hand_out
from ..layouts import DESCRIPTOR_LAYOUT

__all__ = ["JobPlanner", "job_layout", "result_lanes", "word_bytes"]


ADDRESSES = ("a_addr", "w_addr", "o_addr", "p_addr", "r_addr")
STRIDES = ("a_stride", "o_stride", "w_stride", "r_stride")


def word_bytes(config: OverlayConfig) -> int:
    """Return the bytes of one word of the activation scratchpad."""
    return max(config.rows, config.bus_bytes)


def scratchpad_words(config: OverlayConfig) -> int:
    """Return the words of one bank of the activation scratchpad."""
    return config.bank_words * config.rows // word_bytes(config)


def result_lanes(config: OverlayConfig) -> int:
    """Return the columns that the output stage takes in a cycle: a beat of INT32 results."""
    return config.bus_bytes // 4


def job_layout(config: OverlayConfig) -> data.StructLayout:
    """Return a job: the descriptor's fields and the loop bounds derived from them."""
    size_bits = MAX_SIZE.bit_length()
    k_bits = GEMM_MAX_K.bit_length()
    return data.StructLayout(
        {
            **dict.fromkeys(ADDRESSES, config.address_bits),
            **dict.fromkeys(STRIDES, 32),
            "m": size_bits,
            "k": k_bits,
            "n": size_bits,
            "k_blocks": k_bits,  # tiles along K
            "n_blocks": size_bits,  # tiles along N
            "row_words": k_bits,  # scratchpad words of a row of A
            "tile_m": range(config.accumulator_rows + 1),  # rows of A in a scratchpad bank
            "one_m": 1,  # a single tile along M
            "one_k": 1,  # and along K
            "near_k": 2,  # two tiles along K; three
            "one_n": 1,  # and along N
            "sliced": 1,  # a single row is longer than a bank
            "w4": 1,
            "parameters": 1,
            "residual": 1,
            "requantize": 1,
            "refused": 8,  # Status.PENDING, or why the engine does not take the descriptor
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
        Names of the units; the last one also gets refused jobs, to report them in order.

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

    def _refusal(self, m, job, descriptor):
        """Return why the engine does not take a descriptor whose job is known, or PENDING."""
        config = self.config
        bad_sizes, other_format = Signal(6), Signal()
        m.d.sync += [  # as the job's fields are narrower
            bad_sizes.eq(
                Cat(
                    descriptor.m == 0,
                    descriptor.k == 0,
                    descriptor.n == 0,
                    descriptor.m > MAX_SIZE,
                    descriptor.k > GEMM_MAX_K,
                    descriptor.n > MAX_SIZE,
                )
            ),
            other_format.eq(~descriptor.out_format.matches(Format.INT8, Format.INT32)),
        ]
        bad_format = (
            other_format
            | (job.requantize & ~job.parameters)
            | (job.w4 & (not config.w4))
            | (job.requantize & (not config.int8_results))
        )
        refused = Signal(8, init=Status.PENDING)
        with m.If(bad_sizes.any() | (job.w4 & (job.k > W4_MAX_K))):
            m.d.comb += refused.eq(Status.BAD_SIZE)
        with m.Elif(bad_format):
            m.d.comb += refused.eq(Status.BAD_FORMAT)
        return refused

    def elaborate(self, platform):
        m = Module()
        config = self.config
        descriptor = self.descriptor.p
        job = Signal(job_layout(config), reset_less=True)
        start = Signal()
        refusal = self._refusal(m, job, descriptor)
        handed = hand_out(m, [getattr(self, unit) for unit in self.units], job, start)
        words = scratchpad_words(config)
        # Whether 1, 2, 4 ... rows fit into a bank.
        fits = Signal(ceil_log2(config.accumulator_rows) + 1)

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptor.ready.eq(1)
                flags = descriptor.flags
                m.d.sync += [
                    *(
                        getattr(job, name).eq(getattr(descriptor, name))
                        for name in (*ADDRESSES, *STRIDES, "m", "k", "n")
                    ),
                    job.w4.eq((flags & Flag.W4) != 0),
                    job.parameters.eq((flags & Flag.PARAMETERS) != 0),
                    job.residual.eq((flags & Flag.RESIDUAL) != 0),
                    job.requantize.eq(descriptor.out_format == Format.INT8),
                ]
                with m.If(self.descriptor.valid):
                    m.next = "BLOCKS"
            with m.State("BLOCKS"):
                m.d.sync += [
                    job.refused.eq(refusal),
                    job.k_blocks.eq((job.k + (config.rows - 1)) >> exact_log2(config.rows)),
                    job.n_blocks.eq((job.n + (config.cols - 1)) >> exact_log2(config.cols)),
                    job.row_words.eq(
                        (job.k + (word_bytes(config) - 1)) >> exact_log2(word_bytes(config))
                    ),
                ]
                m.next = "FIT"
            with m.State("FIT"):
                m.d.sync += [
                    fits[log2].eq(job.row_words << log2 <= words) for log2 in range(len(fits))
                ]
                m.d.sync += [
                    job.one_k.eq(job.k_blocks == 1),
                    job.near_k.eq(Cat(job.k_blocks == 2, job.k_blocks == 3)),
                    job.one_n.eq(job.n_blocks == 1),
                ]
                m.next = "TILES"
            with m.State("TILES"):
                m.d.sync += [job.tile_m.eq(1), job.sliced.eq(~fits[0])]
                for log2 in range(1, len(fits)):
                    with m.If(fits[log2]):
                        m.d.sync += job.tile_m.eq(1 << log2)
                m.next = "LAST"
            with m.State("LAST"):
                m.d.sync += job.one_m.eq(job.m <= job.tile_m)
                m.d.comb += start.eq(1)
                m.next = "HAND"
            with m.State("HAND"):
                with m.If(handed):
                    m.next = "TAKE"
        return m
