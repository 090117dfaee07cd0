"""The CPU's kernels in C against the numpy kernels: the same bits, in every form they have."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic.devices import native
from ciuic.devices.cpu import CpuDevice
from ciuic.ops import OPERATORS
from ciuic.ops.linear import FloatWeight
from ciuic.quantize import QuantizedMatrix, block_of

FORMS = {
    "native": (),
    "avx2": ("-DCIUIC_AVX2",),
    "plain": ("-DCIUIC_PLAIN",),
    "baseline": ("-DCIUIC_PLAIN", "-march=x86-64"),
}


@pytest.fixture(scope="module", params=FORMS)
def cpu(request: pytest.FixtureRequest) -> Iterator[CpuDevice]:
    """A CPU device with each form of the kernels that this processor can run."""
    flags = FORMS[request.param]
    if request.param == "avx2" and "avx2" not in native.processor():
        pytest.skip("needs a processor with AVX2")
    if request.param == "baseline" and platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 processor")
    loaded = native.load(flags)
    if loaded.library is None:
        pytest.skip(f"needs a C compiler ({loaded.form}): {native.HOW_TO_GET}")
    with CpuDevice(native=loaded) as device:
        yield device


def run(device: CpuDevice, op: str, *inputs: Any, **attributes: Any) -> np.ndarray:
    arrays = [
        device.hold(value) if isinstance(value, QuantizedMatrix) else device.upload(value)
        for value in inputs
    ]
    return device.submit(op, arrays, **attributes).output.numpy()


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_forms_are_what_they_say(cpu: CpuDevice) -> None:
    assert cpu.native.form in ("AVX-512 VNNI", "AVX2", "plain C")
    assert cpu.name.endswith(f"kernels in C ({cpu.native.form})")


@pytest.mark.parametrize("seed", range(12))
def test_linear(cpu: CpuDevice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, k, n = (int(rng.integers(1, limit)) for limit in (12, 400, 80))
    if seed == 0:
        t, k, n = 9, 40_001, 6  # sums beyond float32's 24 bits, rows beyond a block
    values = rng.integers(-128, 128, (k, n), dtype=np.int8)
    weight = QuantizedMatrix(values if seed % 2 else np.asfortranarray(values), draw(rng, n))
    x, bias = draw(rng, t, k), draw(rng, n)
    x[0] = rng.integers(-127, 128, k) / 2  # ties, and a row of zeros
    x[-1] *= t == 1
    x[0, 0] = 63.5
    kernel = OPERATORS["linear"].kernel
    for extra in ((), (bias,)):
        want = kernel(x, FloatWeight.of(weight), *extra)
        np.testing.assert_array_equal(run(cpu, "linear", x, weight, *extra), want, f"seed {seed}")


def test_a_row_that_is_not_finite_gives_nan_and_spoils_no_other(cpu: CpuDevice) -> None:
    rng = np.random.default_rng(0)
    weight = QuantizedMatrix(rng.integers(-127, 128, (70, 5), dtype=np.int8), draw(rng, 5))
    x = draw(rng, 6, 70)
    want = run(cpu, "linear", x, weight)
    x[1, 3], x[4, 69] = np.nan, -np.inf
    got = run(cpu, "linear", x, weight)
    assert np.isnan(got[[1, 4]]).all()
    np.testing.assert_array_equal(got[[0, 2, 3, 5]], want[[0, 2, 3, 5]])


def test_weights_by_rows_are_not_copied(cpu: CpuDevice) -> None:
    rows = np.ones((5, 70), np.int8)
    weight = QuantizedMatrix(rows.T, np.ones(5, np.float32))
    held = cpu.hold(weight)
    cpu.synchronize()
    assert held.data.values.ctypes.data == rows.ctypes.data
    assert cpu.weight_bytes(weight) == rows.nbytes + 5 * 4


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(cpu: CpuDevice, seed: int, interleaved: bool) -> None:
    rng = np.random.default_rng(seed)
    t, heads, half = (int(n) for n in rng.integers(1, 9, 3))
    positions = rng.integers(0, 5000, t).astype(np.int32)
    inputs, attributes = (
        (draw(rng, t, heads, 2 * half), positions),
        {"theta": 10000.0, "interleaved": interleaved},
    )
    want = OPERATORS["rope"].kernel(*inputs, **attributes)
    np.testing.assert_array_equal(run(cpu, "rope", *inputs, **attributes), want)


@pytest.mark.parametrize("seed", range(8))
def test_attention(cpu: CpuDevice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, kv_heads, group, head_dim = (int(n) for n in rng.integers(1, (7, 4, 4, 150)))
    offset = int(rng.integers(0, 60))
    cache = (offset + t + int(rng.integers(0, 5)), kv_heads, head_dim)
    inputs = draw(rng, t, kv_heads * group, head_dim), draw(rng, *cache), draw(rng, *cache)
    for softmax in ("exact", "q16", None):
        attributes = {"offset": offset, "scale": 0.7, "softmax": softmax}
        want = OPERATORS["attention"].kernel(*inputs, **attributes)
        np.testing.assert_array_equal(run(cpu, "attention", *inputs, **attributes), want)


@pytest.mark.parametrize("seed", range(4))
def test_the_smaller_kernels(cpu: CpuDevice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 200, 2))
    x, y = 30 * draw(rng, *shape), draw(rng, *shape)
    x[0, :4] = np.array([-1000, 1000, 0, -0.0])[: shape[1]]
    for op, inputs, attributes in (
        ("add", (x, y), {}),
        ("silu_mul", (x, y), {}),
        ("rms_norm", (x, y[0]), {"eps": 1e-5}),
        ("hadamard", (x,), {"block": block_of(shape[1])}),
        ("hadamard", (draw(rng, 3, 192),), {"block": 2 ** int(rng.integers(0, 7))}),
        ("kv_append", (np.concatenate([x, y]), y[:2]), {"offset": 1}),
    ):
        want = OPERATORS[op].kernel(*(value.copy() for value in inputs), **attributes)
        np.testing.assert_array_equal(run(cpu, op, *inputs, **attributes), want, op)


def test_a_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    if native.load(FORMS["plain"]).library is None:
        pytest.skip(f"needs a C compiler: {native.HOW_TO_GET}")
    (library,) = (tmp_path / "ciuic" / "cpu-kernels").iterdir()
    monkeypatch.setattr(native, "_compile", None)
    native.load.cache_clear()
    assert native.load(FORMS["plain"]).form == "plain C"
    assert list(library.parent.iterdir()) == [library]
    native.load.cache_clear()


def test_without_a_compiler_numpy_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    native.load.cache_clear()
    loaded = native.load()
    native.load.cache_clear()
    assert loaded == native.Native(None, "no C compiler (cc, gcc, clang)")
    weight = QuantizedMatrix(np.ones((3, 2), np.int8), np.ones(2, np.float32))
    with CpuDevice(native=loaded) as device:
        assert "numpy kernels (no C compiler" in device.name
        assert native.HOW_TO_GET in device.name
        assert device.weight_bytes(weight) == 4 * 6 + 8
        got = run(device, "linear", np.full((1, 3), 127, np.float32), weight)
    np.testing.assert_array_equal(got, [[381, 381]])


def test_a_compiler_that_fails_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such instruction >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert native.load() == native.Native(None, "cc failed")
    native.load.cache_clear()
    assert "no such instruction" in caplog.text


def test_what_numpy_leaves_by_columns_goes_into_kernels_in_c_by_rows() -> None:
    with CpuDevice() as cpu:
        rng = np.random.default_rng(8)
        shapes = [(5, 4, 16), (5, 4, 8), (5, 32), (5, 8), (32, 64), (32, 64)]
        inputs = [cpu.upload(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
        settings = {"offset": 0, "scale": 0.2, "softmax": "int8x16"}
        attended = cpu.submit("latent_attention", inputs, **settings).output
        got = cpu.submit("hadamard", [attended], block=64).output.numpy()
        want = cpu.submit("hadamard", [cpu.upload(attended.numpy())], block=64).output.numpy()
        assert np.array_equal(got, want)
