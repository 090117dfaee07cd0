"""The FPGA side of Ciuic: transports, the overlay's driver, and the device that the runtime sees.

import ciuic_host

with ciuic_host.open("fpga:emulated") as overlay:
    products = overlay.gemm(activations, weights)
"""

from .completion import Completion
from .gemm import Gemm, WeightHandle
from .overlay import Overlay, open
from .rings import Ticket
from .transport import Buffer, Transport

__all__ = [
    "Buffer",
    "Completion",
    "Gemm",
    "Overlay",
    "Ticket",
    "Transport",
    "WeightHandle",
    "open",
]
