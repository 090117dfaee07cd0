"""How engines use memory: a read port and a write port, each a stream of requests and one of data.

Rules:

1. A request names ``nbytes`` >= 1 contiguous bytes from an ``addr`` aligned to the bus.
2. The data of a port's requests follow in the order of the requests, ceil(nbytes / bus_bytes)
   beats each; the last beat of a read request carries ``last``.
3. Write data need no strobes: the bytes of the last beat beyond ``nbytes`` are not written.
4. A read beat with ``error`` set is one that the memory refused; its data are zero. The stream
   goes on as if nothing had happened, so an engine never waits for what does not come.
5. ``WritePort.busy`` is high from the cycle after a request is taken until the memory has
   acknowledged its last byte; ``WritePort.error`` is a strobe for an acknowledgement that is an
   error.
6. No more write requests are open, taken and not acknowledged, than `requests_open` says.

The port's owner (the engine) sees requests as outputs; the AXI side sees them flipped.
"""

from amaranth.hdl import Cat
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from ciuic.abi import OverlayConfig

from ..layouts import DESCRIPTOR_LAYOUT

__all__ = [
    "EngineSignature",
    "ReadPort",
    "WritePort",
    "beat_layout",
    "lowest",
    "request_layout",
    "requests_open",
    "selected",
]


def lowest(wanting):
    """Return only the lowest bit that is set."""
    return Cat(one & ~wanting[:index].any() for index, one in enumerate(wanting))


def request_layout(config: OverlayConfig) -> data.StructLayout:
    """Return the payload of a request: address and length in bytes."""
    return data.StructLayout({"addr": config.address_bits, "nbytes": 32})


def requests_open(config: OverlayConfig) -> int:
    """Return how many requests of a `WritePort` may be taken and not acknowledged, at most.

    Those whose bursts are issued, and those in the buffers on both sides of that.
    """
    return config.outstanding + 16


def beat_layout(config: OverlayConfig) -> data.StructLayout:
    """Return the payload of read data."""
    return data.StructLayout({"data": config.bus_bytes * 8, "last": 1, "error": 1})


def selected(one_hot, values):
    """Return the value whose bit is set; zero if none is."""
    masked = [value & bit.replicate(len(value)) for bit, value in zip(one_hot, values, strict=True)]
    return Cat(Cat(one[index] for one in masked).any() for index in range(len(masked[0])))


class ReadPort(Signature):
    """Memory reads as an engine sees them.

    Members
    -------
    request : Out(stream)
        ``addr``, ``nbytes``.
    data : In(stream)
        ``data`` (bus_bytes * 8), ``last``, ``error``.
    """

    def __init__(self, config: OverlayConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(request_layout(config))),
                "data": In(stream.Signature(beat_layout(config))),
            }
        )


class WritePort(Signature):
    """Memory writes as an engine sees them.

    Members
    -------
    request : Out(stream)
        ``addr``, ``nbytes``.
    data : Out(stream)
        bus_bytes * 8 bits.
    busy : In(1)
        A request has not been acknowledged to its last byte.
    acknowledged : In(1)
        Strobe: the oldest request has been, to its last byte.
    error : In(1)
        Strobe: the memory refused a write of the oldest request that is not acknowledged.
    """

    def __init__(self, config: OverlayConfig):
        super().__init__(
            {
                "request": Out(stream.Signature(request_layout(config))),
                "data": Out(stream.Signature(config.bus_bytes * 8)),
                "busy": In(1),
                "acknowledged": In(1),
                "error": In(1),
            }
        )


class EngineSignature(Signature):
    """What the command processor sees of an engine (as the engine's owner, so flipped there).

    The command processor checks opcode and alignment; the engine checks sizes and formats.

    Members
    -------
    descriptor : In(stream)
        One whole descriptor; taken when the engine starts on it. Once the engine is ready it stays
        so until then.
    done : Out(stream)
        ``status`` (a `ciuic.abi.Status`), after the last write was acknowledged. A read or write
        error is reported here once the engine is idle again. ``busy`` counts the cycles in which
        the engine took data.
    active : Out(1)
        High in cycles in which the array, or the lanes, take data.
    read : Out(ReadPort)
        Memory reads.
    write : Out(WritePort)
        Memory writes.
    """

    def __init__(self, config: OverlayConfig):
        super().__init__(
            {
                "descriptor": In(stream.Signature(DESCRIPTOR_LAYOUT)),
                "done": Out(stream.Signature(data.StructLayout({"status": 8, "busy": 32}))),
                "active": Out(1),
                "read": Out(ReadPort(config)),
                "write": Out(WritePort(config)),
            }
        )
