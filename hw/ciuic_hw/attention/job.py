"""One attention descriptor as the engine's units see it, and the order of its phases."""

import itertools

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import Format, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K

from ..gemm.job import ADDRESSES, STRIDES, scratchpad_words
from ..jobs import hand_out
from ..layouts import DESCRIPTOR_LAYOUT
from ..streams import delay

__all__ = ["AttentionPlanner", "PhaseWalk", "attention_layout"]


def attention_layout(config: OverlayConfig) -> data.StructLayout:
    """Return a job: the descriptor's fields and the loop bounds derived from them."""
    size = GEMM_MAX_K.bit_length()
    return data.StructLayout(
        {
            **dict.fromkeys(ADDRESSES, config.address_bits),
            **dict.fromkeys(STRIDES, 32),
            "m": range(config.accumulator_rows + 1),  # queries
            "k": size,  # elements of a query
            "n": size,  # keys
            "d_v": size,  # elements of a value
            "query_tiles": size,  # tiles along k
            "value_blocks": size,  # blocks of columns along d_v
            "key_blocks": size,  # blocks of keys
            "refused": 8,  # Status.PENDING, or why the engine does not take the descriptor
        }
    )


class AttentionPlanner(Component):
    """Turn descriptors into jobs and hand each job to every unit.

    As in `ciuic_hw.gemm.job.JobPlanner`, units may work on two neighbouring descriptors at a time,
    and the last one also gets refused jobs, to report them in order.

    Parameters
    ----------
    config
        The overlay's configuration.
    units
        Names of the units.

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
        job = stream.Signature(attention_layout(config))
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
        job = Signal(attention_layout(config), reset_less=True)
        start = Signal()
        handed = hand_out(m, [getattr(self, unit) for unit in self.units], job, start)
        wrong = Signal(2 * 4)  # sizes that are zero, or too large
        beyond = Signal(4)  # what does not fit into a bank, known a cycle late
        bad_size, bad_format = Signal(), Signal()
        words = scratchpad_words(config)
        rows_log2, cols_log2 = exact_log2(config.rows), exact_log2(config.cols)
        query_words = Signal(range(words * config.accumulator_rows + 1))
        value_words = Signal(range(config.attention_rows * config.accumulator_rows + 1))
        waited = Signal(range(_product_latency(job.m) + 1))
        m.d.comb += [
            query_words.eq(_product(m, job.m, job.query_tiles[: len(query_words)])),
            value_words.eq(_product(m, job.m, job.value_blocks[: len(value_words)])),
        ]
        sizes = ("k", "n", "d_v")
        bounds = (
            *((job.query_tiles, words), (query_words, words)),
            *((value, config.attention_rows) for value in (job.value_blocks, value_words)),
        )
        # Sizes are looked at where they are: descriptors come from far.
        limits = {"m": config.accumulator_rows, **dict.fromkeys(sizes, GEMM_MAX_K)}
        came = {name: Signal.like(getattr(descriptor, name), reset_less=True) for name in limits}
        m.d.sync += [
            beyond.eq(Cat(value > bound for value, bound in bounds)),
            wrong.eq(Cat(Cat(came[name] == 0, came[name] > limits[name]) for name in limits)),
            bad_size.eq(wrong.any()),
        ]

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptor.ready.eq(1)
                m.d.sync += [
                    *(one.eq(getattr(descriptor, name)) for name, one in came.items()),
                    *(
                        getattr(job, name).eq(getattr(descriptor, name))
                        for name in (*ADDRESSES, *STRIDES, "m", *sizes)
                    ),
                    bad_format.eq(descriptor.out_format != Format.INT16),
                ]
                with m.If(self.descriptor.valid):
                    m.next = "BLOCKS"
            with m.State("BLOCKS"):
                m.d.sync += [
                    job.query_tiles.eq((job.k + (config.rows - 1)) >> rows_log2),
                    job.value_blocks.eq((job.d_v + (config.cols - 1)) >> cols_log2),
                    job.key_blocks.eq((job.n + (config.cols - 1)) >> cols_log2),
                ]
                m.next = "LIMIT"
            with m.State("LIMIT"):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == _product_latency(job.m)):
                    m.d.sync += waited.eq(0)
                    m.next = "FIT"
            with m.State("FIT"):
                with m.If(bad_size | beyond.any()):
                    m.d.sync += job.refused.eq(Status.BAD_SIZE)
                with m.Elif(bad_format):
                    m.d.sync += job.refused.eq(Status.BAD_FORMAT)
                with m.Else():
                    m.d.sync += job.refused.eq(Status.PENDING)
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += start.eq(1)
                m.next = "HAND"
            with m.State("HAND"):
                with m.If(handed):
                    m.next = "TAKE"
        return m


def _product(m, few, many):
    """Return a product, `_product_latency` cycles later.

    It is a sum of shifted terms: multipliers are for what runs every cycle.
    """
    terms = [
        delay(m, Mux(bit, many << place, 0), 1, reset_less=True) for place, bit in enumerate(few)
    ]
    while len(terms) > 1:
        pairs = itertools.zip_longest(terms[::2], terms[1::2], fillvalue=C(0, 1))
        terms = [delay(m, one + other, 1, reset_less=True) for one, other in pairs]
    return terms[0]


def _product_latency(few):
    return 1 + ceil_log2(len(few))


class PhaseWalk(Component):
    """The order in which a job's blocks of keys go through the array.

    The scores of a block of keys are computed one phase ahead of the values of the block before it,
    so that its exponentials are there when they are needed: S0 S1 V0 S2 V1 ... V(n-2) V(n-1).

    Members
    -------
    start, key_blocks : In(1), In
        Begin a job.
    step : In(1)
        Go on to the next phase: in the third cycle behind ``start`` or the last step, or later.
    ready : Out(1)
        The members below hold for the phase in the next cycle; low for a cycle behind ``start`` and
        ``step``.
    values : Out(1)
        The phase is one of values, not of scores.
    first, last_scores, last : Out(1)
        First phase of its kind; last phase of scores; last phase of the job.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "key_blocks": In(GEMM_MAX_K.bit_length()),
                "step": In(1),
                "ready": Out(1),
                "values": Out(1),
                "first": Out(1),
                "last_scores": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        scores_left, values_left = Signal.like(self.key_blocks), Signal.like(self.key_blocks)
        fresh = Signal(2)  # no phase of scores, of values was there before
        after = Signal()  # the next phase is one of values
        stepped, was_values = delay(m, self.step, 1), delay(m, self.values, 1)
        m.d.comb += self.first.eq(fresh.bit_select(self.values, 1))
        m.d.sync += [
            self.ready.eq(~(self.start | self.step)),
            after.eq(Mux(self.values, scores_left == 0, ~fresh[0] | (scores_left == 1))),
            self.last_scores.eq(~self.values & (scores_left == 1)),
            self.last.eq(self.values & (values_left == 1)),
        ]
        with m.If(self.step):
            m.d.sync += self.values.eq(after)
        with m.If(stepped):
            m.d.sync += fresh.bit_select(was_values, 1).eq(0)
            with m.If(was_values):
                m.d.sync += values_left.eq(values_left - 1)
            with m.Else():
                m.d.sync += scores_left.eq(scores_left - 1)
        with m.If(self.start):
            m.d.sync += [
                scores_left.eq(self.key_blocks),
                values_left.eq(self.key_blocks),
                self.values.eq(0),
                fresh.eq(-1),
            ]
        return m
