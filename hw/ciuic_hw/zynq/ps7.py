"""The processing system of a Zynq-7000 as a component; it has no pins in the logic's fabric.

Its ports are those of the primitive ``PS7``, as Yosys' ``xilinx/cells_xtra.v`` lists them; AMD
UG585 describes what is behind them. Memory, clocks and pins of the processing system are set up by
the board's boot loader, not by the bitstream.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from . import control, memory
from .axi3 import Axi3

__all__ = ["INTERRUPTS", "MEMORY_PORTS", "Ps7"]

MEMORY_PORTS = 4
INTERRUPTS = 16  # IRQ_F2P; the first is interrupt 61 of the processors


class Ps7(Component):
    """The processing system.

    Parameters
    ----------
    ports
        How many of its memory ports are used.

    Members
    -------
    control : Out(Axi3)
        M_AXI_GP0.
    memory_<port> : In(Axi3)
        S_AXI_HP0 and so on, 64 bits wide.
    interrupts : In(16)
        IRQ_F2P.
    clock : Out(1)
        FCLK_CLK0, behind a global buffer. It also clocks the ports.
    reset_n : Out(1)
        FCLK_RESET0_N, asynchronous.
    """

    def __init__(self, *, ports: int):
        if not 1 <= ports <= MEMORY_PORTS:
            raise ValueError(f"ports must be from 1 to {MEMORY_PORTS}, not {ports!r}")
        self.ports = ports
        slave = Axi3(bus_bytes=8, address_bits=32, id_bits=memory.ID_BITS)
        super().__init__(
            {
                "control": Out(Axi3(bus_bytes=4, address_bits=32, id_bits=control.ID_BITS)),
                **{f"memory_{port}": In(slave) for port in range(ports)},
                "interrupts": In(INTERRUPTS),
                "clock": Out(1),
                "reset_n": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        clocks, resets = Signal(4), Signal(4)
        pins = {
            "o_FCLKCLK": clocks,
            "o_FCLKRESETN": resets,
            "i_IRQF2P": Cat(self.interrupts, Const(0, 4)),  # above: interrupts of one processor
            "i_FPGAIDLEN": Const(0),
            "i_FCLKCLKTRIGN": Const(0, 4),
            "i_DDRARB": Const(0, 4),
            "i_EVENTEVENTI": Const(0),
            **self._port(m, "MAXIGP0", self.control),
        }
        for port in range(MEMORY_PORTS):
            used = port < self.ports
            # Of an unused port only the inputs that begin something matter.
            pins |= (
                self._port(m, f"SAXIHP{port}", getattr(self, f"memory_{port}"))
                | {f"i_SAXIHP{port}{side}ISSUECAP1EN": Const(0) for side in ("RD", "WR")}
                if used
                else {
                    f"i_SAXIHP{port}{name}": Const(0) for name in ("ARVALID", "AWVALID", "WVALID")
                }
            )
        m.submodules.ps7 = Instance("PS7", a_keep=1, **pins)
        m.submodules.buffer = Instance("BUFG", i_I=clocks[0], o_O=self.clock)
        m.d.comb += self.reset_n.eq(resets[0])
        return m

    def _port(self, m, prefix, axi3):
        """Return the pins of an AXI3 port; sizes have a bit less than in the standard."""
        pins = {f"i_{prefix}ACLK": self.clock}
        for name, member in axi3.signature.members.items():
            driven = member.flow is Out
            signal = getattr(axi3, name)
            if name in ("arsize", "awsize"):
                narrow = Signal(2, name=f"{prefix}_{name}")
                m.d.comb += signal.eq(narrow) if driven else narrow.eq(signal)
                signal = narrow
            pins[f"{'o' if driven else 'i'}_{prefix}{name.upper()}"] = signal
        return pins
