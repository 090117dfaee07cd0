"""The overlay: registers, command processor and engines behind one AXI4-Lite slave and one master.

control ─► ControlRegisters ─► Fetch ─► Dispatch ─► engines ─► Complete
                                 │                  │    │       │
memory  ◄──────────────────── ReadChannel ◄─────────┘    └► WriteChannel ─► memory
"""

from amaranth.hdl import *
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from ciuic.abi import Opcode, OverlayConfig
from ciuic.abi import registers as regs

from .attention.engine import AttentionEngine
from .axi.bus import Axi4, Axi4Lite
from .axi.read import ReadChannel, connect_axi_read
from .axi.share import SharedRead
from .axi.write import WriteChannel, connect_axi_write
from .command.complete import Complete
from .command.dispatch import NOTES_WAITING, Dispatch
from .command.fetch import Fetch
from .control import ADDRESS_BITS, ControlRegisters
from .copy import CopyEngine
from .gemm.engine import GemmEngine
from .softmax.engine import SoftmaxEngine
from .sources import build_hash
from .streams import delay

__all__ = ["Overlay"]

OPCODES = {
    "gemm": (Opcode.GEMM,),
    "softmax": (Opcode.SOFTMAX,),
    "copy": (Opcode.COPY, Opcode.NOP),
    "attention": (Opcode.ATTENTION,),
}
# Beats that each read port may have waiting; a burst is at most half of them.
READ_DEPTHS = {
    "command": 32,
    "activations": 128,
    "parameters": 32,
    "residual": 64,
    "softmax": 256,
    "lengths": 32,
    "copy": 128,
    "weights": 512,
}
STRIPE_DEPTHS = {"weights": READ_DEPTHS["weights"]}  # of the ports that carry weights only


class Overlay(Component):
    """A loadable design for one configuration.

    With several ports, weights are striped over all of them; the first carries everything else.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    control : In(Axi4Lite)
        Registers, see `ciuic.abi.registers`.
    memory : Out(Axi4)
        Descriptors, operands, results, completion records: the first port.
    memory_<port> : Out(Axi4)
        The other ports, if any: weights.
    interrupt : Out(1)
        Level, high while an enabled interrupt is pending.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        axi = Axi4(bus_bytes=config.bus_bytes, address_bits=config.address_bits)
        super().__init__(
            {
                "control": In(Axi4Lite(address_bits=ADDRESS_BITS)),
                "memory": Out(axi),
                **{f"memory_{port}": Out(axi) for port in range(1, config.ports)},
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.control = control = ControlRegisters(config, build_hash=build_hash())
        connect(m, flipped(self.control), control.bus)
        m.d.comb += self.interrupt.eq(control.interrupt)

        # All but the registers is under the soft reset; each part has its own register of it.
        stages = []

        def reset(part):
            stages.append(Signal(name=f"reset_{len(stages)}"))
            return ResetInserter(stages[-1])(part)

        engines = {
            "gemm": GemmEngine(config),
            "softmax": SoftmaxEngine(config),
            "copy": CopyEngine(config),
            **({"attention": AttentionEngine(config)} if config.attention else {}),
        }
        write_ports = ("command", *engines)
        readers = [
            ReadChannel(config, STRIPE_DEPTHS if port else READ_DEPTHS)
            for port in range(config.ports)
        ]
        reader = readers[0]
        writer = WriteChannel(config, write_ports)
        fetch, dispatch = Fetch(config), Dispatch(config, {name: OPCODES[name] for name in engines})
        complete = Complete(config, tuple(engines))
        notes = SyncFIFOBuffered(
            width=Shape.cast(dispatch.note.p.shape()).width, depth=NOTES_WAITING
        )
        for port, channel in enumerate(readers):
            m.submodules[f"reader_{port}"] = reset(channel)
            axi = getattr(self, f"memory_{port}") if port else self.memory
            connect_axi_read(m, channel, axi, config)
            self._share(m, reset, engines, f"read_weights_{port}", channel.weights)
            m.d.comb += channel.drain.eq(control.resetting)
        m.submodules.writer = reset(writer)
        m.submodules.fetch = reset(fetch)
        m.submodules.dispatch = reset(dispatch)
        m.submodules.complete = reset(complete)
        m.submodules.notes = reset(notes)
        for name, engine in engines.items():
            m.submodules[name] = reset(engine)

        connect_axi_write(m, writer, self.memory, config)
        connect(m, fetch.read, reader.command)
        self._share(m, reset, engines, "read", reader.activations)
        self._share(m, reset, engines, "read_parameters", reader.parameters)
        connect(m, engines["gemm"].read_residual, reader.residual)
        connect(m, engines["softmax"].read, reader.softmax)
        connect(m, engines["softmax"].read_lengths, reader.lengths)
        connect(m, engines["copy"].read, reader.copy)
        connect(m, complete.write, writer.command)
        connect(m, fetch.fetched, dispatch.fetched)
        for name, engine in engines.items():
            connect(m, getattr(dispatch, name), engine.descriptor)
            connect(m, engine.done, getattr(complete, name))
            connect(m, engine.write, getattr(writer, name))
        m.d.comb += [
            notes.w_data.eq(dispatch.note.p),
            notes.w_en.eq(dispatch.note.valid),
            dispatch.note.ready.eq(notes.w_rdy),
            complete.note.p.eq(notes.r_data),
            complete.note.valid.eq(notes.r_rdy),
            notes.r_en.eq(complete.note.ready),
        ]

        if config.attention:
            attention = engines["attention"]
            connect(m, attention.array, engines["gemm"].borrower)
            connect(m, attention.lanes, engines["softmax"].borrower)

        run = control.enable & ~complete.halted & ~control.resetting
        m.d.comb += [
            fetch.run.eq(run),
            fetch.base.eq(control.ring_base),
            fetch.log2.eq(control.ring_log2),
            fetch.doorbell.eq(control.doorbell),
            dispatch.run.eq(delay(m, run, 1)),
            dispatch.completed.eq(complete.completed),
            complete.base.eq(control.completion_base),
            complete.log2.eq(control.ring_log2),
            complete.doorbell.eq(control.doorbell),
            control.busy.eq(delay(m, run & (complete.completed != control.doorbell), 1)),
            control.halted.eq(complete.halted),
            control.code.eq(complete.code),
            control.completed.eq(complete.completed),
        ]
        m.d.sync += [control.done.eq(complete.done), control.error.eq(complete.error)]

        quiet = Cat(channel.quiet for channel in (*readers, writer)).all()
        soft = self._soft_reset(m, control, quiet, stages)
        m.d.comb += writer.drain.eq(control.resetting)

        counters = self._counters(m, control, readers, writer, engines, complete, soft)
        for part in (fetch, dispatch, complete):
            m.d.comb += part.cycle.eq(counters["cycles"])
        # Records count the engines' beats, not those of descriptors and records.
        command = tuple(READ_DEPTHS).index("command")
        command_written = 1 << write_ports.index("command")
        engine_beats, engine_beat = Signal(range(config.ports + 1)), Signal()
        m.d.sync += [
            engine_beats.eq(sum(channel.beat.any() for channel in readers) - reader.beat[command]),
            engine_beat.eq((writer.beat & ~command_written).any()),
            complete.beats_read.eq(complete.beats_read + engine_beats),
            complete.beats_written.eq(complete.beats_written + engine_beat),
        ]
        with m.If(soft):
            m.d.sync += [complete.beats_read.eq(0), complete.beats_written.eq(0)]

        idle_cycles = Signal(32)
        moving, busy = Signal(), delay(m, control.busy, 1)
        m.d.sync += [
            moving.eq(
                Cat(channel.beat for channel in readers).any() | writer.beat.any() | ~busy | soft
            ),
            idle_cycles.eq(Mux(moving, 0, idle_cycles + 1)),
            complete.watchdog_expired.eq(
                ~moving & (control.watchdog != 0) & (idle_cycles >= control.watchdog)
            ),
        ]
        return m

    def _soft_reset(self, m, control, quiet, stages):
        """Let the bus come to rest, then forget; return what forgets the registers' state.

        The reset goes from part to part, a cycle each, so that no register has to reach them all.
        It stays until it is everywhere, and there is nothing to do until it is nowhere.
        """
        spread, soft = Signal(), Signal()
        m.d.sync += [one.eq(before) for before, one in zip((spread, *stages), stages, strict=False)]
        m.d.comb += control.clear.eq(soft)
        with m.If(control.reset_request):
            m.d.sync += control.resetting.eq(1)
        with m.FSM(name="reset"):
            with m.State("WAIT"):
                with m.If(control.resetting & quiet):
                    m.next = "SPREAD"
            with m.State("SPREAD"):
                m.d.comb += spread.eq(1)
                m.d.sync += soft.eq(1)
                with m.If(stages[-1]):
                    m.next = "END"
            with m.State("END"):
                with m.If(~stages[-1]):
                    m.d.sync += [soft.eq(0), control.resetting.eq(0)]
                    m.next = "WAIT"
        return soft

    def _share(self, m, reset, engines, name, port):
        """Join a read port to the GEMM engine, and to the attention engine while that has a job."""
        if not self.config.attention:
            connect(m, getattr(engines["gemm"], name), port)
            return
        shared = SharedRead(self.config)
        m.submodules[f"share_{name}"] = reset(shared)
        m.d.comb += shared.second.eq(engines["attention"].owner)
        connect(m, getattr(engines["gemm"], name), shared.port_0)
        connect(m, getattr(engines["attention"], name), shared.port_1)
        connect(m, shared.port, port)

    def _counters(self, m, control, readers, writer, engines, complete, soft):
        """Count what `registers.COUNTERS` names; return the counters by name."""
        running, busy = {}, delay(m, control.busy, 1)
        for name in ("gemm", "softmax"):
            running[name] = Signal(name=f"{name}_running")
            number = tuple(engines).index(name)
            m.d.comb += running[name].eq(
                complete.note.valid & (complete.note.p.engine == number) & busy
            )
        events = {
            "cycles": 1,
            "gemm_busy": running["gemm"],
            "array_busy": engines["gemm"].active,
            "softmax_busy": running["softmax"],
            "lanes_busy": engines["softmax"].active,
            "stall_read": Cat(r.waiting for r in readers).any()
            & ~Cat(r.beat for r in readers).any(),
            "stall_write": writer.waiting,
            "beats_read": sum(channel.beat.any() for channel in readers),
            "beats_written": writer.beat.any(),
        }
        counters = {}
        for name in regs.COUNTERS:
            counters[name] = Signal(64, name=f"count_{name}")
            low, high = counters[name][:32], counters[name][32:]
            event = Value.cast(events[name])
            seen = Signal.like(event, name=f"seen_{name}")
            # The upper half gets its carry from a register; the lower one waits for it.
            early, carry = Signal(32, name=f"early_{name}"), Signal(name=f"carry_{name}")
            m.d.sync += [
                seen.eq(event),
                Cat(early, carry).eq(Mux(soft, 0, early + seen)),
                low.eq(Mux(soft, 0, early)),
                high.eq(Mux(soft, 0, high + carry)),
            ]
            m.d.comb += getattr(control, f"count_{name}").eq(counters[name])
        return counters
