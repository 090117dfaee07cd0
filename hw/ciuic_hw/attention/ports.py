"""What attention borrows: the GEMM engine's array with its memories, and the softmax lanes.

The command processor never runs two engines at a time, so the lender only chooses between its own
signals and the borrower's.
"""

from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig, numerics

from ..gemm.array import sum_bits
from ..gemm.compute import target_layout
from ..gemm.job import scratchpad_words, word_bytes
from ..gemm.scales import accumulator_bits

__all__ = ["EXPONENT_BITS", "ArrayPort", "LanesPort"]

# Of a scaled score, see `ciuic.abi.numerics`.
EXPONENT_BITS = numerics.SCALED_BITS + numerics.MULTIPLIER_BITS - numerics.POST_SHIFT


class ArrayPort(Signature):
    """The array, its scratchpad and its accumulators, as the borrower sees them.

    Members
    -------
    owned : Out(1)
        The borrower has them.
    write_en, write_bank, write_word, write_lane, write_data : Out
        To the activation scratchpad.
    load, w4, place, beat, swap : Out
        Weights, as in `PeArray`, but `SCRATCHPAD_LATENCY` cycles ahead of the array.
    issue, read_bank, read_word : Out
        A row of activations goes to the array.
    given, activations : Out(1), Out(rows * 8)
        `SCRATCHPAD_LATENCY` cycles behind ``issue``: a row that is not the scratchpad's.
    add, target : Out(1), Out(target_layout)
        The sums of the row that is issued go to the accumulators.
    take, drained, free, full : Out(2), Out(2), In(2), In(2)
        Banks of the accumulators.
    fetch, fetch_bank, fetch_row, fetched : Out, Out, Out, In
        Read a row of a bank; `FETCH_LATENCY` cycles later it is there until the next.
    sums : In(cols * sum_bits)
        From the array.
    """

    def __init__(self, config: OverlayConfig):
        lanes = word_bytes(config) // config.bus_bytes
        super().__init__(
            {
                "owned": Out(1),
                "write_en": Out(1),
                "write_bank": Out(1),
                "write_word": Out(range(scratchpad_words(config))),
                "write_lane": Out(ceil_log2(lanes)),
                "write_data": Out(config.bus_bytes * 8),
                "load": Out(1),
                "w4": Out(1),
                "place": Out(range(config.tile_beats)),
                "beat": Out(config.stream_bytes * 8),
                "swap": Out(1),
                "issue": Out(1),
                "read_bank": Out(1),
                "read_word": Out(range(scratchpad_words(config))),
                "given": Out(1),
                "activations": Out(config.rows * 8),
                "add": Out(1),
                "target": Out(target_layout(config)),
                "take": Out(2),
                "drained": Out(2),
                "free": In(2),
                "full": In(2),
                "fetch": Out(1),
                "fetch_bank": Out(1),
                "fetch_row": Out(ceil_log2(config.accumulator_rows)),
                "fetched": In(config.cols * accumulator_bits(config)),
                "sums": In(config.cols * sum_bits(config)),
            }
        )


class LanesPort(Signature):
    """The lanes' two halves, as the borrower sees them: scaling, and powers of two.

    Members
    -------
    owned : Out(1)
        The borrower has them.
    magnitude, multiplier, shift : Out
        Absolute scores, and the scale of all of them.
    exponent : In(ArrayLayout(EXPONENT_BITS, lanes))
        Scaled scores, ``ExponentialLane.exponent_latency`` cycles later.
    position : Out(ArrayLayout(EXPONENT_FRACTION, lanes))
        Fractions.
    mantissa : In(ArrayLayout(MANTISSA_FRACTION + 1, lanes))
        2 to the power of minus them, ``Interpolator.latency`` cycles later.
    """

    def __init__(self, config: OverlayConfig):
        def lanes(shape):
            return data.ArrayLayout(shape, config.lanes)

        super().__init__(
            {
                "owned": Out(1),
                "magnitude": Out(lanes(32)),
                "multiplier": Out(numerics.MULTIPLIER_BITS),
                "shift": Out(range(numerics.MAX_SHIFT + 1)),
                "exponent": In(lanes(EXPONENT_BITS)),
                "position": Out(lanes(numerics.EXPONENT_FRACTION)),
                "mantissa": In(lanes(numerics.MANTISSA_FRACTION + 1)),
            }
        )
