"""Reading parts of files: each way gives the same bytes, and the fastest is found by measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ciuic.devices import disk
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.disk import METHODS, DiskReader, Method, fastest, measure, memory_for
from ciuic.errors import TransferError
from ciuic.memory.streaming import Streaming
from ciuic.models.weight_file import WeightFile, WeightWriter
from ciuic.quantize import QuantizedMatrix, quantize_columns
from ciuic.runtime import Runtime

NBYTES = 50_001


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, NBYTES, np.uint8).tobytes())
    return path


def reader_of(path: Path, method: Method) -> DiskReader:
    if method == "direct" and measure(path, method) is None:  # all can do the others
        pytest.skip("needs a file system that reads past its cache, as ext4 and xfs do")
    return DiskReader(path, method)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_those_of_the_file(file: Path, method: Method) -> None:
    contents = np.frombuffer(file.read_bytes(), np.uint8)
    reader = reader_of(file, method)
    rng = np.random.default_rng(1)
    for _ in range(30):
        start = int(rng.integers(0, NBYTES))
        nbytes = int(rng.integers(1, NBYTES - start + 1))
        memory = memory_for(nbytes)
        np.testing.assert_array_equal(
            reader.read(start, nbytes, memory), contents[start : start + nbytes]
        )
    reader.close()
    reader.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_is_too_short_is_refused(file: Path, method: Method) -> None:
    reader = reader_of(file, method)
    memory = memory_for(NBYTES)
    with pytest.raises(TransferError, match=r"must have 50,003 bytes, not 50,001$"):
        reader.read(2, NBYTES, memory)
    reader.close()


def test_the_fastest_way_is_taken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"direct": None, "read": 0.5, "map": 1.0}
    monkeypatch.setattr(disk, "measure", lambda _path, method, _turn: seconds[method])
    assert fastest(file) == ("read", 2 * NBYTES)
    reader = DiskReader(file)
    assert (reader.method, reader.bytes_per_second) == ("read", 2 * NBYTES)
    reader.close()


def test_weights_stream_from_their_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    matrices = [quantize_columns(rng.standard_normal((96, 64), np.float32)) for _ in range(6)]
    path = tmp_path / "weights.safetensors"
    with path.open("w+b") as stored:
        writer = WeightWriter(stored, [str(index) for index in range(6)])
        for index, matrix in enumerate(matrices):
            writer.write(str(index), matrix)
        writer.finish()
    file = WeightFile(path)
    weights = [file.weight(str(index), (96, 64)) for index in range(6)]
    x = rng.standard_normal((3, 96), np.float32)
    runtime = Runtime()
    with CpuDevice("cpu:7") as device:
        expected = [runtime.run("linear", [x, m], device="cpu").numpy() for m in matrices]
        stream = Streaming(device, weights, 3)
        for _ in range(3):
            for weight, want in zip(weights, expected, strict=True):
                assert isinstance(weight, QuantizedMatrix)
                got = runtime.run("linear", [x, weight], device=device)
                np.testing.assert_array_equal(got.numpy(), want)
        stream.close()
        assert device.native.library is None or path in device._readers
