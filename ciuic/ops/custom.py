"""Operators that users write with tensor methods."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ciuic.errors import UsageError
from ciuic.expression import Program
from ciuic.tensor import CiuicTensor, trace

from .registry import OPERATORS


class CustomOperator(ABC):
    """Base of operators written with tensor methods; subclasses give ``forward``."""

    _traces: dict[Any, tuple[Program, tuple[CiuicTensor, ...]]]

    def __new__(cls, *_arguments: Any, **_named: Any) -> CustomOperator:
        operator = super().__new__(cls)
        operator._traces = {}  # here, so that subclasses need not call __init__
        return operator

    @abstractmethod
    def forward(self, *inputs: Any) -> CiuicTensor:
        """Return the result from `CiuicTensor` inputs, using their methods only."""

    def __call__(self, *inputs: CiuicTensor) -> CiuicTensor:
        return self.forward(*inputs)

    def traced(self, inputs: Sequence[CiuicTensor]) -> tuple[Program, tuple[CiuicTensor, ...]]:
        """Return the program for inputs of these shapes and the tensors that forward brings along.

        ``forward`` runs once per combination of shapes; what the tensors it brings along hold then
        is what the program uses.
        """
        key = tuple((tensor.shape, str(tensor.dtype)) for tensor in inputs)
        if key not in self._traces:
            self._traces[key] = trace(self.forward, inputs, type(self).__name__)
        return self._traces[key]


_registered: dict[str, type[CustomOperator]] = {}
_lock = threading.Lock()


def register_operator(name: str, operator: type[CustomOperator]) -> None:
    """Make a custom operator usable by name: ``runtime.run(name, inputs, **arguments)``.

    Keyword arguments of ``run`` go to the operator's constructor.

    Raises
    ------
    UsageError
        If the name is taken or no identifier, or the operator no `CustomOperator` class.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(f"operator name must be an identifier, not {name!r}")
    if not (isinstance(operator, type) and issubclass(operator, CustomOperator)):
        raise UsageError(f"operator must be a subclass of CustomOperator, not {operator!r}")
    with _lock:
        if name in OPERATORS or name in _registered:
            raise UsageError(f"operator name must be new, not {name!r}")
        _registered[name] = operator


def registered_operator(name: str) -> type[CustomOperator] | None:
    """Return the custom operator of a name, if there is one."""
    return _registered.get(name)
