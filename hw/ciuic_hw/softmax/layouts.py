"""What flows between the stages of the softmax engine."""

from amaranth.hdl import signed
from amaranth.lib import data
from amaranth.utils import exact_log2

from ciuic.abi import Format, OverlayConfig, numerics
from ciuic.abi.descriptors import MAX_SIZE

__all__ = [
    "EXPONENTIAL",
    "EXPONENTIAL_LATE",
    "NORMALIZE_LATE",
    "RECIPROCAL",
    "RESULT",
    "RESULT_FORMATS",
    "ROWS_WAITING",
    "ROW_LATE",
    "SCORE",
    "SCORE_FORMATS",
    "result_beat_layout",
    "result_row_layout",
    "row_layout",
    "score_bytes_layout",
    "span_layout",
    "sum_bits",
    "words_layout",
    "write_job_layout",
]

SCORE_FORMATS = (Format.INT32, Format.INT16, Format.INT8)
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)

ROWS_WAITING = 64  # rows between two stages: enough for rows of one word

SCORE = signed(32)

# exp(-scale * distance) = mantissa * 2**-(halvings + MANTISSA_FRACTION)
EXPONENTIAL = data.StructLayout(
    {"mantissa": numerics.MANTISSA_FRACTION + 1, "halvings": range(numerics.EXPONENT_LIMIT)}
)

# 1 / sum = inverse * 2**-(norm + RECIPROCAL_FRACTION)
RECIPROCAL = data.StructLayout({"inverse": numerics.RECIPROCAL_FRACTION, "norm": 5})

# The format of a row's results, as an index in `RESULT_FORMATS`; whether the memory refused a part
# of the row.
RESULT = data.StructLayout({"narrow": 1, "error": 1})

# What a stage must know of a row a cycle behind each of its words. ``multiplier`` and ``shift`` are
# a `ciuic.abi.numerics.SoftmaxScale`.
ROW_LATE = data.StructLayout(
    {
        "multiplier": numerics.MULTIPLIER_BITS,
        "shift": range(numerics.MAX_SHIFT + 1),
        "result": RESULT,
    }
)
EXPONENTIAL_LATE = data.StructLayout({"row": ROW_LATE, "maximum": SCORE})
NORMALIZE_LATE = data.StructLayout({"result": RESULT, "reciprocal": RECIPROCAL})


def span_layout(config: OverlayConfig) -> data.StructLayout:
    """Return where a row ends.

    ``last`` is its valid elements and ``limit`` all its elements, each less one; whether they are a
    single word of ``lanes`` elements say ``short`` and ``single``.
    """
    elements = range(config.max_row)
    return data.StructLayout({"last": elements, "limit": elements, "short": 1, "single": 1})


def result_row_layout(config: OverlayConfig) -> data.StructLayout:
    """Return what the end of the engine must know of a row."""
    return data.StructLayout({"span": span_layout(config), "result": RESULT})


def result_beat_layout(config: OverlayConfig) -> data.StructLayout:
    """Return a beat of results, the ``row`` they are of, and whether it is its ``final`` beat."""
    return data.StructLayout(
        {"data": 8 * config.bus_bytes, "final": 1, "row": result_row_layout(config)}
    )


def row_layout(config: OverlayConfig) -> data.StructLayout:
    """Return all that the stages must know of a row, so that neighbours may differ in anything."""
    return data.StructLayout({"words": words_layout(config), "late": ROW_LATE})


def words_layout(config: OverlayConfig) -> data.StructLayout:
    """Return what a stage must know of a row together with each of its words.

    A row that is ``empty`` has no valid element and no beats; its ``last`` is zero, so that it
    passes the stages as one word.
    """
    return data.StructLayout({"span": span_layout(config), "empty": 1})


def score_bytes_layout(config: OverlayConfig) -> data.StructLayout:
    """Return the index of a row's scores' format, and the bytes that are read, less one.

    It is what a `Gearbox` must know of a row.
    """
    return data.StructLayout(
        {
            "mode": range(len(SCORE_FORMATS)),
            "last_byte": range(config.max_row << exact_log2(SCORE_FORMATS[0].nbytes)),
        }
    )


def write_job_layout(config: OverlayConfig) -> data.StructLayout:
    """Return where a descriptor's rows go, whether it ``runs`` and, if it does not, why."""
    return data.StructLayout(
        {
            "addr": config.address_bits,
            "stride": 32,
            "rows": range(MAX_SIZE + 1),
            "nbytes": 32,
            "runs": 1,
            "status": 8,
        }
    )


def sum_bits(max_row: int) -> int:
    """Return the width of the sum of a row's exponentials, each at most one."""
    return (max_row << numerics.SUM_FRACTION).bit_length()
