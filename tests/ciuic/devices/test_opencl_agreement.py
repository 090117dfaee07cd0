"""OpenCL and the CPU agree to the last bit, so that a layer may move without changing a token.

INT8 quantization turns a difference in the last digit into one of a whole step, now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ciuic.devices.opencl import list_devices
from ciuic.quantize import quantize_columns
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

pytestmark = [
    pytest.mark.opencl,
    pytest.mark.skipif(
        not list_devices(), reason="needs an OpenCL runtime: pip install 'ciuic[opencl-cpu]'"
    ),
]

T, HEADS, KV_HEADS, HEAD_DIM, OFFSET = 37, 6, 2, 32, 100
DIM, HIDDEN = HEADS * HEAD_DIM, 500


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    made = Runtime()
    if "fp64" not in " ".join(made.device("opencl")._context.devices[0].extensions.split()):
        pytest.skip("needs an OpenCL device with double precision")
    yield made
    made.manager.close()


def draw(seed: int, *shape: int) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("rms_norm", [draw(1, T, DIM), draw(2, DIM)], {"eps": 1e-5}),
    (
        "rope",
        [draw(3, T, HEADS, HEAD_DIM), np.arange(4000, 4000 + T, dtype=np.int32)],
        {"theta": 1e5},
    ),
    (
        "attention",
        [
            draw(4, T, HEADS, HEAD_DIM),
            *(draw(seed, OFFSET + T, KV_HEADS, HEAD_DIM) for seed in (5, 6)),
        ],
        {"offset": OFFSET, "scale": HEAD_DIM**-0.5},
    ),
    ("softmax", [draw(7, T, HIDDEN)], {"scale": 1.3}),
    ("silu_mul", [draw(8, T, HIDDEN), draw(9, T, HIDDEN)], {}),
    ("add", [draw(10, T, DIM), draw(11, T, DIM)], {}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES, ids=[case[0] for case in CASES])
def test_operators_agree(
    runtime: Runtime, op: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    cpu, gpu = (
        runtime.run(op, inputs, device=device, **attributes).numpy() for device in ("cpu", "opencl")
    )
    np.testing.assert_array_equal(gpu, cpu)


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_of_quantized_layers_agrees(runtime: Runtime, seed: int) -> None:
    norm = CiuicTensor.from_numpy(draw(seed + 30, DIM))
    up, gate, down = (
        quantize_columns(draw(seed + number, *shape))
        for number, shape in ((40, (DIM, HIDDEN)), (50, (DIM, HIDDEN)), (60, (HIDDEN, DIM)))
    )
    results = []
    for device in ("cpu", "opencl"):
        hidden: Any = draw(seed, T, DIM)
        for _ in range(5):
            normed = runtime.run("rms_norm", [hidden, norm], device=device, eps=1e-5)
            wide = [runtime.run("linear", [normed, w], device=device) for w in (gate, up)]
            mixed = runtime.run("silu_mul", wide, device=device)
            narrow = runtime.run("linear", [mixed, down], device=device)
            hidden = runtime.run("add", [narrow, normed], device=device)
        results.append(hidden.numpy())
    np.testing.assert_array_equal(*results, err_msg=f"seed {seed}")
