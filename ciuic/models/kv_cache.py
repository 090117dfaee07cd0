"""Keys and values of the tokens so far, for one sequence, on the device that needs them.

A layer's arrays grow in blocks of token slots, so that memory follows the context instead of the
model's longest one.
"""

from __future__ import annotations

from ciuic.devices import Device, DeviceArray
from ciuic.errors import UsageError
from ciuic.runtime import Runtime

from .placed import Placed

BLOCK_SLOTS = 256  # token slots that a layer's arrays grow by


SlotShapes = tuple[tuple[int, ...], tuple[int, ...]]


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
            Where the cache is to be, if it has a kernel for ``kv_append``; else it is on the host.

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
        """Return both arrays on a device with room for this many tokens more.

        Raises
        ------
        UsageError
            If the context would grow beyond the model's longest.
        """
        stop = self.length + tokens
        if stop > self._max_seq_len:
            raise UsageError(f"the context must be at most {self._max_seq_len} tokens, not {stop}")
        old = self._arrays
        if old is not None and old[0].shape[0] >= stop and old[0].device is device:
            return old
        slots = -(-stop // BLOCK_SLOTS) * BLOCK_SLOTS
        keys, values = (
            self._runtime.zeros((slots, *shape), device=device) for shape in self._slot_shapes
        )
        for array, before in zip((keys, values), old or (), strict=False):
            self._runtime.run("kv_append", [array, before], device=device, offset=0)
        self._arrays = (keys, values)
        return keys, values


class KvCache:
    """The caches of all layers of one sequence."""

    def __init__(
        self, runtime: Runtime, n_layers: int, slot_shapes: SlotShapes, max_seq_len: int
    ) -> None:
        self.layers = [LayerCache(runtime, slot_shapes, max_seq_len) for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """Tokens that are through all layers."""
        return self.layers[-1].length

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.layers)
