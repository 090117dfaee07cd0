"""AXI4 and AXI4-Lite as Amaranth signatures, seen from the manager.

Only the signals that Ciuic drives: one ID, incrementing bursts, in-order answers.
Source: Arm IHI 0022, AMBA AXI and ACE Protocol Specification, chapters A2 and B1.
"""

from amaranth.lib.wiring import In, Out, Signature

__all__ = ["BOUNDARY_BYTES", "BURST_INCR", "MAX_BURST_BEATS", "Axi4", "Axi4Lite"]

BOUNDARY_BYTES = 4096  # A3.4.1: a burst must not cross a 4 KiB boundary
MAX_BURST_BEATS = 256  # A3.4.1: longest incrementing burst
BURST_INCR = 1  # A3.4.1: AxBURST encoding


class Axi4(Signature):
    """An AXI4 manager without IDs.

    Parameters
    ----------
    bus_bytes
        Width of the data in bytes.
    address_bits
        Width of an address in bits.
    """

    def __init__(self, *, bus_bytes: int, address_bits: int):
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(2),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(bus_bytes * 8),
                "wstrb": Out(bus_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(2),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(bus_bytes * 8),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class Axi4Lite(Signature):
    """An AXI4-Lite manager with 32-bit data.

    Parameters
    ----------
    address_bits
        Width of an address in bits.
    """

    def __init__(self, *, address_bits: int):
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
