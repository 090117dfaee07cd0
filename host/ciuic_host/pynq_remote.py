"""A board somewhere else, by way of PYNQ.remote: the connection, and its deadlines.

The client of `pynq` 4.0 waits for answers without a limit; here every call has one, so that a board
that was switched off is an error and not a standstill. And it keeps what it read of the last
bitstream in a file of the package's own folder, which programs that run at the same time share.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from ciuic.errors import DeviceError, DeviceNotFound, DeviceTimeout, UsageError

from .pynq_design import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 7967  # of PYNQ.remote
CALL_SECONDS = 10.0
SLOWEST_BYTES_PER_SECOND = 250_000  # of a connection that is worth waiting for
# Connects to nothing. While there is a channel, closing another does not shut gRPC's core down,
# which waits up to ten seconds (iomgr's deadline) for what a connection that was lost left behind.
_KEEPS_CORE = grpc.insecure_channel("localhost")


class Deadline(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Gives every call of a channel a deadline, from now on ``seconds`` away."""

    def __init__(self) -> None:
        self.seconds = CALL_SECONDS

    @contextmanager
    def moving(self, nbytes: int) -> Iterator[None]:
        """Allow calls the time that a number of bytes takes."""
        self.seconds = CALL_SECONDS + nbytes / SLOWEST_BYTES_PER_SECOND
        try:
            yield
        finally:
            self.seconds = CALL_SECONDS

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Call with the deadline."""
        return continuation(self._with_timeout(details), request)

    intercept_unary_stream = intercept_unary_unary
    intercept_stream_unary = intercept_unary_unary

    def _with_timeout(self, details: Any) -> Any:
        return details._replace(timeout=self.seconds)


def connect(uri: str, address: str) -> tuple[Any, Deadline]:
    """Return the `pynq` device at an address (host or host:port), and its deadline.

    Raises
    ------
    DeviceNotFound
        If nothing answers there, or no board does.
    """
    host, port = _split(uri, address)
    try:
        socket.create_connection((host, port), timeout=CALL_SECONDS).close()
    except OSError as error:
        raise DeviceNotFound(
            uri, f"PYNQ.remote must listen on port {port} of {host}, but: {error}"
        ) from error
    try:
        device = _remote_board()(0, host, port)
    except (RuntimeError, AttributeError, grpc.RpcError) as error:
        raise DeviceNotFound(
            uri, f"port {port} of {host} must be PYNQ.remote's, but: {_reason(error)}"
        ) from error
    deadline = Deadline()
    channel = grpc.intercept_channel(device.client.channel, deadline)
    device._stub = {name: type(stub)(channel) for name, stub in device._stub.items()}
    return device, deadline


def _remote_board() -> Any:
    from pynq.pl_server.remote_device import RemoteDevice

    class RemoteBoard(RemoteDevice):
        """A remote device that keeps nothing in the folder of the package `pynq`."""

        def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
            """Return what the handoff file beside a bitstream says."""
            assert not partial, "an overlay of Ciuic is never part of another"
            return metadata(Path(bitfile_name))

        def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
            """Keep nothing."""

        def shutdown(self) -> None:
            """Do as `pynq` does, which knows nothing of what a remote board has loaded."""

    return RemoteBoard


def disconnect(device: Any) -> None:
    """Close the connection."""
    device.client.channel.close()


def failure(name: str, what: str, error: Exception, seconds: float) -> DeviceError | None:
    """Return the error of Ciuic for one of gRPC; None for any other."""
    if not isinstance(error, grpc.RpcError):
        return None
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeviceTimeout(f"answer of {name} while {what}", seconds=seconds, status={})
    return DeviceError(f"{name}: connection to the board lost while {what}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}, {error.details()}"
    return str(error)


def _split(uri: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        return address, PORT
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError(f"{uri}: address must be HOST or HOST:PORT, not {address!r}")
    return host, int(port)
