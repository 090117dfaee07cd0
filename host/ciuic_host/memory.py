"""Memory of a device that is no board: an address space, and who owns which bytes.

With shadows each buffer exists twice, as the CPU's bytes and as the device's, and only ``flush``
and ``invalidate`` carry bytes from one to the other. So a driver that forgets one of them fails
here as it would behind the caches of a board.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from ciuic.errors import OutOfMemory, TransferError

from .transport import PAGE_BYTES, Buffer

BASE_ADDRESS = 0x1000_0000  # so that a null pointer is an error
MIB = 1 << 20


class AccessError(Exception):
    """The device touched bytes that are in no buffer."""


class DeviceMemory:
    """Buffers at device addresses, with an unmapped page between any two.

    Parameters
    ----------
    name
        The device's name, for errors.
    capacity
        Bytes that all buffers together may have.
    shadow
        Whether the CPU and the device each have their own copy.
    """

    def __init__(self, name: str, *, capacity: int, shadow: bool) -> None:
        self.name = name
        self.capacity = capacity
        self.shadow = shadow
        self.used = 0
        self._bases: list[int] = []  # sorted
        self._device: dict[int, npt.NDArray[np.uint8]] = {}  # the device's bytes by base

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        if nbytes < 1:
            raise TransferError(f"size of a buffer must be at least 1 byte, not {nbytes!r}")
        pages = _pages(nbytes)
        if self.used + pages > self.capacity:
            raise OutOfMemory(
                self.name,
                wanted=nbytes,
                available=self.capacity - self.used,
                capacity=self.capacity,
            )
        base = self._gap(pages)
        array = _page_aligned(nbytes)
        self._bases.insert(bisect_right(self._bases, base), base)
        self._device[base] = _page_aligned(nbytes) if self.shadow else array
        self.used += pages
        return Buffer(base, array)

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        self.device_bytes(buffer)
        del self._device[buffer.device_address]
        self._bases.remove(buffer.device_address)
        self.used -= _pages(buffer.nbytes)

    def flush(self, buffer: Buffer, start: int, stop: int | None) -> None:
        """Carry bytes from the CPU to the device."""
        part = self._part(buffer, start, stop)
        if self.shadow:
            self.device_bytes(buffer)[part] = buffer.array[part]

    def invalidate(self, buffer: Buffer, start: int, stop: int | None) -> None:
        """Carry bytes from the device to the CPU."""
        part = self._part(buffer, start, stop)
        if self.shadow:
            buffer.array[part] = self.device_bytes(buffer)[part]

    def device_bytes(self, buffer: Buffer) -> npt.NDArray[np.uint8]:
        """Return the device's bytes of a buffer."""
        try:
            return self._device[buffer.device_address]
        except KeyError:
            raise TransferError(
                f"{self.name}: buffer at {buffer.device_address:#x} must not have been freed"
            ) from None

    def pages(self, buffer: Buffer) -> npt.NDArray[np.uint8]:
        """Return the device's bytes of a buffer up to the end of its last page."""
        return _whole_pages(self.device_bytes(buffer))

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return the device's bytes [address, address + nbytes)."""
        index = bisect_right(self._bases, address) - 1
        if index >= 0:
            base = self._bases[index]
            offset = address - base
            # A buffer is mapped in whole pages, as the memory of a board is.
            if offset + nbytes <= _pages(self._device[base].size):
                return _whole_pages(self._device[base])[offset : offset + nbytes]
        raise AccessError(f"{nbytes} bytes at {address:#x} are in no buffer")

    def clear(self) -> None:
        """Give everything back."""
        self._bases.clear()
        self._device.clear()
        self.used = 0

    def _gap(self, pages: int) -> int:
        start = BASE_ADDRESS
        for base in self._bases:
            if start + pages + PAGE_BYTES <= base:
                break
            start = base + _pages(self._device[base].size) + PAGE_BYTES
        return start

    def _part(self, buffer: Buffer, start: int, stop: int | None) -> slice:
        end = buffer.nbytes if stop is None else stop
        if not 0 <= start <= end <= buffer.nbytes:
            raise TransferError(
                f"{self.name}: range must lie in a buffer of {buffer.nbytes} bytes, "
                f"not be [{start}, {end})"
            )
        self.device_bytes(buffer)
        return slice(start, end)


def _pages(nbytes: int) -> int:
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


def _page_aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    return np.zeros(_pages(nbytes), np.uint8)[:nbytes]


def _whole_pages(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    whole = array.base
    assert isinstance(whole, np.ndarray)
    return whole
