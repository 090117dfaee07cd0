"""INT4 weights, the output stage and products started together, over every transport."""

from __future__ import annotations

import re
from collections.abc import Iterator

import ciuic_host
import numpy as np
import numpy.typing as npt
import pytest
from ciuic_host import Gemm, Overlay
from ciuic_host.emulated import EmulatedTransport

from ciuic import reference
from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import W4_GROUP
from ciuic.errors import CiuicError, ShapeError, TransferError, UsageError
from ciuic.reference import ColumnParameters

URIS = [
    "fpga:emulated?config=tiny",
    "fpga:emulated?config=pynq-z2",
    pytest.param("fpga:rtl?config=tiny&shadow=1&late=20", marks=pytest.mark.rtl),
]


@pytest.fixture(scope="module", params=URIS)
def overlay(request: pytest.FixtureRequest) -> Iterator[Overlay]:
    with ciuic_host.open(request.param, timeout=30) as opened:
        yield opened


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


def int8(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def int4(
    rng: np.random.Generator, k: int, n: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]:
    scales = rng.integers(-(2**15) + 1, 2**15, (-(-k // W4_GROUP), n)).astype(np.int16)
    return rng.integers(-8, 8, (k, n), dtype=np.int8), scales


def parameters(rng: np.random.Generator, n: int) -> ColumnParameters:
    bias = rng.integers(-(10**5), 10**5, n).astype(np.int32)
    return ColumnParameters.encode(np.exp(rng.uniform(-10, -5, n)), bias)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 33, 9), (9, 200, 30)], ids=str)
def test_int4_products_equal_the_reference(
    overlay: Overlay, rng: np.random.Generator, shape: tuple[int, int, int]
) -> None:
    m, k, n = shape
    activations, (weights, scales) = int8(rng, m, k), int4(rng, k, n)
    handle = overlay.load_weights_w4(weights, scales)
    expected = reference.gemm_w4(activations, weights, scales)
    np.testing.assert_array_equal(overlay.gemm(activations, handle), expected)
    overlay.free(handle)


@pytest.mark.parametrize("requantize", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_output_stage_equals_the_reference(
    overlay: Overlay, rng: np.random.Generator, requantize: bool, with_residual: bool
) -> None:
    m, k, n = 7, 50, 19
    activations, weights = int8(rng, m, k), int8(rng, k, n)
    given = parameters(rng, n)
    residual = int8(rng, m, n).astype(np.int8 if requantize else np.int32)
    options = {"parameters": given, "residual": residual if with_residual else None}
    result = overlay.gemm(activations, weights, requantize=requantize, **options)
    expected = reference.output_stage(
        reference.gemm(activations, weights), requantize=requantize, **options
    )
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def test_products_that_are_started_together(overlay: Overlay, rng: np.random.Generator) -> None:
    calls, expected = [], []
    for index in range(9):
        m, k, n = (int(size) for size in 1 + rng.integers(0, (20, 90, 40)))
        activations = int8(rng, m, k)
        if index % 2:
            weights, scales = int4(rng, k, n)
            handle = overlay.load_weights_w4(weights, scales)
            sums = reference.gemm_w4(activations, weights, scales)
        else:
            plain = int8(rng, k, n)
            handle, sums = overlay.load_weights(plain), reference.gemm(activations, plain)
        residual = rng.integers(-100, 100, (m, n)).astype(np.int32) if index % 3 == 0 else None
        calls.append(Gemm(activations=activations, weights=handle, residual=residual))
        expected.append(reference.output_stage(sums, residual=residual))
    for result, want in zip(overlay.gemms(calls), expected, strict=True):
        np.testing.assert_array_equal(result, want)
    spans = [(one.started, one.finished) for one in list(overlay.completions)[-len(calls) :]]
    assert spans == sorted(spans)
    for call in calls:
        overlay.free(call.weights)
    assert overlay.gemms([]) == []


def test_options_that_do_not_fit_are_errors(overlay: Overlay, rng: np.random.Generator) -> None:
    activations, weights = int8(rng, 2, 5), int8(rng, 5, 3)
    wrong: list[tuple[type[CiuicError], str, dict[str, object]]] = [
        (UsageError, "parameters must be given to requantize, not None", {"requantize": True}),
        (
            ShapeError,
            "parameters must be of shape (3,), not (4,)",
            {"parameters": parameters(rng, 4)},
        ),
        (ShapeError, "residual must be int32, not int8", {"residual": int8(rng, 2, 3)}),
        (
            ShapeError,
            "residual must be of shape (2, 3), not (3, 2)",
            {"residual": np.zeros((3, 2), np.int32)},
        ),
    ]
    used = overlay.counters()["beats_read"]
    for kind, message, options in wrong:
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            overlay.gemm(activations, weights, **options)  # type: ignore[arg-type]
    assert overlay.counters()["beats_read"] == used  # nothing was sent


def test_weights_that_cannot_be_packed_leave_nothing_behind() -> None:
    narrow = OverlayConfig(name="narrow", rows=4, cols=4)
    transport = EmulatedTransport("fpga:test", narrow)
    with Overlay(transport) as overlay:
        used = transport._memory.used
        with pytest.raises(ShapeError, match=r"^overlay 'unknown' must take INT4 weights"):
            overlay.load_weights_w4(np.zeros((4, 4), np.int8), np.zeros((1, 4), np.int16))
        assert transport._memory.used == used
        with pytest.raises(UsageError, match=r"^requantize must be False on overlay 'unknown'"):
            overlay.gemm(
                np.zeros((1, 4), np.int8),
                np.zeros((4, 4), np.int8),
                parameters=ColumnParameters.encode(np.ones(4)),
                requantize=True,
            )
        handle = overlay.load_weights(np.zeros((4, 4), np.int8))
        overlay.free(handle)
        with pytest.raises(TransferError, match="must be loaded on fpga:test and not freed"):
            overlay.gemms([Gemm(activations=np.zeros((1, 4), np.int8), weights=handle)])
