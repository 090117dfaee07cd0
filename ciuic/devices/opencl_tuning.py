"""How the OpenCL device cuts work into work-items, on processors and on GPUs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .opencl_runtime import is_cpu


class Tuning(NamedTuple):
    """How work is cut into work-items. Integers do not depend on it, nor floats by much.

    Attributes
    ----------
    group : int
        Work-items that share a row.
    columns : int
        Of a work-item, in products with a weight.
    block : int
        Columns of an integer weight that lie together.
    lanes : int
        Elements of a head of a work-item, in attention.
    real : str
        "double", or "float" for a device that has no other: the type of sums.
    lone : str
        Attribute of kernels that have vectors already: work-items are not made into some.
    """

    group: int
    columns: int
    block: int
    lanes: int
    real: str = "double"
    lone: str = ""

    def up_to_blocks(self, n: int) -> int:
        """Return columns with those that fill the last block."""
        return -(-n // self.block) * self.block

    @property
    def real_dtype(self) -> np.dtype[Any]:
        """What numpy calls ``real``: its "float" is a double."""
        return np.dtype(np.float64 if self.real == "double" else np.float32)


# A processor wants whole vectors, none made of work-items, and a contiguous stream for each
# work-item; a GPU neighbours side by side.
CPU_TUNING = Tuning(
    group=16, columns=16, block=16, lanes=8, lone="__attribute__((intel_vec_len_hint(1)))"
)
GPU_TUNING = Tuning(group=64, columns=4, block=64, lanes=2)


def tuning_of(device: Any) -> Tuning:
    """Return the tuning of a device's kind."""
    tuning = CPU_TUNING if is_cpu(device) else GPU_TUNING
    has_double = "cl_khr_fp64" in device.extensions.split()
    return tuning if has_double else tuning._replace(real="float")
