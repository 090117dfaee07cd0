"""GGUF files: what is read is what was written, and what is broken is refused."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from ciuic.errors import ModelFormatError
from ciuic.models.gguf_file import SUPPORTED, GgufFile

from .conftest import metadata, random_tensors, write_gguf

Type = gguf.GGMLQuantizationType
WRITABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
K_BLOCK_BYTES = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}  # per 256 values


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "small.gguf", metadata(), random_tensors())


@pytest.mark.parametrize("name", WRITABLE)
def test_tensor_equals_the_package_that_wrote_it(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(1).standard_normal((3, 5, 64)).astype(np.float32)
    type_ = Type[name]
    path = write_gguf(tmp_path / "t.gguf", {}, {"t": values}, {"t": type_})
    with GgufFile(path) as file:
        got = file.tensor("t")
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, type_), type_)
    assert got.shape == values.shape
    assert got.dtype == np.float32
    assert np.array_equal(got, expected.reshape(values.shape))
    assert np.abs(got - values).max() < 0.5


@pytest.mark.parametrize("name", WRITABLE)
def test_int4_is_what_the_file_holds(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32)
    path = write_gguf(tmp_path / "t.gguf", {}, {"t": values}, {"t": Type[name]})
    with GgufFile(path) as file:
        got, want = file.int4("t"), file.tensor("t")
    assert (got is not None) == (name in ("Q4_0", "Q4_1"))
    if got is not None:
        assert got.values.min() >= -8
        assert got.values.max() <= 7
        scales = np.repeat(got.scales, 32, axis=1)
        offsets = 0 if got.offsets is None else np.repeat(got.offsets, 32, axis=1)
        np.testing.assert_allclose(got.values * scales + offsets, want, atol=1e-6)


@pytest.mark.parametrize("name", K_BLOCK_BYTES)
def test_tensor_of_k_blocks(tmp_path: Path, name: str) -> None:
    raw = np.random.default_rng(2).integers(0, 64, (4, 2 * K_BLOCK_BYTES[name]), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=Type[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(tmp_path / "t.gguf") as file:
        got = file.tensor("t")
    assert got.shape == (4, 512)
    assert np.array_equal(got, gguf.quants.dequantize(raw, Type[name]))


def test_every_supported_type_is_tested() -> None:
    assert set(WRITABLE) | set(K_BLOCK_BYTES) == set(SUPPORTED)


def test_metadata_and_shapes_are_read(small: Path) -> None:
    with GgufFile(small) as file:
        for key, value in metadata().items():
            found = file.metadata[key]
            if isinstance(value, list):
                assert list(found) == value
            else:
                assert found == (np.float32(value) if type(value) is float else value)
        for name, tensor in random_tensors().items():
            assert file.tensors[name].shape == tensor.shape
            assert np.array_equal(file.tensor(name), tensor)


def test_tensors_outlive_the_file(small: Path) -> None:
    with GgufFile(small) as file:
        tensor = file.tensor("output_norm.weight")
    assert np.array_equal(tensor, random_tensors()["output_norm.weight"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"GGU", "truncated: the magic number needs bytes up to 4, the file has 3"),
        (b"PK\x03\x04 a zip file", r"not a GGUF file (it does not begin with the letters GGUF)"),
        (b"GGUF" + struct.pack("<I", 9), "GGUF version must be 2 or 3, not 9"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
            f"truncated: number of tensors is {1 << 60:,}, more than the file can hold",
        ),
    ],
)
def test_foreign_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "f.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=f"^{re.escape(f'{path}: {reason}')}$"):
        GgufFile(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"cannot be read \(No such file or directory\)$"):
        GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(ModelFormatError, match=r"cannot be read \(Is a directory\)$"):
        GgufFile(tmp_path)


def test_unsupported_type_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t.gguf", {}, {"t": np.zeros((2, 32), np.int8)})
    with pytest.raises(ModelFormatError, match=r": tensor t has type I8; supported are F32, F16"):
        GgufFile(path)


def test_unknown_type_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t.gguf", {}, {"name": np.zeros((2, 32), np.float32)})
    content = bytearray(path.read_bytes())
    at = content.index(b"name") + 4 + 4 + 16
    assert content[at : at + 4] == bytes(4)
    content[at] = 250
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r": tensor name has the unknown type number 250$"):
        GgufFile(path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t.gguf", {}, {"t": np.full((1, 32), np.nan, np.float32)})
    with GgufFile(path) as file, pytest.raises(ModelFormatError, match="t holds values that are"):
        file.tensor("t")


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_scales_that_are_not_finite_are_refused(tmp_path: Path, name: str) -> None:
    path = write_gguf(
        tmp_path / "t.gguf", {}, {"t": np.ones((1, 32), np.float32)}, {"t": Type[name]}
    )
    with GgufFile(path) as file:
        start = file.tensors["t"].start
    content = bytearray(path.read_bytes())
    content[start : start + 2] = np.float16(np.inf).tobytes()
    content[start + 2] = 0
    path.write_bytes(content)
    with GgufFile(path) as file:
        with pytest.raises(ModelFormatError, match="t holds values that are"):
            file.tensor("t")
        if name != "Q8_0":
            with pytest.raises(ModelFormatError, match="t holds values that are"):
                file.int4("t")


def test_missing_tensor_is_named(small: Path) -> None:
    with GgufFile(small) as file, pytest.raises(ModelFormatError, match=r": tensor x is missing$"):
        file.tensor("x")
