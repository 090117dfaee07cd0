"""The overlay for people who use `pynq` and nothing else of Ciuic.

    overlay = pynq.Overlay("ciuic.bit")  # its .hwh beside it
    products = overlay.ciuic.gemm(activations, weights)
    fractions = overlay.ciuic.softmax(scores, scale=1 / 16)

`pynq` imports this module when it makes an overlay (entry point ``pynq.lib``) and finds the driver
by the name of the IP. Release 4.0 of `pynq` fails to set the clock of any Zynq-7000 overlay: there
`ciuic_host.pynq.load_overlay` takes the place of `pynq.Overlay`. On the board
only: from a laptop use ``fpga:pynq@ADDRESS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import pynq

from ciuic.abi.boards import VLNV
from ciuic.errors import DeviceError, UsageError

from .overlay import Overlay
from .pynq import PynqTransport
from .pynq_interrupt import InterruptLine


class LoadedTransport(PynqTransport):
    """The overlay of a board that `pynq` has programmed already.

    Parameters
    ----------
    driver
        Whose registers and device are used.
    """

    def __init__(self, driver: CiuicDriver) -> None:
        self._driver = driver
        super().__init__(
            f"pynq overlay {driver.instance}",
            Path(),
            driver.device,
            memory_bytes=driver.memory_bytes,
        )

    def _program(self, _bitstream: Path, _clock_mhz: float | None, _poll: bool) -> None:
        pynq.Device.active_device = self._device
        self._loaded = self._device.timestamp
        self._mmio = self._driver.mmio
        self._interrupt = InterruptLine(f"{self._driver.instance}/interrupt")
        self.clock_mhz = float(pynq.Clocks.fclk0_mhz)

    def _check_loaded(self) -> None:
        if self._device.timestamp != self._loaded:
            raise DeviceError(f"{self.name}: it must be loaded, but the board was programmed since")


class CiuicDriver(pynq.DefaultIP):
    """Ciuic's overlay in a block design; opened at its first operation.

    Parameters
    ----------
    description
        What `pynq` knows of the IP.

    Attributes
    ----------
    memory_bytes
        That buffers may take together, if set before the first operation; None is what the board
        has free.
    """

    bindto = [VLNV]  # noqa: RUF012 - the name and type that pynq asks for

    def __init__(self, description: dict[str, Any]) -> None:
        # Interrupts are waited for in a thread of Ciuic; pynq would bind them to the caller's loop.
        super().__init__({**description, "interrupts": {}})
        self.instance: str = description["fullpath"]
        self.memory_bytes: int | None = None
        self._opened: Overlay | None = None

    @property
    def driver(self) -> Overlay:
        """Ciuic's own driver, with all that it can do."""
        if self._opened is None:
            if hasattr(self.device, "exists_file"):  # of PYNQ.remote's devices
                raise UsageError(
                    "overlay must be on this board; open one elsewhere with "
                    "ciuic_host.open('fpga:pynq@ADDRESS?bitstream=PATH')"
                )
            transport = LoadedTransport(self)
            try:
                self._opened = Overlay(transport)
            except BaseException:
                transport.close()
                raise
        return self._opened

    def gemm(self, activations: npt.NDArray[Any], weights: Any, **options: Any) -> npt.NDArray[Any]:
        """Return INT8 (m, k) @ INT8 (k, n) as INT32 (m, n); options as of `Overlay.gemm`."""
        return self.driver.gemm(activations, weights, **options)

    def softmax(self, scores: npt.NDArray[Any], **options: Any) -> npt.NDArray[Any]:
        """Return softmax along the rows of integers, in 2**-16; options as of `Overlay.softmax`."""
        return self.driver.softmax(scores, **options)

    def close(self) -> None:
        """Give all memory back; the next operation opens the overlay again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
