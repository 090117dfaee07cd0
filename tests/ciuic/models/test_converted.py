"""`ciuic convert`: the same tokens from weights that are mapped, and folders that are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ciuic.cli import main
from ciuic.errors import ModelFormatError, UsageError
from ciuic.models import converted, weight_file
from ciuic.models.converted import convert, verify
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.quantize import QuantizedMatrix

from .conftest import Write

IDS = [1, 5, 3, 9]


@pytest.fixture(params=converted.FORMATS)
def form(request: pytest.FixtureRequest) -> converted.Format:
    return cast("converted.Format", request.param)


@pytest.fixture
def folder(small_model: Write, tmp_path: Path, form: converted.Format) -> Path:
    """A converted small model."""
    path = tmp_path / "converted"
    with load_model(small_model(), quantize=form) as model:
        convert(model, path, form=form)
    return path


def replace(path: Path, contents: bytes) -> None:
    """Write another file in place of one that may still be mapped."""
    path.unlink()
    path.write_bytes(contents)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_model_has_the_same_logits(
    small_model: Write, tmp_path: Path, form: converted.Format, seed: int, tied: bool
) -> None:
    source = small_model(seed, tied=tied)
    with load_model(source, quantize=form) as model:
        convert(model, tmp_path / "c", form=form)
        want, text = model.logits(IDS), "".join(model.generate("the", 4))
    source.unlink()
    quantize: Any
    for quantize in ("auto", form):
        with load_model(tmp_path / "c", quantize=quantize) as model:
            np.testing.assert_array_equal(model.logits(IDS), want, f"seed {seed}")
            assert "".join(model.generate("the", 4)) == text
    verify(tmp_path / "c")


def test_a_hugging_face_model_has_the_same_logits(tmp_path: Path, form: converted.Format) -> None:
    with load_model(DEFAULT_MODEL, quantize=form) as model:
        convert(model, tmp_path / "c", form=form)
        want, prompt = model.logits(IDS), model.encode("the", raw=True)
    with load_model(tmp_path / "c") as model:
        np.testing.assert_array_equal(model.logits(IDS), want)
        assert model.encode("the", raw=True) == prompt
    verify(tmp_path / "c")


@pytest.mark.parametrize("form", ["int8"], indirect=True)
def test_weights_are_the_mapped_file(folder: Path) -> None:
    with load_model(folder) as model:
        weight = model.layers[0].weights["gate"]
        assert isinstance(weight, QuantizedMatrix)
        base = weight.values
        while isinstance(base, np.ndarray):
            assert not base.flags.writeable
            base = base.base
        assert isinstance(base, memoryview)  # of the map
        held = model.runtime.device("cpu").hold(weight)
        model.runtime.synchronize()
        if hasattr(held.data, "values") and held.data.values.dtype == np.int8:
            assert np.shares_memory(held.data.values, weight.values)


def test_other_forms_are_refused(folder: Path, form: converted.Format) -> None:
    quantize: Any
    for quantize in {None, *converted.FORMATS} - {form}:
        with pytest.raises(UsageError, match=f"has weights as {form!r} only, not as {quantize!r}$"):
            load_model(folder, quantize=quantize)


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_int4_rows_are_what_they_were(k: int) -> None:
    values = np.random.default_rng(k).integers(-8, 8, (5, k), np.int8)
    packed = weight_file._packed(values)
    assert packed.shape == (5, -(-k // 2))
    np.testing.assert_array_equal(weight_file._unpacked(packed, k), values)


def test_int4_takes_fewer_bytes(tmp_path: Path) -> None:
    sizes = {}
    for form in converted.FORMATS:
        with load_model(DEFAULT_MODEL, quantize=form) as model:
            convert(model, tmp_path / form, form=form)
        sizes[form] = (tmp_path / form / converted.WEIGHTS).stat().st_size
    assert sizes["int4"] < 0.9 * sizes["int8"]  # table and head are the same in both


def test_a_changed_byte_is_found(folder: Path) -> None:
    path = folder / converted.WEIGHTS
    contents = bytearray(path.read_bytes())
    contents[-3] ^= 1
    path.write_bytes(contents)
    with pytest.raises(ModelFormatError, match=r"weights\.safetensors: sha256 must be \w+, not"):
        verify(folder)
    (folder / converted.GGUF_HEADER).unlink()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        verify(folder)


def test_truncated_files_are_refused(folder: Path) -> None:
    path = folder / converted.WEIGHTS
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in (0, 7, 8, 100, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()):
        replace(path, whole[:length])
        with pytest.raises(ModelFormatError):
            load_model(folder)


def test_flipped_header_bytes_are_refused_or_read(folder: Path) -> None:
    path = folder / converted.WEIGHTS
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        contents = bytearray(whole)
        contents[rng.integers(0, end)] ^= 1 << rng.integers(0, 8)
        replace(path, contents)
        try:
            with load_model(folder) as model:
                model.load()
        except ModelFormatError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "manifest", [{}, {"version": 2, "format": "int8"}, {"version": 1, "format": "int3"}]
)
def test_other_manifests_are_refused(folder: Path, manifest: dict[str, object]) -> None:
    (folder / converted.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        ModelFormatError, match="version must be 1 and format one of int8, int4, not"
    ):
        load_model(folder)
    with pytest.raises(ModelFormatError, match="sha256 must name"):
        verify(folder)


def test_an_interrupted_conversion_leaves_nothing(small_model: Write, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    target = tmp_path / "out"
    target.mkdir()
    with load_model(small_model(), quantize="int8") as model, pytest.raises(KeyboardInterrupt):
        convert(model, target / "c", report=interrupt)
    assert list(target.iterdir()) == []


def test_the_command(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = str(small_model()), tmp_path / "c"
    assert main(["convert", source, "-o", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    assert report == {"path": str(folder), "bytes": nbytes, "checked": False}
    assert main(["convert", source, "-o", str(folder)]) == 2
    assert capsys.readouterr().err.endswith("c exists already; --force replaces it\n")
    (folder / "old").touch()
    assert main(["convert", source, "-o", str(folder), "--force"]) == 0
    assert not (folder / "old").exists()
    assert main(["convert", str(folder), "--check"]) == 0
    assert "as it was written" in capsys.readouterr().out
    assert main(["run", str(folder), "--prompt", "the", "--max-tokens", "2"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "small.gguf"]


def test_what_is_no_converted_model_is_never_replaced(
    small_model: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = str(small_model()), tmp_path / "mine"
    folder.mkdir()
    (folder / "letter").touch()
    assert main(["convert", source, "-o", str(folder), "--force"]) == 2
    assert "is no converted model" in capsys.readouterr().err
    assert (folder / "letter").exists()
    assert main(["convert", source, "-o", str(tmp_path / "a" / "b")]) == 2
    assert main(["convert", source]) == 2
    shutil.rmtree(folder)


def test_the_command_takes_the_form_that_a_folder_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(folder), "--raw", "--prompt", "the", "--max-tokens", "2"]) == 0
    capsys.readouterr()
