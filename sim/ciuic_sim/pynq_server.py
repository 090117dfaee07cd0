"""A simulated board behind PYNQ.remote's protocol: what ``pynq-remote.cc`` does on a board.

A stock `pynq` 4.0 connects to it, in another process or on another machine. The server's habits are
those of the original, its flaws included, as clients have to live with them: a write to a buffer
begins at the buffer's start, a read returns all of it, an allocation that fails answers without an
identity, and errors stand in ``msg`` or are NOT_FOUND. There is no authentication in the protocol.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from ciuic_host.transport import Buffer
from pynq.remote import (
    buffer_pb2,
    buffer_pb2_grpc,
    mmio_pb2,
    mmio_pb2_grpc,
    remote_device_pb2,
    remote_device_pb2_grpc,
)

from ciuic.errors import CiuicError, UsageError

from .board import Board
from .board_files import BoardFiles

CHUNK_BYTES = 1 << 20
WORD = struct.Struct("<I")
WORKERS = 8


class BoardServer:
    """A server for one board, running from its creation to `close`.

    Parameters
    ----------
    board
        What clients reach.
    host, port
        Where to listen; port 0 is any that is free.

    Attributes
    ----------
    address
        Host and port, as in ``fpga:pynq@HOST:PORT``.

    Raises
    ------
    UsageError
        If it cannot listen there.
    """

    def __init__(self, board: Board, host: str = "127.0.0.1", port: int = 0) -> None:
        # Without reuse of ports, so that a second server on one port is an error.
        self._server = grpc.server(ThreadPoolExecutor(WORKERS), options=[("grpc.so_reuseport", 0)])
        self.buffers = _Buffers(board)
        remote_device_pb2_grpc.add_RemoteDeviceServicer_to_server(_Files(board), self._server)
        mmio_pb2_grpc.add_MmioServicer_to_server(_Registers(board), self._server)
        buffer_pb2_grpc.add_RemoteBufferServicer_to_server(self.buffers, self._server)
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise UsageError(f"address must be free to listen on, not {host}:{port}") from error
        self.address = f"{host}:{bound}"
        self._server.start()

    def wait(self) -> None:
        """Serve until the server is closed."""
        self._server.wait_for_termination()

    def close(self) -> None:
        """End all calls and stop listening; the buffers of clients go back to the board."""
        self._server.stop(grace=None).wait()
        self.buffers.clear()

    def __enter__(self) -> BoardServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Files(remote_device_pb2_grpc.RemoteDeviceServicer):
    def __init__(self, board: Board) -> None:
        self._files = BoardFiles(board)

    def existsfile(self, request: Any, _context: Any) -> Any:
        return remote_device_pb2.ExistsFileResponse(exists=self._files.exists(request.file_path))

    def readfile(self, request: Any, context: Any) -> Iterator[Any]:
        try:
            contents = self._files.read(request.file_path)
        except KeyError:
            context.abort(grpc.StatusCode.NOT_FOUND, "File not found")
        for chunk in _chunks(contents):
            yield remote_device_pb2.ReadFileResponse(data=chunk)

    def writefile(self, requests: Iterable[Any], context: Any) -> Any:
        parts = list(requests)
        if not parts:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "No file path provided")
        try:
            self._files.write(parts[0].file_path, b"".join(part.data for part in parts))
        except CiuicError as error:
            context.abort(grpc.StatusCode.INTERNAL, str(error))
        return remote_device_pb2.WriteFileResponse()

    def set_bitstream_attrs(self, _request: Any, _context: Any) -> Any:
        return remote_device_pb2.SetBitstreamAttrsResponse(status=True)


class _Registers(mmio_pb2_grpc.MmioServicer):
    def __init__(self, board: Board) -> None:
        self._board = board
        self._bases: dict[str, int] = {}
        self._numbers = itertools.count()

    def get_mmio(self, request: Any, _context: Any) -> Any:
        identity = str(next(self._numbers))
        self._bases[identity] = request.base_addr
        return mmio_pb2.GetMmioResponse(mmio_id=identity)

    def read(self, request: Any, context: Any) -> Any:
        try:
            value = self._board.read32(self._base(request, context) + request.offset)
        except CiuicError as error:
            return mmio_pb2.ReadResponse(msg=str(error))
        return mmio_pb2.ReadResponse(data=value)

    def write(self, request: Any, context: Any) -> Any:
        (value,) = WORD.unpack(request.data[: WORD.size])
        try:
            self._board.write32(self._base(request, context) + request.offset, value)
        except CiuicError as error:
            return mmio_pb2.WriteResponse(msg=str(error))
        return mmio_pb2.WriteResponse()

    def _base(self, request: Any, context: Any) -> int:
        if request.mmio_id not in self._bases:
            context.abort(grpc.StatusCode.NOT_FOUND, "MMIO Object not found.")
        return self._bases[request.mmio_id]


@dataclass(frozen=True)
class _Shared:
    """A buffer: the bytes of the board's processors, and those of its memory."""

    cached: npt.NDArray[np.uint8]
    memory: Buffer


class _Buffers(buffer_pb2_grpc.RemoteBufferServicer):
    def __init__(self, board: Board) -> None:
        self._board = board
        self._buffers: dict[str, _Shared] = {}
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        """Give everything back, as the end of the process would."""
        for shared in self._buffers.values():
            self._board.free(shared.memory)
        self._buffers.clear()

    def allocate(self, request: Any, _context: Any) -> Any:
        try:
            memory = self._board.allocate(request.size)
        except CiuicError:
            return buffer_pb2.AllocateResponse()
        identity = str(next(self._numbers))
        self._buffers[identity] = _Shared(np.zeros(request.size, np.uint8), memory)
        return buffer_pb2.AllocateResponse(buffer_id=identity)

    def write(self, requests: Iterable[Any], context: Any) -> Any:
        position = 0
        for request in requests:
            cached = self._find(request, context).cached
            end = position + len(request.data)
            if end > cached.nbytes:
                return buffer_pb2.BufferWriteResponse(msg="Buffer overflow.")
            cached[position:end] = np.frombuffer(request.data, np.uint8)
            position = end
        return buffer_pb2.BufferWriteResponse()

    def read(self, request: Any, context: Any) -> Iterator[Any]:
        for chunk in _chunks(self._find(request, context).cached.tobytes()):
            yield buffer_pb2.BufferReadResponse(data=chunk)

    def flush(self, request: Any, context: Any) -> Any:
        shared = self._find(request, context)
        shared.memory.array[:] = shared.cached
        return buffer_pb2.FlushResponse()

    def invalidate(self, request: Any, context: Any) -> Any:
        shared = self._find(request, context)
        shared.cached[:] = shared.memory.array
        return buffer_pb2.InvalidateResponse()

    def freebuffer(self, request: Any, context: Any) -> Any:
        self._board.free(self._find(request, context).memory)
        del self._buffers[request.buffer_id]
        return buffer_pb2.FreeBufferResponse()

    def physical_address(self, request: Any, context: Any) -> Any:
        address = self._find(request, context).memory.device_address
        return buffer_pb2.AddressResponse(address=address)

    def virtual_address(self, request: Any, context: Any) -> Any:
        return buffer_pb2.AddressResponse(address=self._find(request, context).cached.ctypes.data)

    def cacheable(self, request: Any, context: Any) -> Any:
        self._find(request, context)
        return buffer_pb2.CacheableResponse(cacheable=True)

    def _find(self, request: Any, context: Any) -> _Shared:
        if request.buffer_id not in self._buffers:
            context.abort(grpc.StatusCode.NOT_FOUND, "Buffer not found.")
        return self._buffers[request.buffer_id]


def _chunks(contents: bytes) -> Iterator[bytes]:
    for start in range(0, len(contents), CHUNK_BYTES):
        yield contents[start : start + CHUNK_BYTES]
