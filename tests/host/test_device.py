"""The FPGA as a device of the runtime: the CPU's bits, counted, verified, within its memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ciuic_host.device import FpgaDevice, list_devices, open_device

from ciuic import reference
from ciuic.abi import Opcode
from ciuic.devices import Device
from ciuic.devices.cpu import CpuDevice
from ciuic.errors import DeviceError, DeviceNotFound, OutOfMemory, ShapeError, UsageError
from ciuic.ops import OPERATORS
from ciuic.ops.softmax import probabilities, softmax_q16
from ciuic.quantize import QuantizedMatrix, quantize_columns
from ciuic.quantize_int4 import GroupQuantizedMatrix, quantize_groups
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

Float32 = npt.NDArray[np.float32]
EMULATED = "fpga:emulated?config=tiny"
URIS = [
    f"{EMULATED}&verify=1",
    pytest.param("fpga:emulated?verify=1&config=kv260", id="wide"),
    pytest.param("fpga:rtl?config=tiny&shadow=1&verify=1", marks=pytest.mark.rtl),
]
KERNELS = ["attention", "kv_append", "latent_attention", "linear", "linear_int4", "softmax"]
PAGE = 4096


@pytest.fixture(scope="module", params=URIS)
def fpga(request: pytest.FixtureRequest) -> Iterator[FpgaDevice]:
    with open_device(request.param) as device:
        yield device


@pytest.fixture
def emulated() -> Iterator[FpgaDevice]:
    with open_device(EMULATED) as device:
        yield device


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuDevice]:
    with CpuDevice() as device:
        yield device


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


def normal(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.standard_normal(shape).astype(np.float32)


def run(device: Device, op: str, *inputs: Any, **attributes: Any) -> npt.NDArray[Any]:
    placed = [device.upload(value) for value in inputs]
    return device.submit(op, placed, **attributes).wait().numpy()


def assert_same_bits(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> None:
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


# Kernels.


@pytest.mark.parametrize("t", [1, 5, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_the_cpu(
    fpga: FpgaDevice, cpu: CpuDevice, rng: np.random.Generator, t: int, bias: bool
) -> None:
    k, n = (int(size) for size in rng.integers(1, 200, 2))
    inputs: list[Any] = [normal(rng, t, k), quantize_columns(normal(rng, k, n))]
    if bias:
        inputs.append(normal(rng, n))
    assert_same_bits(run(fpga, "linear", *inputs), run(cpu, "linear", *inputs))


@pytest.mark.parametrize("t", [1, 5, 70])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("offsets", [False, True])
def test_int4_linear_equals_the_cpu(
    fpga: FpgaDevice, cpu: CpuDevice, rng: np.random.Generator, t: int, bias: bool, offsets: bool
) -> None:
    k, n = (int(size) for size in rng.integers(1, 200, 2))
    weight = quantize_groups(normal(rng, k, n))
    if offsets:
        of_groups = rng.integers(-(2**19), 2**19, weight.scales.shape, dtype=np.int32)
        weight = replace(weight, offsets=of_groups)
    inputs: list[Any] = [normal(rng, t, k), weight]
    if bias:
        inputs.append(normal(rng, n))
    assert_same_bits(run(fpga, "linear_int4", *inputs), run(cpu, "linear_int4", *inputs))


def test_extreme_int4_integers_accumulate_exactly(fpga: FpgaDevice, cpu: CpuDevice) -> None:
    k, n = 2048, 8  # sums of 8 * 127 * (2**15 - 1) / 2**8 leave the integers of float32
    values = np.full((k, n), -8, np.int8)
    values[::3, 2:] = 7
    signs = np.array([1, -1] * 4, np.int16)
    scales = np.full((k // 32, n), 2**15 - 1, np.int16) * signs
    weight = GroupQuantizedMatrix(values, scales, np.ones(n, np.float32))
    inputs = (np.full((2, k), 127, np.float32), weight)
    assert_same_bits(run(fpga, "linear_int4", *inputs), run(cpu, "linear_int4", *inputs))


def test_a_row_and_a_column_of_zeros_give_zeros(
    fpga: FpgaDevice, cpu: CpuDevice, rng: np.random.Generator
) -> None:
    x, matrix = normal(rng, 3, 20), normal(rng, 20, 9)
    x[1] = 0
    matrix[:, 4] = 0
    inputs = (x, quantize_columns(matrix))
    result = run(fpga, "linear", *inputs)
    assert not result[1].any()
    assert not result[:, 4].any()
    assert_same_bits(result, run(cpu, "linear", *inputs))


def test_extreme_integers_accumulate_exactly(fpga: FpgaDevice, cpu: CpuDevice) -> None:
    k = 1500  # sums of 127 * 127 leave the integers of float32
    weight = QuantizedMatrix(np.full((k, 8), 127, np.int8), np.ones(8, np.float32))
    weight.values[::3] = 126
    inputs = (np.full((2, k), 127, np.float32), weight)
    assert_same_bits(run(fpga, "linear", *inputs), run(cpu, "linear", *inputs))


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_softmax_is_the_fixed_point_one(
    fpga: FpgaDevice, rng: np.random.Generator, scale: float
) -> None:
    x = 8 * normal(rng, 6, int(rng.integers(1, 150)))
    result = run(fpga, "softmax", x, scale=scale)
    assert_same_bits(result, softmax_q16(x, scale=scale))
    np.testing.assert_allclose(result, probabilities(x * scale), atol=2**-12)


@pytest.mark.parametrize(
    ("t", "offset"), [(1, 0), (7, 0), (1, 30), (5, 12)], ids=["first", "prefill", "decode", "chunk"]
)
@pytest.mark.parametrize("spare", [0, 4])
def test_attention_equals_the_cpu_in_the_same_format(
    fpga: FpgaDevice,
    cpu: CpuDevice,
    rng: np.random.Generator,
    t: int,
    offset: int,
    spare: int,
) -> None:
    heads, kv_heads, head_dim, cached = 6, 2, 16, offset + t + spare
    inputs = (
        3 * normal(rng, t, heads, head_dim),
        3 * normal(rng, cached, kv_heads, head_dim),
        normal(rng, cached, kv_heads, head_dim),
    )
    attributes = {"offset": offset, "scale": head_dim**-0.5}
    for softmax in ("q16", fpga.attention):
        expected = run(cpu, "attention", *inputs, **attributes, softmax=softmax)
        assert_same_bits(run(fpga, "attention", *inputs, **attributes, softmax=softmax), expected)
    assert_same_bits(run(fpga, "attention", *inputs, **attributes), expected)  # its own


def test_it_supports_what_it_has_kernels_for(fpga: FpgaDevice) -> None:
    assert [op for op in sorted(OPERATORS) if fpga.supports(op)] == KERNELS
    assert not fpga.supports("attention", offset=0, scale=1.0, softmax="exact")


@pytest.mark.parametrize("absorbed", [False, True])
def test_latent_attention_equals_the_cpu_in_the_same_format(
    fpga: FpgaDevice, cpu: CpuDevice, rng: np.random.Generator, absorbed: bool
) -> None:
    t, offset, heads, nope, rope, rank, v = 5, 12, 4, 16, 8, 24, 10
    cached = offset + t
    inputs = (
        3 * normal(rng, t, heads, nope),
        3 * normal(rng, t, heads, rope),
        normal(rng, cached, rank),
        normal(rng, cached, rope),
        normal(rng, rank, heads * nope),
        normal(rng, rank, heads * v),
    )
    attributes = {"offset": offset, "scale": (nope + rope) ** -0.5, "absorbed": absorbed}
    for softmax in ("q16", fpga.attention):
        expected = run(cpu, "latent_attention", *inputs, **attributes, softmax=softmax)
        got = run(fpga, "latent_attention", *inputs, **attributes, softmax=softmax)
        assert_same_bits(got, expected)
    assert_same_bits(run(fpga, "latent_attention", *inputs, **attributes), expected)  # its own


def test_attention_over_more_keys_than_a_row_may_have_is_not_supported(
    emulated: FpgaDevice,
) -> None:
    longest = emulated.overlay.config.max_row
    assert emulated.supports("attention", offset=longest - 1, scale=1.0, softmax="q16")
    assert not emulated.supports("attention", offset=longest, scale=1.0, softmax="q16")


def test_an_error_of_the_driver_reaches_who_waits(emulated: FpgaDevice) -> None:
    columns = emulated.overlay.config.max_row + 1
    event = emulated.submit("softmax", [emulated.upload(np.zeros((1, columns), np.float32))])
    with pytest.raises(ShapeError, match=r"^scores must have at most 4096 columns, not 4097$"):
        event.wait()


# In a runtime.


def test_the_host_runs_the_rest_and_the_report_says_so(rng: np.random.Generator) -> None:
    uri = EMULATED
    runtime = Runtime()
    x = normal(rng, 2, 12)
    weight = quantize_columns(normal(rng, 12, 5))
    gain = CiuicTensor.from_numpy(np.ones(12, np.float32))
    with runtime.manager:
        normed = runtime.run("rms_norm", [x, gain], device=uri, eps=1e-5)
        result = runtime.run("linear", [normed, weight], device=uri)
        assert result.device is runtime.device(uri)
        assert normed.device is runtime.device("cpu")
        rows = {row.device: row for row in runtime.usage()}
    assert rows[uri].ops == {"linear": 1}
    assert rows[uri].on_host == {"rms_norm": 1}
    assert rows[uri].nbytes == normed.nbytes + weight.nbytes


# Counters.


def test_counters_are_those_of_the_completion_records(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    t, k, n = 3, 40, 24
    run(emulated, "linear", normal(rng, t, k), quantize_columns(normal(rng, k, n)))
    run(emulated, "softmax", normal(rng, 4, 33))
    run(
        emulated,
        "attention",
        normal(rng, 5, 2, 4),
        *(normal(rng, 5, 2, 4) for _ in range(2)),
        offset=0,
        scale=0.5,
    )
    emulated.synchronize()
    records = emulated.overlay.completions
    gemms = [record.cycles for record in records if record.opcode == Opcode.GEMM]
    assert len(gemms) == 1
    config, counters = emulated.overlay.config, emulated.statistics.counters
    assert counters == {
        "cycles": sum(record.cycles for record in records),
        "gemm_cycles": sum(gemms),
        "macs": t * k * n,
        "beats_read": sum(record.beats_read for record in records),
        "beats_written": sum(record.beats_written for record in records),
        "macs_per_cycle": config.rows * config.cols,
        "clock_hz": config.clock_hz,
        "arena_bytes": 1 << 16,
    }
    assert {op: count.tasks for op, count in emulated.statistics.ops.items()} == dict.fromkeys(
        ("linear", "softmax", "attention"), 1
    )


def test_every_result_is_compared_if_asked(rng: np.random.Generator) -> None:
    with open_device(f"{EMULATED}&verify=1") as device:
        run(device, "linear", normal(rng, 2, 9), quantize_columns(normal(rng, 9, 4)))
        run(device, "linear_int4", normal(rng, 2, 9), quantize_groups(normal(rng, 9, 4)))
        run(device, "softmax", normal(rng, 2, 9))
        device.synchronize()
        assert device.statistics.counters["verified"] == 3


@pytest.mark.parametrize(
    ("op", "name", "what"), [("linear", "gemm", "GEMM"), ("softmax", "softmax", "softmax")]
)
def test_a_wrong_bit_is_found_if_asked(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, op: str, name: str, what: str
) -> None:
    uri = f"{EMULATED}&verify=1"
    x = normal(rng, 3, 8)
    inputs: list[Any] = [x, quantize_columns(normal(rng, 8, 8))] if op == "linear" else [x]
    with open_device(uri) as device:
        right = getattr(device.overlay, name)
        seen = []

        def wrong(*arguments: Any, **named: Any) -> Any:
            result = right(*arguments, **named).copy()
            seen.append(int(result[1, 2]))
            result[1, 2] ^= 1
            result[2, 0] ^= 1
            return result

        monkeypatch.setattr(device.overlay, name, wrong)
        with pytest.raises(DeviceError) as caught:
            run(device, op, *inputs)
    assert str(caught.value) == (
        f"{uri}: 2 of 24 results of a {what} differ from the golden model, "
        f"the first at (1, 2): {seen[0] ^ 1}, not {seen[0]}"
    )


# Memory.


def test_a_weight_takes_the_pages_it_is_packed_into(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    weight = quantize_columns(normal(rng, 81, 51))
    packed = reference.packed_nbytes(81, 51, emulated.overlay.config)
    held = emulated.hold(weight)
    assert emulated.used_bytes == -(-packed // PAGE) * PAGE == 2 * PAGE
    emulated.evict(weight)
    del held
    emulated.synchronize()
    assert emulated.used_bytes == 0


def test_an_int4_weight_takes_half_the_pages(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    weight = quantize_groups(normal(rng, 256, 128))
    packed = reference.packed_nbytes(256, 128, emulated.overlay.config, w4=True)
    assert packed == 256 * 128 // 2 + 8 * 128 * 2
    held = emulated.hold(weight)
    assert emulated.used_bytes == -(-packed // PAGE) * PAGE
    emulated.evict(weight)
    del held
    emulated.synchronize()
    assert emulated.used_bytes == 0


def test_operands_of_all_tasks_cross_in_one_buffer(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    weight = quantize_columns(normal(rng, 40, 24))
    emulated.hold(weight)
    emulated.synchronize()
    before, staged = emulated.used_bytes, 0
    for t in (1, 2000, 3, 4000, 1000):
        x = normal(rng, t, 40)
        result = run(emulated, "linear", x, weight)
        assert result.shape == (t, 24)
        staged = max(staged, emulated.staging_bytes("linear", [(t, 40), (40, 24)]))
        buffer = emulated.overlay._staging._buffer
        assert buffer is not None
        assert emulated.statistics.counters["arena_bytes"] == buffer.nbytes == staged
        emulated.synchronize()
        assert emulated.used_bytes == before + staged
    assert staged > 1 << 16
    emulated.evict(weight)
    emulated.close()
    assert emulated.used_bytes == 0


def test_a_buffer_for_operands_beyond_the_cap_is_refused(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    weight = quantize_columns(normal(rng, 40, 24))
    run(emulated, "linear", normal(rng, 2, 40), weight)
    emulated.synchronize()
    # Enough for operands and results, but not for what they cross in.
    emulated.capacity_bytes = emulated.used_bytes + 4 * 4000 * (40 + 24)
    big = normal(rng, 4000, 40)
    message = r"^fpga:emulated.*: 983,040 bytes wanted, 379,904 of"
    with pytest.raises(OutOfMemory, match=message):
        run(emulated, "linear", big, weight)
    assert emulated.peak_bytes <= emulated.capacity_bytes
    run(emulated, "linear", normal(rng, 3, 40), weight)
    emulated.capacity_bytes += 1 << 22
    assert run(emulated, "linear", big, weight).shape == (4000, 24)


def test_the_buffer_for_operands_makes_room_for_others(
    emulated: FpgaDevice, rng: np.random.Generator
) -> None:
    weight = quantize_columns(normal(rng, 40, 24))
    want = run(emulated, "linear", x := normal(rng, 4000, 40), weight)
    emulated.synchronize()
    assert emulated.kept_bytes == 1 << 20
    emulated.capacity_bytes = emulated.used_bytes + 1000
    emulated.reset_peak()
    array = emulated.upload(np.zeros(1 << 17, np.float32))
    assert emulated.kept_bytes == 0
    assert emulated.overlay._staging._buffer is None
    assert run(emulated, "linear", x[:2], weight).tobytes() == want[:2].tobytes()
    assert emulated.kept_bytes == 1 << 16
    assert emulated.peak_bytes <= emulated.capacity_bytes
    del array


def test_what_no_plan_foresaw_counts_too(emulated: FpgaDevice) -> None:
    """Users may call the driver by themselves; on the queue thread, as kernels do."""
    emulated.capacity_bytes = emulated.used_bytes + (1 << 17)
    ones = np.ones((1, 1 << 15), np.int8)
    assert (emulated.overlay.copy(ones) == 1).all()
    assert emulated.used_bytes == emulated.statistics.counters["arena_bytes"] == 1 << 16
    with pytest.raises(OutOfMemory, match="983,040 bytes wanted, 65,536 of"):
        emulated.overlay.copy(np.ones((1, 1 << 19), np.int8))
    assert (emulated.overlay.copy(ones) == 1).all()


def test_weights_beyond_its_memory_are_refused_before_they_move(rng: np.random.Generator) -> None:
    uri, side = f"{EMULATED}&memory=1", 800
    first, second = (quantize_columns(normal(rng, side, side)) for _ in range(2))
    message = f"{uri}: 643,072 bytes wanted, 405,504 of 1,048,576 bytes available"
    with open_device(uri) as device:
        x, held = normal(rng, 1, side), device.hold(first)
        with pytest.raises(OutOfMemory, match=f"^{re.escape(message)}$"):
            device.hold(second)
        expected = device.submit("linear", [device.upload(x), held]).wait().numpy()
        device.evict(first)
        del held
        device.synchronize()
        again = device.submit("linear", [device.upload(x), device.hold(second)]).wait()
        assert again.shape == expected.shape  # the second one has the memory of the first


# Names.


def test_the_device_describes_itself(emulated: FpgaDevice) -> None:
    assert (emulated.kind, emulated.uri, emulated.emulated) == ("FPGA", EMULATED, True)
    assert emulated.name == "overlay tiny, 8x8"
    assert emulated.capacity_bytes == 1 << 30


def test_what_can_be_opened_is_listed() -> None:
    assert "fpga:emulated" in list_devices()
    assert list_devices(emulated=False) == []


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        (
            f"{EMULATED}&verify=2",
            UsageError,
            f"{EMULATED}&verify=2: verify must be 0 or 1, given once, not ['2']",
        ),
        (
            "fpga:emulated?verify=1&verify=1",
            UsageError,
            "fpga:emulated?verify=1&verify=1: verify must be 0 or 1, given once, not ['1', '1']",
        ),
        (
            "fpga:emulated?colour=red",
            UsageError,
            (
                "fpga:emulated?colour=red: option must be one of ['board', 'clock', 'config', "
                "'late', 'link', 'memory', 'pace', 'read_latency', 'shadow', 'write_latency'], "
                "not 'colour'"
            ),
        ),
    ],
)
def test_options_are_checked(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        open_device(uri)


def test_a_kind_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(DeviceNotFound, match=r"kind must be one of \['emulated', .*not 'none'"):
        open_device("fpga:none")


def test_closing_the_device_closes_its_overlay() -> None:
    device = open_device(EMULATED)
    overlay = device.overlay
    device.close()
    device.close()
    assert overlay._closed
