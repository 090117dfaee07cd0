"""Keys and values on the FPGA device: float32 on the host and, packed, in the overlay's memory.

A cache grows at its end. So what is packed stays until the end is cut off or a token has other
scales, since the largest magnitude of a head has left its octave's step
(`ciuic.ops.attention_int8`); then it is packed again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ciuic.ops.attention_int8 import magnitudes, quantize_heads, rotated, seen_scales
from ciuic.quantize import Float32Array

from .attention import CacheHandle, Role, head_nbytes, rows_at_a_time
from .overlay import Overlay


class CachedRows:
    """Rows (slots, heads, width), or (slots, width) of one head, of a cache.

    Attributes
    ----------
    floats
        Their contents, float32.
    claim
        Called with bytes of the overlay's memory before they are taken; None of a cache, whose
        contents in float32, which count as its bytes, stand for them.
    """

    def __init__(self, floats: Float32Array, claim: Callable[[int], None] | None = None) -> None:
        self.floats = floats
        self.claim = claim
        self._packed: dict[Role, PackedRows] = {}
        self._in: list[PackedRows] = []  # that have rows of this cache

    @property
    def heads(self) -> Float32Array:
        """The contents as (slots, heads, width)."""
        return self.floats.reshape(self.floats.shape[0], -1, self.floats.shape[-1])

    def rotated(self, start: int, stop: int) -> Float32Array:
        """Return rows (n, heads, width) as they are quantized."""
        return rotated(self.heads[start:stop])

    def write(self, start: int, rows: Float32Array) -> None:
        """Overwrite rows from ``start`` on."""
        self.floats[start : start + len(rows)] = rows
        for packed in self._in:
            packed.cut(start)

    def packed(self, overlay: Overlay, role: Role, *beside: CachedRows) -> PackedRows:
        """Return these rows, and those of other caches beside them, on the overlay."""
        sources = (self, *beside)
        known = self._packed.get(role)
        if known is None or known.sources != sources:
            if known is not None:
                known.release(overlay)
            known = self._packed[role] = PackedRows(overlay, role, sources)
            for source in sources:
                source._in.append(known)
        return known

    def release(self, overlay: Overlay) -> None:
        """Give the overlay's memory back."""
        for packed in self._packed.values():
            packed.release(overlay)
        self._packed.clear()


class PackedRows:
    """Rows of one or more caches, side by side, as the overlay holds them.

    Attributes
    ----------
    sources
        The caches.
    handle
        Where the rows are.
    scales
        Of each source, the heads' scales by which the rows are held (heads,).
    """

    def __init__(self, overlay: Overlay, role: Role, sources: tuple[CachedRows, ...]) -> None:
        slots, heads = sources[0].heads.shape[:2]
        self.sources = sources
        width = sum(source.heads.shape[2] for source in sources)
        if sources[0].claim is not None:
            sources[0].claim(heads * head_nbytes(overlay.config, width, slots))
        self.handle: CacheHandle = overlay.new_cache(role, heads=heads, width=width, slots=slots)
        self._count = 0  # rows that the overlay holds
        self._largest = np.zeros((len(sources), heads), np.float32)  # of these
        self.scales = np.zeros_like(self._largest)

    def cut(self, count: int) -> None:
        """Forget all but the first rows, which the overlay still holds."""
        if count < self._count:
            self._count = count
            self._largest = self._largest_in(0, count)

    def seen_scales(self, offset: int, stop: int) -> Float32Array:
        """Return the scales (sources, n, heads) of rows from ``offset`` on, of all up to each."""
        self.cut(offset)
        before = np.maximum(self._largest, self._largest_in(self._count, offset))
        return np.stack(
            [
                seen_scales(source.rotated(offset, stop), 0, largest)
                for source, largest in zip(self.sources, before, strict=True)
            ]
        )

    def sync(self, overlay: Overlay, count: int, scales: Float32Array) -> None:
        """Have the overlay hold the first ``count`` rows by scales (sources, heads), saturated."""
        self.cut(count)
        same = self._count > 0 and np.array_equal(scales, self.scales)
        if same and self._count == count:
            return
        block = rows_at_a_time(overlay.config)
        start = self._count // block * block if same else 0
        parts = [
            quantize_heads(source.rotated(start, count), scale)
            for source, scale in zip(self.sources, scales, strict=True)
        ]
        overlay.write_cache(self.handle, start, np.concatenate(parts, axis=2))
        self._largest = np.maximum(self._largest, self._largest_in(self._count, count))
        self._count, self.scales = count, scales

    def release(self, overlay: Overlay) -> None:
        """Give the overlay's memory back."""
        overlay.free(self.handle)
        for source in self.sources:
            source._in.remove(self)

    def _largest_in(self, start: int, stop: int) -> Float32Array:
        return np.stack(
            [
                magnitudes(source.rotated(start, stop)).max(axis=0, initial=0)
                for source in self.sources
            ]
        )
