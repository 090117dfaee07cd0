"""Keys and values of the tokens so far, for one sequence, on the device that needs them.

A layer's arrays grow in blocks of token slots, so that memory follows the context instead of the
model's longest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from ciuic.devices import Device, DeviceArray
from ciuic.errors import UsageError
from ciuic.runtime import Runtime

from .cache_file import LayerArrays, read_cache, write_cache
from .placed import HOST, Placed

BLOCK_SLOTS = 256  # token slots that a layer's arrays grow by
ELEMENT_NBYTES = 4  # float32

SlotShapes = tuple[tuple[int, ...], tuple[int, ...]]


def slot_nbytes(shapes: SlotShapes) -> int:
    """Return the bytes that one token takes in one layer."""
    return ELEMENT_NBYTES * sum(math.prod(shape) for shape in shapes)


class LayerCache:
    """What attention needs of the tokens so far in one layer: two float32 arrays (slots, ...).

    Keys and values, or latents and rotary keys (`ciuic.ops.latent_attention`).

    Parameters
    ----------
    runtime
        Runs the copies.
    slot_shapes
        Shapes of one token in the two arrays, such as twice (kv_heads, head_dim).
    max_seq_len
        Longest context in tokens.

    Attributes
    ----------
    length
        Tokens in the cache.
    """

    def __init__(self, runtime: Runtime, slot_shapes: SlotShapes, max_seq_len: int) -> None:
        self._runtime = runtime
        self._slot_shapes = slot_shapes
        self._max_seq_len = max_seq_len
        self._arrays: tuple[DeviceArray, DeviceArray] | None = None
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, unused slots included."""
        return sum(array.nbytes for array in self._arrays or ())

    def append(
        self, keys: DeviceArray, values: DeviceArray, on: Placed
    ) -> tuple[DeviceArray, DeviceArray]:
        """Add t tokens to both arrays; return all slots, later ones unused.

        Parameters
        ----------
        keys, values
            Of the next tokens: (t, ...) of the shapes of the slots.
        on
            Where the cache is to be, if that has a kernel for ``kv_append``; else on the host.

        Raises
        ------
        UsageError
            If the context would grow beyond the model's longest.
        """
        device = on.home("kv_append")
        arrays = self.reserve(keys.shape[0], device)
        for array, rows in zip(arrays, (keys, values), strict=True):
            on.runtime.run("kv_append", [array, rows], device=device, offset=self.length)
        self.length += keys.shape[0]
        return arrays

    def reserve(self, tokens: int, device: Device) -> tuple[DeviceArray, DeviceArray]:
        """Return both arrays, on a device and with room for this many tokens more.

        Raises
        ------
        UsageError
            If the context would grow beyond the model's longest.
        """
        stop = self.length + tokens
        if stop > self._max_seq_len:
            raise UsageError(f"the context must be at most {self._max_seq_len} tokens, not {stop}")
        return self._with_room(stop, device)

    def truncate(self, length: int) -> None:
        """Forget the tokens after the first ``length``; their slots are written again."""
        self.length = min(self.length, length)

    def clear(self) -> None:
        """Forget all tokens and let go of the memory."""
        self._arrays = None
        self.length = 0

    def contents(self) -> LayerArrays:
        """Return what is held of the tokens so far, (length, ...) twice; wait for it."""
        if self._arrays is None:
            raise UsageError("a cache must hold at least one token to be read")
        keys, values = (array.numpy()[: self.length] for array in self._arrays)
        return keys, values

    def _with_room(self, slots: int, device: Device) -> tuple[DeviceArray, DeviceArray]:
        old = self._arrays
        if old is not None and old[0].shape[0] >= slots and old[0].device is device:
            return old
        slots = min(-(-slots // BLOCK_SLOTS) * BLOCK_SLOTS, self._max_seq_len)
        keys, values = (
            self._runtime.zeros((slots, *shape), device=device) for shape in self._slot_shapes
        )
        for array, before in zip((keys, values), old or (), strict=False):
            self._runtime.run("kv_append", [array, before], device=device, offset=0)
        self._arrays = (keys, values)
        return keys, values


class KvCache:
    """The caches of all layers of one sequence.

    Parameters
    ----------
    runtime, slot_shapes, max_seq_len
        As of a `LayerCache`.
    n_layers
        How many layers there are.
    fingerprint
        Returns the fingerprint of the model whose cache it is.

    Attributes
    ----------
    layers
        A cache for each layer.
    token_ids
        The tokens that are in it.
    """

    def __init__(
        self,
        runtime: Runtime,
        n_layers: int,
        slot_shapes: SlotShapes,
        max_seq_len: int,
        fingerprint: Callable[[], str],
    ) -> None:
        self.layers = [LayerCache(runtime, slot_shapes, max_seq_len) for _ in range(n_layers)]
        self.token_ids: list[int] = []
        self.fingerprint = fingerprint
        self._runtime = runtime
        self._slot_shapes = slot_shapes
        self._max_seq_len = max_seq_len

    @property
    def length(self) -> int:
        """Tokens that are through all layers."""
        return self.layers[-1].length

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def keep_prefix(self, token_ids: Sequence[int]) -> int:
        """Forget all but the longest common prefix with other tokens; return its length.

        The last of these tokens is never kept: it must be read to tell what comes after it.
        """
        pairs = zip(self.token_ids, token_ids[:-1], strict=False)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.truncate(kept)
        return kept

    def truncate(self, length: int) -> None:
        """Forget the tokens after the first ``length``, and those that not all layers have."""
        for layer in self.layers:
            layer.truncate(length)
        del self.token_ids[length:]

    def clear(self) -> None:
        """Forget all tokens and let go of the memory."""
        for layer in self.layers:
            layer.clear()
        self.token_ids.clear()

    def save(self, path: str | Path) -> None:
        """Write the cache to a file, whole or not at all; `Model.load_cache` reads it.

        Raises
        ------
        UsageError
            If it holds no tokens.
        ModelFormatError
            If the file cannot be written.
        """
        self.truncate(len(self.token_ids))
        layers = [layer.contents() for layer in self.layers]
        write_cache(path, self.fingerprint(), self.token_ids, layers)

    def load(self, path: str | Path) -> None:
        """Take over the contents of a file; the cache must be empty.

        Raises
        ------
        ModelFormatError
            If the file is missing, broken, or of another model.
        """
        ids, layers = read_cache(
            path,
            self.fingerprint(),
            n_layers=len(self.layers),
            slot_shapes=self._slot_shapes,
            max_seq_len=self._max_seq_len,
        )
        on = Placed(self._runtime, HOST)
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.append(self._runtime.place(keys), self._runtime.place(values), on)
        self.token_ids = ids
