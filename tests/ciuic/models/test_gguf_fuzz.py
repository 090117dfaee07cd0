"""Broken GGUF files: a `ModelFormatError` or a file that reads within its bounds; never more."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ciuic.errors import ModelFormatError
from ciuic.models.gguf_file import ARRAY, MOST_THINGS, SCALARS, STRING, GgufFile
from ciuic.models.loading import load_model

from . import small_deepseek, small_gguf
from .conftest import Rewrite, write_gguf

CASES = 10_000  # of random changes, of many kinds at once
PARTS = 4
PYTHON_NBYTES = 200_000  # what Python itself takes to open and read the small file
F32, Q8_0 = 0, 8
Outcomes = Callable[[Iterator[bytes]], tuple[int, int]]


class Writer:
    """Writes a header field by field, and remembers where each number that steers reading is."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.fields: dict[str, tuple[int, str]] = {}  # name -> offset and struct format

    def number(self, code: str, value: float, name: str) -> None:
        self.fields[name] = len(self.data), code
        self.data += struct.pack(f"<{code}", value)

    def text(self, value: str, name: str) -> None:
        self.number("Q", len(value.encode()), f"length of {name}")
        self.data += value.encode()

    def key(self, name: str, kind: int) -> None:
        self.text(name, name)
        self.number("I", kind, f"type of {name}")


def small_file() -> Writer:
    """Return a file with a key of every type, arrays, and three tensors."""
    writer = Writer()
    writer.data += b"GGUF"
    writer.number("I", 3, "version")
    writer.number("Q", 3, "tensors")
    writer.number("Q", len(SCALARS) + 4, "keys")
    writer.key("general.architecture", STRING)
    writer.text("llama", "architecture")
    writer.key("general.alignment", 4)
    writer.number("I", 32, "alignment")
    for kind, code in SCALARS.items():
        writer.key(f"s{kind}", kind)
        writer.number(code, 1, f"value {kind}")
    writer.key("words", ARRAY)
    writer.number("I", STRING, "type of items of words")
    writer.number("Q", 3, "count of words")
    for word in ("a", "", "thé"):
        writer.text(word, f"word {word}")
    writer.key("numbers", ARRAY)
    writer.number("I", 5, "type of items of numbers")
    writer.number("Q", 5, "count of numbers")
    writer.data += np.arange(5, dtype="<i4").tobytes()
    tensors = {"f": (F32, (8, 4), 128), "q": (Q8_0, (64, 2), 136), "e": (F32, (2, 3, 4), 96)}
    at = 0
    for name, (type_, shape, nbytes) in tensors.items():
        writer.text(name, f"tensor {name}")
        writer.number("I", len(shape), f"dimensions of {name}")
        for axis, size in enumerate(shape):
            writer.number("Q", size, f"shape {axis} of {name}")
        writer.number("I", type_, f"type of tensor {name}")
        writer.number("Q", at, f"offset of {name}")
        at += -(-nbytes // 32) * 32
    writer.data += bytes(-len(writer.data) % 32)
    return writer


HEADER = small_file()
WHOLE = bytes(HEADER.data) + np.linspace(-1, 1, 104, dtype="<f4").tobytes()[:384]
BITS = {"B": 8, "b": 8, "H": 16, "h": 16, "I": 32, "i": 32, "Q": 64, "q": 64}


def read_all(path: Path) -> None:
    """Open a file, read all of it, and check that what was read is where the file says."""
    with GgufFile(path) as file:
        infos = sorted(file.tensors.values(), key=lambda info: info.start)
        assert all(one.start + one.nbytes <= two.start for one, two in pairwise(infos))
        assert all(info.start + info.nbytes <= path.stat().st_size for info in infos)
        for name, info in file.tensors.items():
            assert file.tensor(name).shape == info.shape
            if len(info.shape) == 3:
                assert file.tensor(name, info.shape[0] - 1).shape == info.shape[1:]
        for value in file.metadata.values():
            assert len(value) >= 0 if hasattr(value, "__len__") else value is not None


@pytest.fixture
def outcomes(tmp_path: Path, rewrite: Rewrite) -> Outcomes:
    """Return what counts files that were refused and that were read; all else fails the test."""
    path = tmp_path / "broken.gguf"

    def count(cases: Iterator[bytes]) -> tuple[int, int]:
        refused = read = 0
        tracemalloc.start()
        for case, content in enumerate(cases):
            rewrite(path, content)
            try:
                read_all(path)
                read += 1
            except ModelFormatError:
                refused += 1
            except Exception as error:
                pytest.fail(f"case {case}: {error!r}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * len(WHOLE) + PYTHON_NBYTES  # who asks for gigabytes gets none
        return refused, read

    return count


def test_the_file_itself_is_read(outcomes: Outcomes) -> None:
    assert outcomes(iter([WHOLE])) == (0, 1)


def test_every_truncation_is_refused(outcomes: Outcomes) -> None:
    cuts = (WHOLE[:cut] for cut in range(len(WHOLE)))
    assert outcomes(cuts) == (len(WHOLE), 0)


def test_every_bit_of_the_header(outcomes: Outcomes) -> None:
    def cases() -> Iterator[bytes]:
        for position in range(len(HEADER.data)):
            broken = bytearray(WHOLE)
            broken[position] ^= 1 << position % 8
            yield bytes(broken)

    refused, read = outcomes(cases())
    assert refused > 200
    assert read > 100  # texts and values of keys may be anything


@pytest.mark.parametrize(
    "name", [name for name, (_, code) in HEADER.fields.items() if code in BITS]
)
def test_absurd_numbers(outcomes: Outcomes, name: str) -> None:
    """Each count, length, type, dimension and offset in turn becomes each of these."""
    at, code = HEADER.fields[name]
    bits, size = BITS[code], len(WHOLE)
    absurd = {0, 1, 2, 3, 5, 7, 9, 13, 31, 33, 255, size - 1, size, size + 1}
    absurd |= {(1 << power) + more for power in (16, 31, 32, 40, 62, 63, 64) for more in (-1, 0, 1)}

    def cases() -> Iterator[bytes]:
        for value in sorted(absurd):
            broken = bytearray(WHOLE)
            broken[at : at + bits // 8] = (value & ((1 << bits) - 1)).to_bytes(bits // 8, "little")
            yield bytes(broken)

    refused, _ = outcomes(cases())
    assert refused > 0 or name.startswith(("value", "length of s"))


@pytest.mark.parametrize("part", range(PARTS))
def test_random_changes(outcomes: Outcomes, part: int) -> None:
    """Bits flipped, bytes replaced, pieces cut out or doubled, numbers made huge; up to eight."""
    rng = np.random.default_rng((90, part))
    fields = list(HEADER.fields.values())

    def cases() -> Iterator[bytes]:
        for _ in range(CASES // PARTS):
            broken = bytearray(WHOLE)
            for _ in range(rng.integers(1, 9)):
                at = int(rng.integers(len(broken)))
                match rng.integers(5):
                    case 0:
                        broken[at] ^= 1 << rng.integers(8)
                    case 1:
                        broken[at] = rng.integers(256)
                    case 2:
                        del broken[at : at + int(rng.integers(1, 9))]
                    case 3:
                        broken[at:at] = broken[at : at + int(rng.integers(1, 9))]
                    case _:
                        start, code = fields[rng.integers(len(fields))]
                        count = struct.calcsize(code)
                        broken[start : start + count] = rng.bytes(count)
            yield bytes(broken)

    refused, read = outcomes(cases())
    assert refused > CASES // PARTS // 2
    assert read > CASES // PARTS // 50


def changed(**values: int) -> bytes:
    """Return the file with fields of the first tensors changed, by their names with _ for space."""
    broken = bytearray(WHOLE)
    for name, value in values.items():
        at, code = HEADER.fields[name.replace("_", " ")]
        struct.pack_into(f"<{code}", broken, at, value)
    return bytes(broken)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (changed(offset_of_q=96), "tensors f and q overlap"),
        (changed(offset_of_e=0), "tensors [fe] and [fe] overlap"),
        (changed(offset_of_e=1 << 63), "truncated: tensor e needs bytes up to"),
        (changed(type_of_tensor_f=24), "tensor f has type I8; supported are"),
        (changed(type_of_tensor_f=200), "tensor f has the unknown type number 200"),
        (changed(shape_0_of_q=33), "tensor q of type Q8_0 must have rows of whole blocks of 32"),
        (changed(shape_1_of_f=1 << 62), "truncated: tensor f needs bytes up to"),
        (changed(dimensions_of_f=5), "tensor f must have 1 to 4 dimensions, not 5"),
        (changed(alignment=48), "general.alignment must be a power of two, not 48"),
        (changed(count_of_words=1 << 40), "truncated: length of words is 1,099,511,627,776, more"),
        (changed(type_of_words=77), "key words has the unknown type 77"),
    ],
)
def test_reasons_are_told(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "f.gguf").write_bytes(content)
    with pytest.raises(ModelFormatError, match=reason):
        GgufFile(tmp_path / "f.gguf")


def test_too_many_keys_are_refused(tmp_path: Path) -> None:
    many = b"GGUF" + struct.pack("<IQQ", 3, 0, MOST_THINGS + 1) + bytes(13 * (MOST_THINGS + 1))
    (tmp_path / "f.gguf").write_bytes(many)
    with pytest.raises(ModelFormatError, match="must have at most 65,536 tensors and as many keys"):
        GgufFile(tmp_path / "f.gguf")


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_long_arrays_take_no_more_than_twice_the_file(tmp_path: Path, kind: str) -> None:
    """As Python's own objects they would take six and eight times that."""
    values: list[str] | bytes = ["ab"] * 50_000 if kind == "words" else bytes(500_000)
    writer = Writer()
    writer.data += b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    writer.key("k", ARRAY)
    writer.number("I", STRING if kind == "words" else 0, "type of items")
    writer.number("Q", len(values), "count")
    word = struct.pack("<Q", 2) + b"ab"
    writer.data += word * len(values) if kind == "words" else bytes(len(values))
    path = tmp_path / "f.gguf"
    path.write_bytes(writer.data)
    tracemalloc.start()
    with GgufFile(path) as file:
        found = file.metadata["k"]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * len(writer.data)
    assert not isinstance(found, bool | int | float)
    assert len(found) == len(values)
    assert found[len(values) - 1] == values[-1]


@pytest.mark.parametrize("key_part", range(PARTS))
def test_models_of_changed_metadata_load_or_are_refused(tmp_path: Path, key_part: int) -> None:
    """Every key of a DeepSeek's file in turn becomes each of these, whatever its type was."""
    keys = small_deepseek.config("v2")
    architecture = "deepseek2"
    metadata = {
        **{
            f"{architecture}.{key}": value
            for key, value in small_gguf.deepseek_metadata(keys, absorbed=True).items()
        },
        f"{architecture}.rope.scaling.yarn_ext_factor": 1.0,
        **small_gguf.tokenizer_metadata(),
        "tokenizer.chat_template": "{{ messages }}",
    }
    tensors = small_gguf.converted(small_deepseek.random_tensors(keys, 0), keys, absorbed=True)
    others = [0, 1, 2, 3, 1 << 31, -1.5, 1e30, float("nan"), "", "x", ["x"], [1, 2], [0.5], True]
    loaded = refused = 0
    for key in list(metadata)[key_part::PARTS]:
        for other in others:
            path = tmp_path / "m.gguf"
            write_gguf(path, {**metadata, key: other}, tensors, architecture=architecture)
            try:
                with load_model(path) as model:
                    model.encode("the a", raw=True)
                    if not key.startswith("tokenizer."):
                        assert np.isfinite(model.logits([5])).all()
                loaded += 1
            except ModelFormatError:
                refused += 1
            except Exception as error:
                pytest.fail(f"{key} = {other!r}: {error!r}")
    assert refused > loaded > 0
