"""TensorPool: tensors that are used again once nobody else holds them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError
from ciuic.tensor import CiuicTensor, checked_dtype, checked_shape


class TensorPool:
    """Hands out tensors that were added to it and that nobody but the pool refers to.

    A tensor's contents are whatever its last user left there. Its memory is never shared with
    an array that somebody still sees: `CiuicTensor.copy_from` looks after that.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[tuple[int, ...], np.dtype[np.generic]], list[CiuicTensor]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._tensors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the pool, in use or not."""
        with self._lock:
            return sum(t.nbytes for tensors in self._tensors.values() for t in tensors)

    def get_tensor(
        self, shape: Sequence[int], dtype: npt.DTypeLike = "float32"
    ) -> CiuicTensor | None:
        """Return a tensor of this shape and dtype that is free, or None if there is none.

        Raises
        ------
        ShapeError
            If no tensor can have such a shape or dtype.
        """
        key = (checked_shape(shape), checked_dtype(dtype))
        with self._lock:
            tensors = self._tensors.get(key, [])
            for index in range(len(tensors)):
                if sys.getrefcount(tensors[index]) == _HELD_BY_A_LIST_ONLY:
                    return tensors[index]
        return None

    def add_tensor(self, tensor: CiuicTensor) -> None:
        """Add a tensor; it can be handed out again when its user has let go of it.

        Raises
        ------
        UsageError
            If it is no `CiuicTensor`.
        """
        if not isinstance(tensor, CiuicTensor):
            raise UsageError(f"tensor must be a CiuicTensor, not {type(tensor).__name__}")
        with self._lock:
            tensors = self._tensors.setdefault((tensor.shape, tensor.dtype), [])
            if not any(known is tensor for known in tensors):
                tensors.append(tensor)

    def clear(self) -> None:
        """Forget all tensors; those in use live on with their users."""
        with self._lock:
            self._tensors.clear()


# What getrefcount counts of an object that one list holds, on this interpreter.
_PROBE = [CiuicTensor((1,))]
_HELD_BY_A_LIST_ONLY = sys.getrefcount(_PROBE[0])
