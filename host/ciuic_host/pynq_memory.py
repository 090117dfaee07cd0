"""Buffers that `pynq` allocates, and how their bytes get to the other side.

On the board a buffer is memory that CPU and overlay share, with the CPU's cache between them:
`CachedMemory` flushes and invalidates the range that changes hands. From a laptop a buffer is two:
an array here and memory there, and `RemoteMemory` carries bytes over PYNQ.remote, whose server can
write only from a buffer's start and read only a whole buffer (``pynq-remote.cc``, which ignores the
ranges of its requests). So it sends what was flushed when the overlay is told to go on, each buffer
once, and takes from what it reads only the range that was asked for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ciuic.errors import OutOfMemory, TransferError

from .transport import PAGE_BYTES, Buffer

if TYPE_CHECKING:
    from .pynq_remote import Deadline


class CachedMemory:
    """Memory of this board.

    Parameters
    ----------
    name
        The device's name, for errors.
    device
        The `pynq` device.
    capacity
        Bytes that buffers may take together.
    """

    def __init__(self, name: str, device: Any, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self._device = device
        self._blocks: dict[int, Any] = {}  # buffers of pynq by address

    @property
    def used(self) -> int:
        """Bytes that are allocated."""
        return sum(block.nbytes for block in self._blocks.values())

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        if nbytes < 1:
            raise TransferError(f"size of a buffer must be at least 1 byte, not {nbytes!r}")
        if self.used + nbytes > self.capacity:
            raise self._full(nbytes)
        with self._moving(nbytes):
            block = self._allocate(nbytes)
            address = int(block.device_address)
            if address % PAGE_BYTES:
                block.freebuffer()
                raise TransferError(f"{self.name}: buffer must start on a page, not {address:#x}")
            self._blocks[address] = block
            buffer = Buffer(address, block.view(np.ndarray))
            buffer.array[:] = 0
            self.flush(buffer, 0, nbytes)
        return buffer

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        block = self._block(buffer)
        del self._blocks[buffer.device_address]
        block.freebuffer()

    def flush(self, buffer: Buffer, start: int, stop: int) -> None:
        """Hand the bytes [start, stop) to the overlay, before its next register access."""
        self._part(buffer, start, stop).flush()

    def invalidate(self, buffer: Buffer, start: int, stop: int) -> None:
        """Take the bytes [start, stop) from the overlay."""
        self._part(buffer, start, stop).invalidate()

    def settle(self) -> None:
        """Let what was flushed be where the overlay reads it."""

    def forget(self, buffer: Buffer) -> None:
        """Forget a buffer without a word to the board, which does not answer any more."""
        self._block(buffer).freed = True
        del self._blocks[buffer.device_address]

    def abandon(self) -> None:
        """Forget all buffers."""
        for block in self._blocks.values():
            block.freed = True
        self._blocks.clear()

    def clear(self) -> None:
        """Give everything back."""
        while self._blocks:
            self._blocks.popitem()[1].freebuffer()

    def _allocate(self, nbytes: int) -> Any:
        try:
            return self._device.allocate((nbytes,), "u1")
        except (RuntimeError, MemoryError, OSError) as error:
            raise self._full(nbytes) from error

    def _full(self, nbytes: int) -> OutOfMemory:
        return OutOfMemory(
            self.name,
            wanted=nbytes,
            available=self.capacity - self.used,
            capacity=self.capacity,
        )

    def _moving(self, _nbytes: int) -> AbstractContextManager[None]:
        return nullcontext()

    def _block(self, buffer: Buffer) -> Any:
        try:
            return self._blocks[buffer.device_address]
        except KeyError:
            raise TransferError(
                f"{self.name}: buffer at {buffer.device_address:#x} must not have been freed"
            ) from None

    def _part(self, buffer: Buffer, start: int, stop: int) -> Any:
        block = self._block(buffer)
        if not 0 <= start <= stop <= buffer.nbytes:
            raise TransferError(
                f"{self.name}: range must lie in a buffer of {buffer.nbytes} bytes, "
                f"not be [{start}, {stop})"
            )
        return block[start:stop]


class RemoteMemory(CachedMemory):
    """Memory of a board somewhere else.

    Parameters
    ----------
    name, device, capacity
        See `CachedMemory`.
    deadline
        Of the calls of the connection.
    """

    def __init__(self, name: str, device: Any, capacity: int, deadline: Deadline) -> None:
        super().__init__(name, device, capacity)
        self._deadline = deadline
        self._flushed: dict[int, int] = {}  # address of a buffer -> end of what to send

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        self._flushed.pop(buffer.device_address, None)
        super().free(buffer)

    def flush(self, buffer: Buffer, start: int, stop: int) -> None:
        """Remember that the bytes [start, stop) are to be sent."""
        self._part(buffer, start, stop)
        address = buffer.device_address
        self._flushed[address] = max(stop, self._flushed.get(address, 0))

    def invalidate(self, buffer: Buffer, start: int, stop: int) -> None:
        """Take the bytes [start, stop) from the overlay."""
        from pynq.remote import buffer_pb2

        self._part(buffer, start, stop)
        self.settle()
        block = self._block(buffer)
        with self._moving(buffer.nbytes):
            request = buffer_pb2.InvalidateRequest(buffer_id=block.buffer_id)
            _check(block.stub.invalidate(request).msg)
            request = buffer_pb2.BufferReadRequest(buffer_id=block.buffer_id)
            data = b"".join(part.data for part in block.stub.read(request))
        if len(data) != buffer.nbytes:
            raise TransferError(
                f"{self.name}: buffer must have {buffer.nbytes} bytes, not {len(data)}"
            )
        buffer.array[start:stop] = np.frombuffer(data[start:stop], np.uint8)

    def settle(self) -> None:
        """Send what was flushed."""
        for address in list(self._flushed):
            stop = self._flushed[address]
            with self._moving(stop):
                self._blocks[address][:stop].flush()  # writes from the buffer's start
            del self._flushed[address]

    def abandon(self) -> None:
        """Forget all buffers."""
        self._flushed.clear()
        super().abandon()

    def clear(self) -> None:
        """Give everything back."""
        self._flushed.clear()
        super().clear()

    def _allocate(self, nbytes: int) -> Any:
        block = self._device.allocate((nbytes,), "u1")
        if not block.buffer_id:  # that is how the server says no
            block.freed = True
            raise self._full(nbytes)
        return block

    def _moving(self, nbytes: int) -> AbstractContextManager[None]:
        return self._deadline.moving(nbytes)


def _check(message: str) -> None:
    if message:
        raise RuntimeError(message)
