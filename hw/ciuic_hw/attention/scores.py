"""Scores to probabilities: a block of keys at a time, on the softmax engine's lanes."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import ATTENTION_ROW, OverlayConfig
from ciuic.abi.numerics import (
    EXPONENT_FRACTION,
    MANTISSA_FRACTION,
    PROBABILITY_BITS,
)

from ..arithmetic import less
from ..gemm.accumulators import FETCH_LATENCY
from ..gemm.activations import SCRATCHPAD_LATENCY
from ..gemm.scales import accumulator_bits
from ..layouts import record_layout
from ..softmax.exponential import ExponentialLane
from ..softmax.table import Interpolator
from ..streams import delay
from .job import attention_layout
from .ports import EXPONENT_BITS, LanesPort
from .state import OCTAVE, RowStates, state_ports

__all__ = ["ScoreStage"]

SCORE_BITS = 32
LEAST = -256  # octave of a block without valid keys, far below all others


class ScoreStage(Component):
    """Take banks of scores, ``lanes`` a cycle, and give banks of probabilities.

    The arithmetic is `ciuic.reference.attention`. A block passes in one go once there is room for
    its probabilities, so that nothing in the pipeline has to wait.

    Members
    -------
    job : In(stream)
        Jobs.
    full, drained : In(2), Out(2)
        Banks of the accumulators.
    fetch, fetch_bank, fetch_row, fetched
        To and from the accumulators.
    records_full, records_release, record_bank, record_row, record
        To and from `RowLoader`.
    magnitude, multiplier, shift, exponent, position, mantissa
        To and from the lanes, see `LanesPort`.
    half_free, half_take : In(2), Out(2)
        Halves of sums that no earlier job needs; strobes: this job needs one.
    probabilities_full, probabilities_release : Out(2), In(2)
        Banks of probabilities.
    read_bank, read_row, activations : In(1), In, Out(rows * 8)
        Read a row of probabilities, `SCRATCHPAD_LATENCY` cycles later.
    shifts_bank, shifts_row, shifts; sum_half, sum_row, sum
        See `RowStates`.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.steps = config.cols // config.lanes
        row = ceil_log2(config.accumulator_rows)
        lanes = LanesPort(config).members
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "full": In(2),
                "drained": Out(2),
                "fetch": Out(1),
                "fetch_bank": Out(1),
                "fetch_row": Out(row),
                "fetched": In(config.cols * accumulator_bits(config)),
                "records_full": In(2),
                "records_release": Out(2),
                "record_bank": Out(1),
                "record_row": Out(row),
                "record": In(record_layout(ATTENTION_ROW)),
                **{name: member for name, member in lanes.items() if name != "owned"},
                "half_free": In(2),
                "half_take": Out(2),
                "probabilities_full": Out(2),
                "probabilities_release": In(2),
                "read_bank": In(1),
                "read_row": In(row),
                "activations": Out(config.rows * 8),
                **state_ports(config),
            }
        )

    def elaborate(self, platform):
        m = Module()
        late = _late(m, self._walk(m))
        x, valid = self._scale(m, late)
        octave, octave_after = self._octave(m, late, x, valid)
        probabilities, after = self._probabilities(m, x, valid, octave)
        self._store(m, late, probabilities, octave_after + after)
        self._align(m, late, octave, octave_after, probabilities, after)
        return m

    def _walk(self, m):
        """Take words of scores, in the order of blocks, rows and columns; return what they are."""
        config = self.config
        job = Signal(attention_layout(config), reset_less=True)
        half, bank, block = Signal(), Signal(), Signal()
        blocks_left = Signal(job.key_blocks.shape(), reset_less=True)
        row, place = Signal(ceil_log2(config.accumulator_rows)), Signal(range(self.steps))
        last_row, row_before, last_block = Signal(), Signal.like(job.m), Signal()
        base, first_block = Signal(job.n.shape(), reset_less=True), Signal()
        word = Signal(
            data.StructLayout(
                {
                    "taken": 1,
                    "place": range(self.steps),  # of the word in its row
                    "first": 1,  # word of its row
                    "last": 1,
                    "row": len(row),
                    "half": 1,
                    "block": 1,
                    "first_block": 1,
                    "last_row": 1,
                    "keys": job.n.shape(),
                    "base": job.n.shape(),  # keys before the block
                }
            )
        )
        occupied = Signal(2)  # banks of probabilities
        may, rest = Signal(), Signal(range(RowStates.latency + 1))
        m.d.comb += [
            word.place.eq(place),
            word.first.eq(place == 0),
            word.last.eq(place == self.steps - 1),
            word.row.eq(row),
            word.half.eq(half),
            word.block.eq(block),
            word.last_row.eq(last_row),
            word.keys.eq(job.n),
            word.base.eq(base),
            word.first_block.eq(first_block),
            self.fetch.eq(word.taken & word.first),
            self.fetch_bank.eq(bank),
            self.fetch_row.eq(row),
            self.record_bank.eq(half),
            self.record_row.eq(row),
        ]
        m.d.sync += [
            # Known when the first row of a block is taken, at the latest.
            row_before.eq(job.m - 2),
            last_block.eq(blocks_left == 1),
            occupied.eq(occupied & ~self.probabilities_release),
            self.probabilities_full.eq(self.probabilities_full & ~self.probabilities_release),
            may.eq(
                self.full.bit_select(bank, 1)
                & ~occupied.bit_select(block, 1)
                & self.records_full.bit_select(half, 1)
                & (~first_block | self.half_free.bit_select(half, 1))
            ),
        ]
        turned = delay(m, word.taken & word.last & last_row, 1)
        with m.If(turned):
            m.d.sync += [
                bank.eq(~bank),
                block.eq(~block),
                half.eq(half ^ last_block),
                blocks_left.eq(blocks_left - 1),
                base.eq(base + config.cols),
                first_block.eq(0),
            ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [
                    job.eq(self.job.p),
                    blocks_left.eq(self.job.p.key_blocks),
                    base.eq(0),
                    first_block.eq(1),
                    rest.eq(0),
                ]
                with m.If(self.job.valid):
                    m.next = "REST"
            with m.State("REST"):  # rows of the block before have left their state
                m.d.sync += [rest.eq(rest + 1), last_row.eq(job.m == 1)]
                with m.If(rest == RowStates.latency):
                    m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(may):
                    m.d.comb += self.half_take.eq(first_block << half)
                    m.d.sync += occupied.bit_select(block, 1).eq(1)
                    m.next = "TAKE"
            with m.State("TAKE"):  # `turned` follows the last word
                m.d.comb += word.taken.eq(1)
                m.d.sync += place.eq(place + 1)
                with m.If(word.last):
                    m.d.sync += [place.eq(0), row.eq(row + 1), last_row.eq(row == row_before)]
                    with m.If(word.last_row):
                        m.d.comb += self.drained.eq(1 << bank)
                        m.d.sync += [row.eq(0), rest.eq(0)]
                        m.next = "REST"
                        with m.If(last_block):
                            m.d.comb += self.records_release.eq(1 << half)
                            m.next = "IDLE"
        return word

    def _scale(self, m, late):
        """Return the scaled scores of a word and which are valid, `self._scaled` cycles later."""
        config, lanes = self.config, self.config.lanes
        bits = accumulator_bits(config)
        place = late("place", FETCH_LATENCY)
        word = self.fetched.word_select(place, bits * lanes)
        words = [word.word_select(lane, bits)[:SCORE_BITS] for lane in range(lanes)]
        scores = [delay(m, word, 1, reset_less=True).as_signed() for word in words]
        signs, magnitudes = [], []
        for lane, score in enumerate(scores):
            sign = delay(m, score[-1], 1, reset_less=True)
            magnitude = delay(m, Mux(score[-1], -score, score)[:SCORE_BITS], 1, reset_less=True)
            signs.append(sign)
            magnitudes.append(magnitude)
            m.d.comb += self.magnitude[lane].eq(magnitude)
        m.d.comb += [
            self.multiplier.eq(delay(m, self.record.multiplier, 2, reset_less=True)),
            self.shift.eq(delay(m, self.record.shift, 2, reset_less=True)),
        ]
        scaling = ExponentialLane.exponent_latency + 1  # the lanes are far away
        self._scaled = FETCH_LATENCY + 2 + scaling + 1
        x = []
        for lane, sign in enumerate(signs):
            sign = delay(m, sign, scaling, reset_less=True)
            exponent = delay(m, self.exponent[lane], 1, reset_less=True)
            signed_ = Signal(signed(EXPONENT_BITS + 1), name=f"x_{lane}", reset_less=True)
            m.d.sync += signed_.eq(Mux(sign, -exponent, exponent))
            x.append(signed_)

        # Which keys of the block a row sees.
        known = FETCH_LATENCY
        length, keys = self.record.length, late("keys", known)
        limit = delay(m, Mux(less(length, keys), length, keys)[: len(keys)], 1, reset_less=True)
        left = delay(m, limit - late("base", known + 1), 1, reset_less=True)
        cols_log2 = exact_log2(config.cols)
        none, whole = left[-1], left[cols_log2:-1].any()
        some = Cat(Mux(none | whole, 0, left[:cols_log2]), ~none & whole)
        some = delay(m, some, 1, reset_less=True)
        before = late("place", known + 3) << exact_log2(lanes)
        valid = Cat(some > before + lane for lane in range(lanes))
        return x, delay(m, valid, self._scaled - known - 3, reset_less=True)

    def _octave(self, m, late, x, valid):
        """Return the octave of a row, and when it is there after its last word was taken."""
        candidates = [
            delay(
                m, Mux(valid[lane], (value >> EXPONENT_FRACTION) + 1, LEAST + 1), 1, reset_less=True
            )
            for lane, value in enumerate(x)
        ]
        while len(candidates) > 1:
            candidates = [
                delay(m, Mux(one > other, one, other), 1, reset_less=True)
                for one, other in zip(candidates[::2], candidates[1::2], strict=True)
            ]
        at = self._scaled + 1 + exact_log2(self.config.lanes)
        running, octave = (Signal(OCTAVE, reset_less=True) for _ in range(2))
        largest = Signal(OCTAVE)
        one = candidates[0]
        m.d.comb += largest.eq(Mux(late("first", at) | less(running, one), one, running))
        m.d.sync += running.eq(largest)
        with m.If(late("taken", at) & late("last", at)):
            m.d.sync += octave.eq(largest)
        return delay(m, octave, 1, reset_less=True), at + 2  # all lanes are far from one

    def _probabilities(self, m, x, valid, octave):
        """Return the probabilities of a word, and how many cycles behind the row's octave."""
        wait = self.steps + 2 + exact_log2(self.config.lanes)  # until the octave is there
        valid = delay(m, valid, wait, reset_less=True)
        result = []
        for lane, value in enumerate(x):
            value = delay(m, value, wait, reset_less=True)
            distance = delay(
                m, ((octave << EXPONENT_FRACTION) - value)[: EXPONENT_BITS + 2], 1, reset_less=True
            )
            m.d.comb += self.position[lane].eq(distance)
            halvings = distance[EXPONENT_FRACTION:]
            none = delay(m, valid[lane], 1, reset_less=True) & ~halvings[3:].any()
            seen = delay(m, none, Interpolator.latency + 1, reset_less=True)
            places = delay(m, halvings[:3], Interpolator.latency, reset_less=True)
            # A bit more than the result has, to round.
            cut = self.mantissa[lane][MANTISSA_FRACTION - PROBABILITY_BITS - 1 :]
            rough = delay(m, cut >> places, 1, reset_less=True)
            rounded = (rough + 1) >> 1
            limit = (1 << PROBABILITY_BITS) - 1
            limited = Mux(rounded[PROBABILITY_BITS:].any(), limit, rounded)[:PROBABILITY_BITS]
            result.append(delay(m, Mux(seen, limited, 0), 1, reset_less=True))
        return result, Interpolator.latency + 3

    def _store(self, m, late, probabilities, after):
        """Write whole rows of probabilities, `after` cycles from a row's last word to its first."""
        config = self.config
        at = after + self.steps - 1
        m.submodules.memory = memory = Memory(
            shape=config.rows * 8, depth=2 * config.accumulator_rows, init=[]
        )
        write, read = memory.write_port(), memory.read_port()
        word = Cat(Cat(one, C(0, 8 - PROBABILITY_BITS)) for one in probabilities)
        whole = [
            delay(m, word, self.steps - 1 - place, reset_less=True) for place in range(self.steps)
        ]
        m.d.comb += [
            write.addr.eq(Cat(late("row", at), late("block", at))),
            write.data.eq(Cat(whole)),
            write.en.eq(late("taken", at) & late("last", at)),
            read.en.eq(1),
            read.addr.eq(delay(m, Cat(self.read_row, self.read_bank), 1, reset_less=True)),
            self.activations.eq(delay(m, read.data, SCRATCHPAD_LATENCY - 2, reset_less=True)),
        ]
        # Who waits for it is far away.
        block, complete = late("block", at + 1), delay(m, write.en & late("last_row", at), 1)
        with m.If(complete):
            m.d.sync += self.probabilities_full.bit_select(block, 1).eq(1)

    def _align(self, m, late, octave, octave_after, probabilities, after):
        """Keep the state of rows."""
        terms = probabilities
        while len(terms) > 1:
            terms = [
                delay(m, one + other, 1, reset_less=True)
                for one, other in zip(terms[::2], terms[1::2], strict=True)
            ]
        levels = exact_log2(self.config.lanes)
        m.submodules.states = states = RowStates(self.config, sum_after=after + levels + self.steps)
        # Words pass here `steps` - 1 cycles later than the octave says.
        at = octave_after + after + levels + self.steps - 1
        running = Signal.like(states.total, reset_less=True)
        total = Signal.like(states.total)
        m.d.comb += total.eq(Mux(late("first", at), 0, running) + terms[0])
        m.d.sync += [running.eq(total), states.total.eq(total)]
        m.d.comb += [
            states.begin.eq(late("taken", octave_after) & late("last", octave_after)),
            states.octave.eq(octave),
            *(
                getattr(states, name).eq(late(of, octave_after))
                for name, of in (
                    ("half", "half"),
                    ("row", "row"),
                    ("block", "block"),
                    ("first", "first_block"),
                )
            ),
            states.shifts_bank.eq(self.shifts_bank),
            states.shifts_row.eq(self.shifts_row),
            self.shifts.eq(states.shifts),
            states.sum_half.eq(self.sum_half),
            states.sum_row.eq(self.sum_row),
            self.sum.eq(states.sum),
        ]


def _late(m, step):
    """Return a function that gives a field of a word some cycles after it was taken."""
    chains = {name: [getattr(step, name)] for name, _ in step.shape()}

    def late(name, cycles):
        chain = chains[name]
        while len(chain) <= cycles:
            chain.append(delay(m, chain[-1], 1, reset_less=name != "taken"))
        return chain[cycles]

    return late
