"""Single-line mutations of the gateware, and for each the bench that must notice it."""

from __future__ import annotations

from dataclasses import dataclass

GEMM = "sim/benches/test_gemm.py::test_gemm_engine[plain]"
SINGLE = "sim/benches/test_gemm.py::test_gemm_engine[one-beat-tiles]"
OVERLAY = "sim/benches/test_overlay.py"
SOFTMAX = "tests/hw/test_softmax_engine.py"
SOFTMAX_STAGES = "tests/hw/test_softmax_pipelines.py"
SOFTMAX_STREAMS = "tests/hw/test_softmax_streams.py"
SOFTMAX_RTL = "sim/benches/test_softmax.py::test_softmax_engine[lanes-4]"
SOFTMAX_WIDE = "sim/benches/test_softmax.py::test_softmax_engine[lanes-16-wide-bus]"
ATTENTION = "sim/benches/test_attention.py::test_attention_engine[plain]"
ZYNQ = "tests/hw/test_zynq_bridges.py"
ZYNQ_RTL = "sim/benches/test_zynq.py"
ECP5 = "tests/hw/test_ecp5.py"
CHANNELS = "tests/hw/test_axi_channels.py"
BENCHES = (
    *(GEMM, SINGLE, OVERLAY, SOFTMAX, SOFTMAX_STAGES, SOFTMAX_STREAMS, SOFTMAX_RTL, SOFTMAX_WIDE),
    *(ATTENTION, ZYNQ, ZYNQ_RTL, ECP5, CHANNELS),
)
# An engine that hangs makes every test wait for its own limit, so only these run on a mutation.
TESTS = {
    GEMM: "every_option|tiles_of_rows|long_rows|random_products|chained_products",
    SINGLE: "random_products|chained_products",
    OVERLAY: ".*",
    SOFTMAX: "",  # in Amaranth's simulator; stops at the first test that fails
    SOFTMAX_STAGES: "",
    SOFTMAX_STREAMS: "",
    **{SOFTMAX_RTL: ".*", SOFTMAX_WIDE: ".*"},
    ATTENTION: "bad_desc|corners|rows_see|slowly|chained_heads",
    ZYNQ: "",
    ZYNQ_RTL: ".*",
    ECP5: "",
    CHANNELS: "",
}


@dataclass(frozen=True)
class Mutation:
    """One line of one file, changed.

    Parameters
    ----------
    file
        Below ``hw/ciuic_hw``.
    old, new
        Text that stands there once, within a line, and what takes its place.
    bench
        Test that must fail.
    """

    file: str
    old: str
    new: str
    bench: str = GEMM

    def __str__(self) -> str:
        return f"{self.file}: {self.new}"


MUTATIONS = (
    # Memory side.
    Mutation("axi/splitter.py", "self.max_burst - Mux(", "self.max_burst + 1 - Mux(", OVERLAY),
    Mutation("axi/splitter.py", "tail.eq(nbytes[:shift] - 1)", "tail.eq(nbytes[:shift])", OVERLAY),
    Mutation("axi/write.py", "(2 << head.tail) - 1", "(4 << head.tail) - 1", OVERLAY),
    Mutation("axi/write.py", "delay(m, self.resp[1], 2)", "delay(m, self.resp[0], 2)", OVERLAY),
    Mutation("axi/write.py", "free.eq(~self.addr_valid & room", "free.eq(room", OVERLAY),
    Mutation("axi/write.py", "new_head.eq(~active | (", "new_head.eq((", OVERLAY),
    Mutation("axi/write.py", "(active & draining)", "(active & ~active)", CHANNELS),
    Mutation("axi/read.py", "~less(room, splitter.burst.p.beats)", "room.any()", OVERLAY),
    # Command processor, registers, copy.
    Mutation("command/dispatch.py", "(flying < desc", "(flying <= desc", OVERLAY),
    Mutation(
        "command/dispatch.py", "taken.eq(handed | (due & ~good))", "taken.eq(handed)", OVERLAY
    ),
    Mutation("overlay.py", "m.d.sync += soft.eq(1)", "m.d.sync += soft.eq(0)", OVERLAY),
    Mutation("overlay.py", "zip((spread, *stages), stages", "zip((soft, *stages), stages", OVERLAY),
    Mutation("command/fetch.py", "failed.eq(failed | beat.p.error)", "failed.eq(0)", OVERLAY),
    Mutation("command/complete.py", "record.tag.eq(note.tag)", "record.tag.eq(0)", OVERLAY),
    Mutation("control.py", "interrupt_status & ~cleared | Cat", "interrupt_status | Cat", OVERLAY),
    Mutation("copy.py", "failed_read | read.data.p.error", "failed_read", OVERLAY),
    # GEMM engine.
    Mutation("gemm/walk.py", "self.first_k.eq(self.last_k)", "self.first_k.eq(0)"),
    Mutation("gemm/walk.py", "tile_addr.eq(next_row)", "tile_addr.eq(row_addr)"),
    Mutation("gemm/weights.py", "Mux(job.w4, 2, 1)", "1"),
    Mutation("gemm/array.py", "nibble[3].replicate(4)", "C(0, 4)"),
    Mutation("gemm/weights.py", "Mux(walk.last_n, 0, offset + nbytes)", "offset + nbytes"),
    Mutation("gemm/activations.py", "slab_word.eq(next_slab)", "slab_word.eq(0)"),
    Mutation("gemm/compute.py", "swap.eq(coming & first_next & ", "swap.eq(coming & "),
    Mutation(
        "gemm/scales.py", "self.sums_slot, slots[1], slots[0]", "self.sums_slot, slots[0], slots[1]"
    ),
    Mutation("gemm/accumulators.py", "soon_again.eq(again[0])", "soon_again.eq(0)", SINGLE),
    Mutation("gemm/epilogue.py", "Mux(walk.last_n, 0, offset + block)", "offset + block"),
    Mutation("gemm/output.py", "Mux(ends, 0, quarter + 1)", "quarter + 1"),
    Mutation("gemm/output.py", "(exact + bias)", "(exact - bias)"),
    Mutation("gemm/drain.py", "Mux(ends, 0, place + 1)", "Mux(ends, 0, place)"),
    Mutation("gemm/weights.py", "scaling.eq(scales_left != 1)", "scaling.eq(0)"),
    Mutation("gemm/drain.py", "self.read_row.eq(Mux(turned, 0, row))", "self.read_row.eq(row)"),
    Mutation("gemm/walk.py", "Mux(stepped, near[1], near[0])", "near[0]", SINGLE),
    Mutation("gemm/walk.py", "Mux(turned, job.near_k,", "Mux(0, job.near_k,", SINGLE),
    Mutation("gemm/accumulators.py", "+ Cat(carry[col], term)", "+ Cat(C(0, 1), term)"),
    # Softmax engine.
    Mutation("arithmetic.py", "Mux(stepped, near[1], near[0])", "near[0]", SOFTMAX_RTL),
    Mutation(
        "softmax/datapath.py", "one.ready.eq(rows.i.valid &", "one.ready.eq(one.valid &", SOFTMAX
    ),
    Mutation("softmax/datapath.py", "_later(m, row)", "row", SOFTMAX),
    Mutation(
        "softmax/normalize.py", "ProbabilityLane.latency - 1", "ProbabilityLane.latency", SOFTMAX
    ),
    Mutation("streams.py", "(m, came, was_waiting, moved)", "(m, came, waiting, moved)", SOFTMAX),
    Mutation("streams.py", "(~moves | skid.i.valid)", "skid.i.valid", SOFTMAX),
    Mutation("softmax/gearbox.py", "active & output_end", "output_end", SOFTMAX),
    Mutation("overlay.py", "with m.If(stages[-1]):", "with m.If(stages[0]):", OVERLAY),
    Mutation("softmax/rows.py", "less(listed.last, reach)", "less(reach, listed.last)", SOFTMAX),
    Mutation("softmax/rows.py", "Mux(empty, 0, low - 1)", "low - 1", SOFTMAX),
    Mutation("softmax/rows.py", "reach.eq(reach + 1)", "reach.eq(reach + 2)", SOFTMAX),
    Mutation("softmax/rows.py", "lane <= row.last[", "lane < row.last[", SOFTMAX),
    Mutation("arithmetic.py", "eq(low + amount[:half])", "eq(low)", SOFTMAX),
    Mutation("softmax/reader.py", "some.eq(left != 0)", "some.eq(0)", SOFTMAX),
    Mutation("softmax/reader.py", "eq(some & more)", "eq(some)", SOFTMAX_WIDE),
    Mutation("softmax/writer.py", "~stepped & ~settling", "~stepped", SOFTMAX_STREAMS),
    Mutation(
        "softmax/reader.py",
        "requests.i.valid.eq(described & ~row.words.empty)",
        "requests.i.valid.eq(described)",
        SOFTMAX,
    ),
    Mutation(
        "softmax/reader.py",
        "score_bytes.valid.eq(described & ~row.words.empty)",
        "score_bytes.valid.eq(described)",
        SOFTMAX,
    ),
    Mutation("softmax/reader.py", "m.d.sync += error.eq(1)", "m.d.sync += error.eq(0)", SOFTMAX),
    Mutation("softmax/gearbox.py", "~less(following, last)", "~less(chunk, last)", SOFTMAX),
    Mutation("softmax/datapath.py", "(inside & refused)", "refused", SOFTMAX),
    Mutation("softmax/datapath.py", "error & ~row.empty", "error", SOFTMAX),
    Mutation("softmax/datapath.py", "words[normalize.narrow]", "words[0]", SOFTMAX),
    Mutation(
        "softmax/maximum.py",
        "pipe(less(other, one))",
        "pipe(less(one, other))",
        SOFTMAX,
    ),
    Mutation("softmax/maximum.py", "pipe(fresh | less(", "pipe(less(", SOFTMAX),
    Mutation(
        "softmax/exponential.py",
        "delay(m, self.multiplier, 5,",
        "delay(m, self.multiplier, 4,",
        SOFTMAX,
    ),
    Mutation(
        "softmax/exponential.py", "delay(m, shift[:3], 1, reset_less=True)", "shift[:3]", SOFTMAX
    ),
    Mutation(
        "softmax/exponential.py",
        "words.valid[index] & ~row.empty",
        "words.valid[index]",
        SOFTMAX_RTL,
    ),
    Mutation(
        "softmax/exponential.py", "beyond | fine[numerics.SCALED_BITS :].any()", "beyond", SOFTMAX
    ),
    Mutation("softmax/exponential.py", "Mux(final, 0, low_sum)", "low_sum", SOFTMAX),
    Mutation("softmax/exponential.py", "Mux(far, 0, table.value)", "table.value", SOFTMAX),
    Mutation("softmax/normalize.py", "Mux(final, half, reached[-1])", "reached[-1]", SOFTMAX),
    Mutation("softmax/normalize.py", "| (narrow & result[NARROW])", "| 0", SOFTMAX),
    Mutation("softmax/normalize.py", "above & units.any()", "above", SOFTMAX_STAGES),
    Mutation(
        "softmax/normalize.py",
        "~bits[0].any() & (large |",
        "~bits[0].any() & (medium |",
        SOFTMAX_STAGES,
    ),
    Mutation(
        "softmax/normalize.py",
        "self.i.ready.eq(may & ~masked)",
        "self.i.ready.eq(may)",
        SOFTMAX,
    ),
    Mutation(
        "softmax/reciprocal.py", "norm_1, 1 + table.latency", "norm_1, table.latency", SOFTMAX
    ),
    Mutation("softmax/table.py", "product + half", "product", SOFTMAX),
    Mutation("softmax/writer.py", "beat.valid & more", "beat.valid", SOFTMAX),
    Mutation("softmax/writer.py", "busy.eq(busy + words)", "busy.eq(busy + 1)", SOFTMAX),
    Mutation("softmax/writer.py", "~more & ~reporting", "~more", SOFTMAX),
    Mutation("softmax/writer.py", "own.eq(open_ - acknowledged)", "own.eq(0)", SOFTMAX),
    Mutation(
        "softmax/writer.py", "write_error.eq(later_error | error)", "write_error.eq(0)", SOFTMAX
    ),
    Mutation("axi/write.py", "answer & last", "answer", CHANNELS),
    Mutation(
        "streams.py",
        "self.depth - self.latency - MARGIN)",
        "self.depth - MARGIN)",
        SOFTMAX,
    ),
    # Attention engine.
    Mutation("attention/output.py", "~more & ~requests.o.valid", "~more", ATTENTION),
    Mutation("attention/job.py", "Mux(bit, many << place, 0)", "Mux(bit, many, 0)", ATTENTION),
    Mutation("attention/job.py", "scores_left == 0, ~fresh[0] |", "scores_left == 0,", ATTENTION),
    Mutation("attention/queries.py", "row_word + job.query_tiles", "row_word", ATTENTION),
    Mutation("attention/sequencer.py", "<< ~scores_bank", "<< scores_bank", ATTENTION),
    Mutation("attention/tiles.py", "m.If(were_values)", "m.If(walk.values)", ATTENTION),
    Mutation(
        "attention/queries.py",
        "(self.row[len(some) :], self.bank)",
        "(self.row[len(some) :], C(0, 1))",
        ATTENTION,
    ),
    Mutation(
        "attention/tiles.py", "value_offset + value_bytes", "value_offset + key_bytes", ATTENTION
    ),
    Mutation(
        "attention/sequencer.py",
        "self.value_target.first.eq(walk.first)",
        "self.value_target.first.eq(0)",
        ATTENTION,
    ),
    Mutation(
        "attention/sequencer.py",
        "self.target.first.eq(first_tile)",
        "self.target.first.eq(first_row)",
        ATTENTION,
    ),
    Mutation("attention/scores.py", "Mux(score[-1], -score, score)", "score", ATTENTION),
    Mutation("attention/scores.py", "Mux(less(length, keys), length, keys)", "length", ATTENTION),
    Mutation(
        "attention/scores.py", "rounded = (rough + 1) >> 1", "rounded = rough >> 1", ATTENTION
    ),
    Mutation("attention/state.py", "Mux(rises, _capped(apart), 0)", "_capped(apart)", ATTENTION),
    Mutation(
        "attention/state.py", "Mux(apart[SHIFT_BITS:].any(), limit, apart)", "apart", ATTENTION
    ),
    Mutation(
        "attention/values.py",
        "Mux(first, 0, older.as_signed())",
        "older.as_signed()",
        ATTENTION,
    ),
    Mutation(
        "attention/output.py",
        "number = Mux(self._held_last, rest, places)",
        "number = C(places)",
        ATTENTION,
    ),
    Mutation("attention/output.py", "1 << (QUOTIENT_SHIFT - 1)", "0", ATTENTION),
    # What joins the overlay to a Zynq-7000.
    Mutation("zynq/memory.py", "last.eq(left < beats)", "last.eq(left <= beats)", ZYNQ),
    Mutation("zynq/memory.py", "axi3.rlast & last_read", "axi3.rlast", ZYNQ),
    Mutation("zynq/memory.py", "axi4.wlast | beat.all()", "axi4.wlast", ZYNQ),
    Mutation("zynq/memory.py", "axi3.bresp | errors", "axi3.bresp", ZYNQ),
    Mutation("zynq/memory.py", "Mux(last_write, 0, axi4.bresp)", "axi4.bresp", ZYNQ),
    Mutation("zynq/memory.py", "(axi4.bready | ~last_write)", "axi4.bready", ZYNQ),
    Mutation("zynq/memory.py", "cutter.o.valid & flags.w_rdy", "cutter.o.valid", ZYNQ),
    Mutation("zynq/control.py", "~mask | onward & mask", "~mask | onward", ZYNQ),
    Mutation("zynq/control.py", "error.eq(error | answer)", "error.eq(answer)", ZYNQ),
    Mutation("zynq/control.py", "answer.eq(DECERR), word", "answer.eq(0), word", ZYNQ),
    Mutation("zynq/control.py", "rlast.eq(beats == 0)", "rlast.eq(1)", ZYNQ),
    Mutation("zynq/interrupts.py", "irq.eq(pending & master)", "irq.eq(pending)", ZYNQ),
    Mutation("zynq/interrupts.py", "enable & ~value[0]", "enable", ZYNQ),
    Mutation("zynq/interrupts.py", "m.If(hardware & self", "m.If(self", ZYNQ),
    Mutation("zynq/interrupts.py", "m.If(write & bus.wstrb[0])", "m.If(write)", ZYNQ),
    Mutation(
        "zynq/system.py",
        "interrupts.interrupt.eq(overlay",
        "interrupts.interrupt.eq(~overlay",
        ZYNQ_RTL,
    ),
    # The overlay on an ECP5.
    Mutation("ecp5/memory.py", "outside.eq(addr[high:].any())", "outside.eq(0)", ECP5),
    Mutation("ecp5/memory.py", "ask.eq(asking & results.room)", "ask.eq(asking)", ECP5),
    Mutation("ecp5/memory.py", "(out.manager == index)", "(manager == index)", ECP5),
    Mutation(
        "ecp5/memory.py", "[memory.addr.eq(word), memory.en.eq(0)]", "memory.addr.eq(word)", ECP5
    ),
    Mutation("ecp5/memory.py", "Mux(idle & ~turn.any()", "Mux(idle", ECP5),
    Mutation("ecp5/bridge.py", "WORD_BYTES).eq(-1)", "WORD_BYTES).eq(1)", ECP5),
    Mutation("ecp5/bridge.py", "word.eq(word >> 8)", "word.eq(word >> 4)", ECP5),
    Mutation("ecp5/uart.py", "line & ~taken[0]", "~taken[0]", ECP5),
    Mutation("ecp5/crossing.py", "ready.eq(given == taken_here)", "ready.eq(1)", ECP5),
)
