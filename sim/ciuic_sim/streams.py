"""Drivers and monitors of Amaranth streams, for cocotb benches.

A stream ``name`` has the ports ``name__payload``, ``name__valid`` and ``name__ready``. Payloads are
integers; `pack` and `unpack` translate them from and to the fields of an Amaranth layout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from .bench import Bench


def pack(layout: Any, **values: int) -> int:
    """Return the payload with the given fields of a layout, all others zero."""
    result = 0
    for name, value in values.items():
        field = layout[name]
        if not 0 <= value < 1 << field.width:
            raise ValueError(f"{name} must fit into {field.width} bits, not {value!r}")
        result |= value << field.offset
    return result


def unpack(layout: Any, payload: int) -> dict[str, int]:
    """Return the fields of a layout's payload."""
    return {name: payload >> field.offset & (1 << field.width) - 1 for name, field in layout}


class _Stream:
    def __init__(self, bench: Bench, name: str) -> None:
        self.clk = bench.dut.clk
        self.rst = bench.dut.rst
        self.name = name
        self.payload = getattr(bench.dut, f"{name}__payload")
        self.valid = getattr(bench.dut, f"{name}__valid")
        self.ready = getattr(bench.dut, f"{name}__ready")


class StreamDriver(_Stream):
    """Offer payloads on a stream that the component takes.

    Parameters
    ----------
    bench
        The bench.
    name
        Prefix of the stream's ports.
    pause
        Probability of an idle cycle before a payload.

    Attributes
    ----------
    queue
        Payloads that were not taken yet; append to it.
    """

    def __init__(self, bench: Bench, name: str, *, pause: float = 0) -> None:
        super().__init__(bench, name)
        self.queue: deque[int] = deque()
        self._pauses = bench.pauses(pause)
        self.valid.value = 0
        self._task = cocotb.start_soon(self._run())

    async def _run(self) -> None:
        offered = False
        while True:
            await RisingEdge(self.clk)
            if offered and self.ready.value == 1:
                self.queue.popleft()
                offered = False
            if not offered:
                offered = bool(self.queue) and not next(self._pauses)
                self.valid.value = int(offered)
                if offered:
                    self.payload.value = self.queue[0]

    async def drained(self) -> None:
        """Wait until every payload was taken."""
        while self.queue:
            await RisingEdge(self.clk)

    def stop(self) -> None:
        """Offer nothing further."""
        self._task.cancel()
        self.queue.clear()
        self.valid.value = 0


class StreamMonitor(_Stream):
    """Take payloads from a stream that the component offers, and check its handshake.

    Parameters
    ----------
    bench
        The bench.
    name
        Prefix of the stream's ports.
    pause
        Probability of a cycle in which ready is low.
    on_transfer
        Called with each payload in the cycle of its transfer, in place of collecting it.
    room
        Asked whether one more payload may be taken; always, by default.

    Attributes
    ----------
    taken
        Payloads in the order of their transfers; take them from the left.
    """

    def __init__(
        self,
        bench: Bench,
        name: str,
        *,
        pause: float = 0,
        on_transfer: Callable[[int], None] | None = None,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(bench, name)
        self._room = room
        self.taken: deque[int] = deque()
        self._on_transfer = on_transfer or self.taken.append
        self._pauses: Iterator[bool] = bench.pauses(pause)
        self.ready.value = 0
        self._task = cocotb.start_soon(self._run())

    async def _run(self) -> None:
        ready = False
        held: int | None = None
        while True:
            await RisingEdge(self.clk)
            if self.rst.value == 1:  # a reset may withdraw what was offered
                held = None
                continue
            valid = self.valid.value == 1
            payload = self.payload.value.to_unsigned() if valid else None
            if held is not None and payload != held:
                raise AssertionError(
                    f"{self.name}: a payload must stay until it is taken, not become {payload!r}"
                )
            if valid and ready and payload is not None:
                self._on_transfer(payload)
            held = payload if valid and not ready else None
            ready = not next(self._pauses) and self._room()
            self.ready.value = int(ready)

    async def take(self) -> int:
        """Wait for a payload and return it."""
        while not self.taken:
            await RisingEdge(self.clk)
        return self.taken.popleft()

    def stop(self) -> None:
        """Take nothing further."""
        self._task.cancel()
        self.ready.value = 0
