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
    """An arena: int8 memory (nbytes,), and which bytes of it the storages of results have."""

    memory: DeviceArray
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
        The array that a run returns a copy of.
    arena
        Where the steps' results lie, those in place left out.
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

    @property
    def arena_bytes(self) -> int:
        """Bytes of all intermediate results: the arena's high-water mark."""
        return self._arena.memory.nbytes

    def run(
        self,
        calls: Calls,
        inputs: Sequence[DeviceArray],
        _output: DeviceArray,
        attributes: dict[str, Any],
    ) -> npt.NDArray[np.float32]:
        """Run the steps; on the device's queue."""
        if not self._calls:
            self._pack(calls)
        host_operand(self._x)[...] = host_operand(inputs[0])
        host_operand(self._position)[...] = attributes["offset"]
        calls.run(self._calls, attributes["offset"])
        result: npt.NDArray[np.float32] = host_operand(self.result).copy()
        return result

    def _pack(self, calls: Calls) -> None:
        memory: npt.NDArray[np.int8] = host_operand(self._arena.memory)
        for storage, part in self._arena.parts:
            storage.data = memory[part].view(np.float32)
        packed = []
        for op, inputs, result, attributes in self._steps:
            operands = [host_operand(array) for array in inputs]
            if OPERATORS[op].in_place:
                operands.pop(0)
            arguments = ARGUMENTS[op](*operands, **attributes)
            self._arguments.append(arguments)
            packed.append(calls.pack(op, host_operand(result), arguments))
        self._calls = b"".join(packed)
