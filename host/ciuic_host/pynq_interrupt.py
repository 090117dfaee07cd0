"""How a program on a board learns that the overlay's interrupt line is high.

`pynq` knows interrupts for coroutines only: one thread of this module runs the event loop in which
they are waited for, so that a wait has a timeout and works in notebooks, whose own loop is busy.
PYNQ.remote has no interrupts (its client of release 4.0 raises an error): there the overlay's
registers are asked again and again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

FIRST_PAUSE_SECONDS = 0.0002
LAST_PAUSE_SECONDS = 0.005
SETUP_SECONDS = 10.0

Result = TypeVar("Result")


class Polling:
    """No interrupt line: waits are pauses, which grow while nothing happens."""

    arrives = False

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS

    def begin(self) -> None:
        """Begin with short pauses again."""
        self._pause = FIRST_PAUSE_SECONDS

    def wait(self, seconds: float) -> bool:
        """Pause for a while, at most ``seconds``; return False, as nothing is known of the line."""
        time.sleep(min(self._pause, seconds))
        self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
        return False


class InterruptLine:
    """An interrupt pin of the loaded overlay, by way of `pynq.Interrupt`.

    Parameters
    ----------
    pin
        Name of the pin in the block design, such as ``ciuic/interrupt``.
    """

    arrives = True

    def __init__(self, pin: str) -> None:
        self._interrupt = _call(_interrupt(pin), SETUP_SECONDS)

    def begin(self) -> None:
        """Nothing to prepare."""

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for an interrupt; return whether one came.

        One that came before, and was not waited for, counts too.
        """
        return _call(_arrival(self._interrupt, seconds), seconds + SETUP_SECONDS)


async def _interrupt(pin: str) -> Any:
    from pynq.interrupt import Interrupt

    return Interrupt(pin)  # registers its file with the loop that runs this


async def _arrival(interrupt: Any, seconds: float) -> bool:
    try:
        await asyncio.wait_for(interrupt.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def forget_interrupts() -> None:
    """Let `pynq` forget the interrupts of overlays before; they hold on to other event loops."""
    _call(_forget(), SETUP_SECONDS)


async def _forget() -> None:
    from pynq.interrupt import _InterruptController

    _InterruptController._controllers.clear()
    _InterruptController._uio_devices.clear()


def _call(work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result(seconds)
    except concurrent.futures.TimeoutError:
        future.cancel()
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ciuic-interrupts", daemon=True).start()
    return loop
