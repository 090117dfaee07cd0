"""Launching kernels of OpenCL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .opencl_runtime import opencl
from .opencl_tuning import Tuning


class Launching:
    """The part of `OpenclDevice` that starts kernels."""

    tuning: Tuning
    _program: Any
    _cl_queue: Any
    _cl_kernels: dict[str, Any]  # by name; fused ones by source

    def _launch(
        self, name: str, size: tuple[int, ...], *arguments: Any, group: bool = False
    ) -> None:
        """Start a kernel over ``size`` work-items, or over so many groups."""
        kernel = self._cl_kernels.get(name)
        if kernel is None:
            kernel = self._typed(name, opencl().Kernel(self._program, name), arguments)
        self._start(kernel, size, *arguments, group=group)

    def _typed(self, key: str, kernel: Any, arguments: Sequence[Any]) -> Any:
        """Return a new kernel that is told its arguments' types, and so need not look at each."""
        kernel.set_arg_types([_scalar_type(one) for one in arguments])
        self._cl_kernels[key] = kernel
        return kernel

    def _start(
        self, kernel: Any, size: tuple[int, ...], *arguments: Any, group: bool = False
    ) -> None:
        local = (self.tuning.group,) if group else None
        if group:
            size = (size[0] * self.tuning.group,)
        if 0 not in size:  # OpenCL knows no empty kernels
            kernel(self._cl_queue, size, local, *arguments)


def _scalar_type(argument: Any) -> Any:
    """Return the type of a number that a kernel takes; None for a buffer."""
    if isinstance(argument, int):
        return np.int32
    return type(argument) if isinstance(argument, np.generic) else None
