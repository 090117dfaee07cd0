"""AXI3 as an Amaranth signature, seen from the manager.

Source: Arm IHI 0022, AMBA AXI and ACE Protocol Specification, issue H, chapters A2 and A3; what a
Zynq-7000 makes of it: AMD UG585, chapter 5.
"""

from amaranth.lib.wiring import In, Out, Signature

__all__ = ["BURST_FIXED", "BURST_WRAP", "DECERR", "MAX_BURST_BEATS", "NORMAL_MEMORY", "Axi3"]

MAX_BURST_BEATS = 16  # A3.4.1: longest AXI3 burst
BURST_FIXED, BURST_WRAP = 0, 2  # A3.4.1: AxBURST encodings
NORMAL_MEMORY = 0b0011  # A4.4, AxCACHE: modifiable and bufferable, goes to no cache
DECERR = 0b11  # A3.4.4: nothing is at the address


class Axi3(Signature):
    """An AXI3 manager.

    Parameters
    ----------
    bus_bytes
        Width of the data in bytes.
    address_bits
        Width of an address in bits.
    id_bits
        Width of an identifier in bits.
    """

    def __init__(self, *, bus_bytes: int, address_bits: int, id_bits: int):
        address = {
            "addr": address_bits,
            "id": id_bits,
            "len": 4,
            "size": 3,
            "burst": 2,
            "lock": 2,
            "cache": 4,
            "prot": 3,
            "qos": 4,
            "valid": 1,
        }
        members = {}
        for channel in ("aw", "ar"):
            members |= {f"{channel}{name}": Out(width) for name, width in address.items()}
            members |= {f"{channel}ready": In(1)}
        super().__init__(
            {
                **members,
                "wid": Out(id_bits),
                "wdata": Out(bus_bytes * 8),
                "wstrb": Out(bus_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(id_bits),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "rid": In(id_bits),
                "rdata": In(bus_bytes * 8),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
