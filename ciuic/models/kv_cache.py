"""Keys and values of the tokens so far, for one sequence.

Each layer's arrays grow in blocks of token slots, so that memory follows the context instead of
the model's longest one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError

BLOCK_SLOTS = 256  # token slots that a layer's arrays grow by


class LayerCache:
    """Keys and values of one layer, float32, (tokens, kv_heads, head_dim) each."""

    def __init__(self, n_kv_heads: int, head_dim: int, max_seq_len: int) -> None:
        self._slot_shape = (n_kv_heads, head_dim)
        self._max_seq_len = max_seq_len
        self._keys = np.empty((0, *self._slot_shape), np.float32)  # (slots, kv_heads, head_dim)
        self._values = np.empty((0, *self._slot_shape), np.float32)  # (slots, kv_heads, head_dim)
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, unused slots included."""
        return self._keys.nbytes + self._values.nbytes

    def append(
        self, keys: npt.NDArray[np.float32], values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Add (t, kv_heads, head_dim) keys and values; return all of them so far as views.

        Raises
        ------
        UsageError
            If the context would grow beyond the model's longest.
        """
        stop = self.length + len(keys)
        if stop > self._max_seq_len:
            raise UsageError(f"the context must be at most {self._max_seq_len} tokens, not {stop}")
        if stop > len(self._keys):
            self._grow(stop)
        self._keys[self.length : stop] = keys
        self._values[self.length : stop] = values
        self.length = stop
        return self._keys[:stop], self._values[:stop]

    def _grow(self, slots: int) -> None:
        slots = -(-slots // BLOCK_SLOTS) * BLOCK_SLOTS
        for name in ("_keys", "_values"):
            grown = np.empty((slots, *self._slot_shape), np.float32)
            grown[: self.length] = getattr(self, name)[: self.length]
            setattr(self, name, grown)


class KvCache:
    """The caches of all layers of one sequence."""

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, max_seq_len: int) -> None:
        self.layers = [LayerCache(n_kv_heads, head_dim, max_seq_len) for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """Tokens in the cache, counted at the last layer: the tokens that are through."""
        return self.layers[-1].length

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.layers)
