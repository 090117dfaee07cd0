"""One read port for two engines that never run at the same time."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from ciuic.abi import OverlayConfig

from ..streams import SkidBuffer, delay
from .ports import ReadPort, beat_layout

__all__ = ["SharedRead"]


class SharedRead(Component):
    """Let one of two engines use a read port; its data wait at the engine that they are for.

    Members
    -------
    second : In(1)
        The second engine has the port, else the first, from the next cycle on; constant while
        either has reads in flight.
    port_0, port_1 : In(ReadPort)
        The engines' ports.
    port : Out(ReadPort)
        The shared one.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        port = ReadPort(config)
        super().__init__(
            {"second": In(1), "port_0": In(port), "port_1": In(port), "port": Out(port)}
        )

    def elaborate(self, platform):
        m = Module()
        second = delay(m, self.second, 1)  # it comes from far
        m.d.comb += self.port.request.p.eq(
            Mux(second, self.port_1.request.p, self.port_0.request.p)
        )
        for index, user in enumerate((self.port_0, self.port_1)):
            mine = second == index
            m.submodules[f"data_{index}"] = data = SkidBuffer(beat_layout(self.config))
            connect(m, data.o, flipped(user.data))
            m.d.comb += [
                user.request.ready.eq(mine & self.port.request.ready),
                data.i.valid.eq(mine & self.port.data.valid),
                data.i.p.eq(self.port.data.p),
            ]
            with m.If(mine):
                m.d.comb += [
                    self.port.request.valid.eq(user.request.valid),
                    self.port.data.ready.eq(data.i.ready),
                ]
        return m
