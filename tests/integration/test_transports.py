"""One driver over every transport: the same bits, the same errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import ciuic_host
import numpy as np
import numpy.typing as npt
import pytest
from ciuic_host import Overlay
from ciuic_host.staging import round_up

from ciuic import reference
from ciuic.abi import CONFIGS, DESCRIPTOR, Format, Opcode, Status, registers
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import (
    CiuicError,
    DescriptorError,
    OutOfMemory,
    ShapeError,
    TransferError,
    UsageError,
)

from ..boards import served_board

REMOTE = "a board behind PYNQ.remote"
NOWHERE = 0x0800_0000  # an address below every buffer
URIS = [
    "fpga:emulated?config=tiny",
    pytest.param("fpga:rtl?config=tiny&shadow=1", marks=pytest.mark.rtl),
    pytest.param(
        "fpga:rtl?config=tiny&shadow=1&stall=30&read_latency=3&seed=7",
        marks=pytest.mark.rtl,
        id="rtl-stalls",
    ),
    pytest.param(
        "fpga:rtl?config=tiny&shadow=1&bandwidth=40&read_latency=200&outstanding=2",
        marks=pytest.mark.rtl,
        id="rtl-slow",
    ),
    pytest.param("fpga:pynq-sim?config=tiny", marks=pytest.mark.pynq),
    pytest.param(REMOTE, marks=pytest.mark.pynq, id="pynq-remote"),
]


@pytest.fixture(scope="module", params=URIS)
def overlay(request: pytest.FixtureRequest) -> Iterator[Overlay]:
    with ExitStack() as stack:
        uri = request.param
        if "pynq" in uri.lower():
            pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")
        if uri is REMOTE:
            uri = stack.enter_context(served_board("tiny"))
        yield stack.enter_context(ciuic_host.open(uri, timeout=30))


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


def int8(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def test_the_overlay_is_recognised(overlay: Overlay) -> None:
    assert overlay.config == CONFIGS["tiny"]
    assert overlay.emulated
    assert overlay.name.startswith("fpga:")


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 8, 8), (2, 9, 7), (3, 64, 65), (65, 17, 9), (130, 300, 24)]
)
def test_gemm_equals_the_reference(
    overlay: Overlay, rng: np.random.Generator, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    activations, weights = int8(rng, m, k), int8(rng, k, n)
    result = overlay.gemm(activations, weights)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, reference.gemm(activations, weights))


def test_random_gemms_equal_the_reference(overlay: Overlay, rng: np.random.Generator) -> None:
    for _ in range(30):
        m, k, n = (int(size) for size in 1 + rng.integers(0, (40, 200, 60)))
        activations, weights = int8(rng, m, k), int8(rng, k, n)
        np.testing.assert_array_equal(
            overlay.gemm(activations, weights),
            reference.gemm(activations, weights),
            err_msg=f"shape {(m, k, n)}",
        )


def test_the_largest_sums_do_not_saturate(overlay: Overlay) -> None:
    k = 3000
    lowest = np.full((1, k), -128, np.int8)
    assert overlay.gemm(lowest, lowest.reshape(k, 1)).item() == 128 * 128 * k


def test_operands_of_any_memory_layout(overlay: Overlay, rng: np.random.Generator) -> None:
    activations, weights = int8(rng, 20, 6).T[::2], int8(rng, 7, 20).T
    np.testing.assert_array_equal(
        overlay.gemm(activations, weights), reference.gemm(activations, weights)
    )


def test_loaded_weights_serve_many_calls(overlay: Overlay, rng: np.random.Generator) -> None:
    matrices = [int8(rng, 40, 24) for _ in range(3)]
    handles = [overlay.load_weights(matrix) for matrix in matrices]
    for _ in range(3):
        for matrix, handle in zip(matrices, handles, strict=True):
            activations = int8(rng, 5, 40)
            np.testing.assert_array_equal(
                overlay.gemm(activations, handle), reference.gemm(activations, matrix)
            )
    for handle in handles:
        overlay.free(handle)


def test_memory_that_is_used_again_holds_the_new_weights(
    overlay: Overlay, rng: np.random.Generator
) -> None:
    activations = int8(rng, 2, 16)
    for _ in range(3):
        weights = int8(rng, 16, 8)
        handle = overlay.load_weights(weights)
        np.testing.assert_array_equal(
            overlay.gemm(activations, handle), reference.gemm(activations, weights)
        )
        overlay.free(handle)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("out", [Format.Q0_16, Format.Q0_8])
@pytest.mark.parametrize("causal", [False, True])
def test_softmax_equals_the_reference(
    overlay: Overlay,
    rng: np.random.Generator,
    dtype: type[np.int8 | np.int16 | np.int32],
    out: Format,
    causal: bool,
) -> None:
    for _ in range(6):
        rows, cols = int(rng.integers(1, 9)), int(rng.integers(1, 120))
        limit = min(int(np.iinfo(dtype).max), 1 << 20)
        scores = rng.integers(-limit, limit, (rows, cols)).astype(dtype)
        scale = float(rng.uniform(0.5, 20)) / limit
        offset = int(rng.integers(0, cols + 1))
        result = overlay.softmax(scores, scale=scale, causal=causal, row_offset=offset, out=out)
        expected = reference.softmax(
            scores,
            scale=SoftmaxScale.encode(scale),
            out=out,
            lengths=reference.causal_lengths(rows, cols, offset) if causal else None,
        )
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_of_rows_with_lengths_equals_the_reference(
    overlay: Overlay, rng: np.random.Generator, causal: bool
) -> None:
    for rows in (1, 2, 7, 40):
        cols = int(rng.integers(1, 120))
        scores = rng.integers(-500, 500, (rows, cols)).astype(np.int16)
        lengths = rng.choice([0, 1, cols, int(rng.integers(cols))], rows)
        offset = int(rng.integers(0, cols + 1))
        result = overlay.softmax(
            scores, scale=0.01, causal=causal, row_offset=offset, lengths=lengths
        )
        valid = reference.valid_lengths(
            rows, cols, row_offset=offset if causal else None, lengths=lengths
        )
        expected = reference.softmax(scores, scale=SoftmaxScale.encode(0.01), lengths=valid)
        np.testing.assert_array_equal(result, expected)
        assert not result[lengths == 0].any()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1], "lengths must be 2 integers, not int64 (1,)"),
        ([1.0, 2.0], "lengths must be 2 integers, not float64 (2,)"),
        ([-1, 2], "lengths must be from 0 to 3, not from -1 to 2"),
        ([0, 4], "lengths must be from 0 to 3, not from 0 to 4"),
    ],
)
def test_lengths_must_fit_the_scores(overlay: Overlay, lengths: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        overlay.softmax(np.zeros((2, 3), np.int8), lengths=lengths)


def test_softmax_of_the_longest_row(overlay: Overlay, rng: np.random.Generator) -> None:
    scores = rng.integers(-1000, 1000, (2, overlay.config.max_row), dtype=np.int32)
    expected = reference.softmax(scores, scale=SoftmaxScale.encode(0.004))
    np.testing.assert_array_equal(overlay.softmax(scores, scale=0.004), expected)


@pytest.mark.parametrize("nbytes", [1, 7, 8, 4095, 4096, 12345])
def test_copy_returns_what_it_was_given(
    overlay: Overlay, rng: np.random.Generator, nbytes: int
) -> None:
    data = rng.integers(0, 256, nbytes, dtype=np.uint8)
    np.testing.assert_array_equal(overlay.copy(data), data)


def test_copy_keeps_shape_and_dtype(overlay: Overlay, rng: np.random.Generator) -> None:
    data = rng.standard_normal((3, 5)).astype(np.float32)
    np.testing.assert_array_equal(overlay.copy(data), data)


def test_many_descriptors_in_one_submission(overlay: Overlay) -> None:
    tags = list(range(600))  # more than the ring holds
    ticket = overlay.submit([DESCRIPTOR.pack(opcode=Opcode.NOP, tag=tag) for tag in tags])
    records = overlay.wait(ticket)
    assert [record.tag for record in records] == tags
    finished = [record.finished for record in records]
    assert finished == sorted(finished)


def test_records_and_counters_describe_the_work(overlay: Overlay, rng: np.random.Generator) -> None:
    m, k, n = 16, 64, 40
    before = overlay.counters()
    overlay.gemm(int8(rng, m, k), int8(rng, k, n))
    after = overlay.counters()
    record = overlay.completions[-1]
    config = overlay.config
    assert record.opcode == Opcode.GEMM
    assert record.busy == after["array_busy"] - before["array_busy"] == m * k * n // 64
    assert record.beats_read == (m * k + k * n) // config.bus_bytes
    assert record.beats_written == m * n * 4 // config.bus_bytes
    assert 0 < record.busy <= record.cycles <= after["cycles"] - before["cycles"]
    assert set(after) == set(registers.COUNTERS)


USUAL_TOLERANCE, MEAN_TOLERANCE = 0.05, 0.02  # of the emulated cycles


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Overlay, Overlay]]:
    with (
        ciuic_host.open("fpga:emulated?config=tiny") as emulated,
        ciuic_host.open("fpga:rtl?config=tiny") as rtl,
    ):
        yield emulated, rtl


def cycle_error(pair: tuple[Overlay, Overlay]) -> float:
    """Return the relative error of the emulated cycles; all other facts must be the same."""
    model, real = (overlay.completions[-1] for overlay in pair)
    exact = ("status", "beats_read", "beats_written", "busy")
    assert [getattr(model, name) for name in exact] == [getattr(real, name) for name in exact]
    return abs(model.cycles / real.cycles - 1)


@pytest.mark.rtl
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1), (1, 576, 192), (2, 300, 64), (8, 64, 64), (64, 64, 64), (100, 200, 100)),
        *((17, 577, 1), (3, 1, 577), (17, 3, 577)),  # bursts of operands in an order that matters
    ],
)
def test_the_emulated_cycles_of_a_gemm_are_those_of_the_rtl(
    pair: tuple[Overlay, Overlay], rng: np.random.Generator, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    for overlay in pair:
        overlay.gemm(int8(rng, m, k), int8(rng, k, n))
    assert cycle_error(pair) <= USUAL_TOLERANCE


@pytest.mark.rtl
def test_the_emulated_cycles_of_gemms_are_right_in_the_mean(
    pair: tuple[Overlay, Overlay], rng: np.random.Generator
) -> None:
    errors = []
    for _ in range(40):
        m, k, n = (int(size) for size in 1 + rng.integers(0, (80, 700, 90)))
        for overlay in pair:
            overlay.gemm(int8(rng, m, k), int8(rng, k, n))
        errors.append(cycle_error(pair))
    assert np.mean(errors) <= MEAN_TOLERANCE


@pytest.mark.rtl
@pytest.mark.parametrize("shape", [(1, 1), (1, 1024), (64, 64), (32, 197), (50, 7)])
@pytest.mark.parametrize("options", ["whole", "causal", "lengths"])
def test_the_emulated_cycles_of_a_softmax_are_those_of_the_rtl(
    pair: tuple[Overlay, Overlay],
    rng: np.random.Generator,
    shape: tuple[int, int],
    options: str,
) -> None:
    scores = rng.integers(-100, 100, shape, dtype=np.int32)
    lengths = rng.integers(0, shape[1], shape[0], endpoint=True) if options == "lengths" else None
    for overlay in pair:
        overlay.softmax(scores, scale=0.1, causal=options == "causal", lengths=lengths)
    assert cycle_error(pair) <= USUAL_TOLERANCE


@pytest.mark.rtl
@pytest.mark.parametrize("nbytes", [1, 4096, 100_000])
def test_the_emulated_cycles_of_a_copy_are_those_of_the_rtl(
    pair: tuple[Overlay, Overlay], nbytes: int
) -> None:
    for overlay in pair:
        overlay.copy(np.zeros(nbytes, np.uint8))
    assert cycle_error(pair) <= USUAL_TOLERANCE


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activations", "weights", "message"),
    [
        (np.zeros((2, 3), np.int16), np.zeros((3, 2), np.int8), "activations must be int8, not"),
        (np.zeros((2, 3), np.int8), np.zeros((3, 2), np.float32), "weights must be int8, not"),
        (np.zeros(3, np.int8), np.zeros((3, 2), np.int8), "activations must be a non-empty matrix"),
        (np.zeros((2, 0), np.int8), np.zeros((0, 2), np.int8), "activations must be a non-empty"),
        (
            np.zeros((2, 3), np.int8),
            np.zeros((4, 2), np.int8),
            "shapes must be (m, k) and (k, n), not (2, 3) and (4, 2)",
        ),
    ],
)
def test_operands_that_do_not_fit_are_errors(
    overlay: Overlay,
    activations: npt.NDArray[np.int8],
    weights: npt.NDArray[np.int8],
    message: str,
) -> None:
    before = overlay.counters()["beats_read"]
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        overlay.gemm(activations, weights)
    assert overlay.counters()["beats_read"] == before  # nothing was sent


def test_softmax_arguments_that_do_not_fit_are_errors(overlay: Overlay) -> None:
    scores = np.zeros((1, 4), np.int32)
    too_long = np.zeros((1, overlay.config.max_row + 1), np.int32)
    wrong: list[tuple[type[CiuicError], str, npt.NDArray[np.int32], dict[str, object]]] = [
        (ShapeError, "scores must have at most 4096 columns, not 4097", too_long, {}),
        (ShapeError, "scores must be int32 or int16 or int8, not float64", scores * 1.0, {}),
        (ShapeError, "result format must be Q0_16 or Q0_8, not", scores, {"out": Format.INT8}),
        (ShapeError, "row_offset must be from 0 to 2**32 - 1, not -1", scores, {"row_offset": -1}),
        (UsageError, "scale must be a finite number above 0, not 0.0", scores, {"scale": 0.0}),
        (UsageError, "scale must be a finite number above 0, not nan", scores, {"scale": np.nan}),
    ]
    for kind, message, array, arguments in wrong:
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            overlay.softmax(array, **arguments)  # type: ignore[arg-type]


def test_freed_weights_cannot_be_used(overlay: Overlay) -> None:
    handle = overlay.load_weights(np.zeros((3, 2), np.int8))
    overlay.free(handle)
    message = rf"^weights \(3, 2\) must be loaded on {re.escape(overlay.name)} and not freed$"
    with pytest.raises(TransferError, match=message):
        overlay.gemm(np.zeros((1, 3), np.int8), handle)
    with pytest.raises(TransferError, match=message):
        overlay.free(handle)


def test_weights_that_do_not_fit_are_an_error_that_changes_nothing(overlay: Overlay) -> None:
    with pytest.raises(OutOfMemory):
        overlay.load_weights(np.broadcast_to(np.int8(0), (1 << 16, 1 << 15)))
    overlay.copy(np.arange(9))


BAD = {
    "BAD_OPCODE": {"opcode": 200},
    "BAD_ALIGNMENT": {"opcode": Opcode.COPY, "a_addr": 4, "n": 8},
    "BAD_SIZE": {"opcode": Opcode.GEMM, "k": 1, "n": 1},
    "BAD_FORMAT": {"opcode": Opcode.SOFTMAX, "m": 1, "n": 1, "in_format": 200},
    "READ_ERROR": {"opcode": Opcode.COPY, "a_addr": NOWHERE, "n": 100},
}


@pytest.mark.parametrize("code", BAD)
def test_bad_descriptors_are_errors_and_the_overlay_recovers(
    overlay: Overlay, rng: np.random.Generator, code: str
) -> None:
    ticket = overlay.submit([DESCRIPTOR.pack(**BAD[code])])
    with pytest.raises(DescriptorError) as caught:
        overlay.wait(ticket)
    assert caught.value.code == code
    data = rng.integers(0, 256, 100, dtype=np.uint8)
    np.testing.assert_array_equal(overlay.copy(data), data)


def test_a_refused_write_is_an_error_and_the_overlay_recovers(
    overlay: Overlay, rng: np.random.Generator
) -> None:
    handle = overlay.load_weights(int8(rng, 8, 8))
    source = handle.buffer.device_address
    descriptor = DESCRIPTOR.pack(opcode=Opcode.COPY, a_addr=source, o_addr=NOWHERE, n=64)
    with pytest.raises(DescriptorError) as caught:
        overlay.wait(overlay.submit([descriptor]))
    assert caught.value.code == Status.WRITE_ERROR.name
    activations = int8(rng, 3, 8)
    assert overlay.gemm(activations, handle).shape == (3, 8)  # loaded weights outlive the reset
    overlay.free(handle)


def test_bytes_around_a_result_are_not_touched(overlay: Overlay, rng: np.random.Generator) -> None:
    m, k, n = 5, 11, 3
    step = overlay.config.alignment
    activations, weights = int8(rng, m, k), int8(rng, k, n)
    stride = round_up(4 * n, step) + step
    painted = overlay.load_weights(np.full((64, 64), 0x5A, np.int8))
    loaded = overlay.load_weights(weights)
    padded = np.zeros((m, round_up(k, step)), np.int8)
    padded[:, :k] = activations
    # Weights are the one kind of memory that a user can place; a single tile is stored as it is.
    rows = overlay.load_weights(np.resize(padded.reshape(-1), (8 * 16, 8)))
    descriptor = DESCRIPTOR.pack(
        opcode=Opcode.GEMM,
        a_addr=rows.buffer.device_address,
        a_stride=padded.shape[1],
        w_addr=loaded.buffer.device_address,
        o_addr=painted.buffer.device_address + step,
        o_stride=stride,
        m=m,
        k=k,
        n=n,
    )
    overlay.wait(overlay.submit([descriptor]))
    overlay._transport.invalidate(painted.buffer)
    after = painted.buffer.array.view(np.int8)
    expected = np.full(after.size, 0x5A, np.int8)
    region = np.lib.stride_tricks.as_strided(expected[step:], (m, 4 * n), (stride, 1))
    region[:] = reference.gemm(activations, weights).view(np.int8)
    np.testing.assert_array_equal(after, expected)
    for handle in (painted, loaded, rows):
        overlay.free(handle)


def test_a_closed_overlay_gives_everything_back() -> None:
    overlay = ciuic_host.open("fpga:emulated?config=tiny")
    overlay.load_weights(np.zeros((3, 2), np.int8))
    overlay.gemm(np.zeros((1, 3), np.int8), np.zeros((3, 2), np.int8))
    overlay.close()
    overlay.close()
    assert overlay._transport._memory.used == 0
