"""FP8 weights: every byte by the format's definition, blocks cut off at the edges."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ciuic.errors import ModelFormatError
from ciuic.models.float8 import e4m3_values, read_blocks, scales_shape
from ciuic.models.huggingface import HuggingFaceFolder

from . import small_deepseek, small_folder

BLOCK = (32, 16)  # of small_deepseek.FLOAT8


def meaning(code: int) -> float:
    """Return what a byte stands for, one field at a time."""
    sign, exponent, mantissa = code >> 7, (code >> 3) & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return float("nan")
    magnitude = mantissa / 512 if exponent == 0 else 2.0 ** (exponent - 7) * (8 + mantissa) / 8
    return -magnitude if sign else magnitude


def test_every_byte_stands_for_its_number() -> None:
    values = e4m3_values()
    assert values.dtype == np.float32
    assert np.array_equal(values, [meaning(code) for code in range(256)], equal_nan=True)
    assert np.nanmax(values) == 448


@pytest.mark.parametrize("shape", [(1, 1), (32, 16), (33, 17), (80, 48), (7, 100)])
def test_each_block_has_its_scale(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    weight = small_deepseek.random_float8(rng, "w", shape, list(BLOCK))
    codes, scales = weight["w"], weight["w_scale_inv"]
    assert scales.shape == scales_shape(shape, BLOCK)
    got = read_blocks(codes, scales, BLOCK)
    for i, j in np.ndindex(shape):
        want = np.float32(meaning(int(codes[i, j]))) * scales[i // BLOCK[0], j // BLOCK[1]]
        assert got[i, j] == want, (i, j)


def written(path: Path, **changes: np.ndarray | None) -> Path:
    """Write a folder with one FP8 weight "w" and its scales, some of them changed or left out."""
    rng = np.random.default_rng(4)
    tensors = {**small_deepseek.random_float8(rng, "w", (40, 20), list(BLOCK)), **changes}
    keys = {"quantization_config": small_deepseek.FLOAT8}
    return small_folder.write_model(
        path, keys, {name: tensor for name, tensor in tensors.items() if tensor is not None}
    )


def test_folder_reads_a_weight_with_its_scales(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    stored = small_deepseek.random_float8(rng, "w", (40, 20), list(BLOCK))
    folder = HuggingFaceFolder(written(tmp_path))
    assert np.array_equal(folder.tensor("w"), read_blocks(*stored.values(), BLOCK))
    folder.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"w_scale_inv": None}, "tensor w must have scales of shape (2, 2) for its blocks"),
        ({"w_scale_inv": np.ones((2, 3), np.float32)}, "tensor w must have scales of shape (2, 2)"),
        ({"w_scale_inv": np.ones((2, 2), np.uint8)}, "tensor w must have scales of shape (2, 2)"),
        ({"w": np.ones(3, np.uint8)}, "tensor w has type F8_E4M3, which must be a matrix"),
    ],
)
def test_weights_without_fitting_scales_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray | None], reason: str
) -> None:
    with pytest.raises(ModelFormatError, match=re.escape(reason)):
        HuggingFaceFolder(written(tmp_path, **changes))


def test_weights_without_a_block_size_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / "config.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="quantization_config tells the size of its blocks"):
        HuggingFaceFolder(path)


def test_nan_is_refused(tmp_path: Path) -> None:
    codes = np.ones((40, 20), np.uint8)
    codes[3, 4] = 0xFF
    folder = HuggingFaceFolder(written(tmp_path, w=codes))
    with pytest.raises(ModelFormatError, match="tensor w holds values that are not finite"):
        folder.tensor("w")
    folder.close()
