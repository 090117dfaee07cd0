"""Program: what one token goes through, recorded once and run as one task.

The steps' results have places in one arena, so that a run is nothing but the kernels in C, one
after another: no Python between them. That is most of the time of a small model's token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.ops import OPERATORS

from .array import DeviceArray, Storage
from .native_calls import ARGUMENTS, Arguments, Calls, host_operand


class Step(NamedTuple):
    """One operator of a program; ``result`` is the first input if it works in place."""

    op: str
    inputs: Sequence[DeviceArray]
    result: DeviceArray
    attributes: dict[str, Any]


class Placement(NamedTuple):
    """Which of so many bytes of an arena the storages of results have."""

    nbytes: int
    parts: Sequence[tuple[Storage, slice]]


class Program:
    """Steps for one token on the CPU device.

    Parameters
    ----------
    x : float32 (1, d)
        What the first step takes; a run copies its input there.
    position : int32 (1,)
        Of the token.
    steps
        In order. The attribute ``offset`` of each is the token's position.
    result
        Of the last step: a run's own.
    arena
        Where the other steps' results lie, those in place left out.
    """

    def __init__(
        self,
        x: DeviceArray,
        position: DeviceArray,
        steps: Sequence[Step],
        result: DeviceArray,
        arena: Placement,
    ) -> None:
        self.result = result
        self._arena = arena
        self._x = x
        self._position = position
        self._steps = steps
        self._arguments: list[Arguments] = []  # keeps alive what the calls point to
        self._calls = b""
        self._memory: tuple[npt.NDArray[Any], ...] = ()  # that the calls point to

    @property
    def arena_bytes(self) -> int:
        """Bytes of all intermediate results: of the device's arena, while it runs."""
        return self._arena.nbytes

    def run(
        self,
        calls: Calls,
        memory: npt.NDArray[np.int8],
        x: npt.NDArray[np.float32],
        output: npt.NDArray[np.float32],
        offset: int,
    ) -> None:
        """Run the steps; on the device's queue.

        Parameters
        ----------
        calls
            Of the kernels.
        memory : int8 (arena_bytes,)
            For the intermediate results.
        x, output
            Operand of the first step, and where the last one's result goes.
        offset
            The token's position.

        Memory and output that are the same as last time save time.
        """
        before = self._memory
        if not before or before[0] is not memory or before[1] is not output:
            self._pack(calls, memory, output)
        host_operand(self._x)[...] = x
        host_operand(self._position)[...] = offset
        calls.run(self._calls, offset)

    def _pack(
        self, calls: Calls, memory: npt.NDArray[np.int8], output: npt.NDArray[np.float32]
    ) -> None:
        self.result.storage.data = output
        for storage, part in self._arena.parts:
            storage.data = memory[part].view(np.float32)
        packed = []
        self._arguments.clear()
        for op, inputs, result, attributes in self._steps:
            arguments = ARGUMENTS[op](*inputs[OPERATORS[op].in_place :], **attributes)
            self._arguments.append(arguments)
            packed.append(calls.pack(op, result, arguments))
        self._calls, self._memory = b"".join(packed), (memory, output)
