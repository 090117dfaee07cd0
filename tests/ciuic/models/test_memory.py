"""What loading a model takes at most: weights as they are stored, never a float copy of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ciuic.devices import native
from ciuic.models.converted import convert
from ciuic.models.loading import load_model

from .conftest import metadata, random_tensors, write_gguf

pytestmark = [
    pytest.mark.skipif(native.load().library is None, reason=native.HOW_TO_GET),
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc"),
]

LAYER_ROWS, LAYER_COLUMNS = 24_576, 64
PROGRAM = """
import sys
from ciuic.models.loading import load_model
from ciuic.runtime import default_runtime

def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) << 10

default_runtime()
with load_model(sys.argv[1], quantize="int8") as model:
    anonymous, resident = memory("RssAnon"), memory("VmRSS")
    model.load()
    list(model.generate([1, 2, 3], 4))
    print(memory("RssAnon") - anonymous, memory("VmHWM") - resident)
"""


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers whose feed-forward part is wide: 28 MB as float32."""
    rng = np.random.default_rng(0)
    tensors, keys = random_tensors(), metadata()
    keys["llama.feed_forward_length"] = LAYER_ROWS
    for name in list(tensors):
        if ".ffn_" in name and "norm" not in name:
            shape = (LAYER_ROWS, LAYER_COLUMNS)
            shape = shape[::-1] if "down" in name else shape
            tensors[name] = rng.standard_normal(shape, np.float32)
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    return write_gguf(path, keys, tensors)


def memory(path: Path) -> tuple[int, int]:
    """Return the bytes that a loaded model takes, files left out, and at most, with its file."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    held, peak = map(int, done.stdout.split())
    return held, peak


def int8_nbytes(path: Path) -> int:
    with load_model(path, quantize="int8") as model:
        return sum(weight.nbytes for layer in model.layers for _, weight in layer.weights)


def test_int8_weights_are_held_as_int8(wide_model: Path) -> None:
    nbytes = int8_nbytes(wide_model)
    assert nbytes > 9 << 20
    held, peak = memory(wide_model)
    assert held < 1.6 * nbytes  # float32 would be 4 times
    assert peak < 2 * nbytes + wide_model.stat().st_size


def test_converted_weights_are_not_held_at_all(wide_model: Path, tmp_path: Path) -> None:
    with load_model(wide_model, quantize="int8") as model:
        convert(model, tmp_path / "c")
    held, peak = memory(tmp_path / "c")
    assert held < 0.8 * int8_nbytes(wide_model)
    assert peak < held + 2 * int8_nbytes(wide_model)
