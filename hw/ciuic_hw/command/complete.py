"""Takes the engines' answers in order and writes completion records."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import COMPLETION, OverlayConfig, Status

from ..axi.ports import WritePort, selected
from ..layouts import COMPLETION_LAYOUT
from ..streams import delay
from .dispatch import note_layout
from .fetch import ring_position

__all__ = ["Complete"]


class Complete(Component):
    """Write a record for each descriptor; halt at the first that failed.

    Parameters
    ----------
    config
        The overlay's configuration.
    engines
        Name of each engine.

    Members
    -------
    base, log2, doorbell : In
        The ring of records, and the number of descriptors submitted.
    cycle, beats_read, beats_written : In
        Counters.
    watchdog_expired : In(1)
        Nothing moved on the bus for too long.
    note : In(stream)
        See `note_layout`.
    <engine> : In(stream)
        Answers, see `EngineSignature`.
    write : Out(WritePort)
        Memory.
    halted, code, completed : Out
        State.
    done, error : Out(1)
        Strobes: the ring ran empty; the overlay halted.
    """

    def __init__(self, config: OverlayConfig, engines: tuple[str, ...]):
        self.config = config
        self.engines = engines
        answer = stream.Signature(data.StructLayout({"status": 8, "busy": 32}))
        super().__init__(
            {
                "base": In(64),
                "log2": In(4),
                "doorbell": In(32),
                "cycle": In(64),
                "beats_read": In(32),
                "beats_written": In(32),
                "watchdog_expired": In(1),
                "note": In(stream.Signature(note_layout(len(engines)))),
                **{engine: In(answer) for engine in engines},
                "write": Out(WritePort(config)),
                "halted": Out(1),
                "code": Out(8),
                "completed": Out(32),
                "done": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus_bits = self.config.bus_bytes * 8
        beats = COMPLETION.nbytes // self.config.bus_bytes
        note = self.note.p
        record = Signal(COMPLETION_LAYOUT, reset_less=True)
        words = Signal(COMPLETION.nbytes * 8, reset_less=True)
        left, some = Signal(range(beats + 1)), Signal()  # beats of the record; whether any
        seen_read, seen_written = Signal(32), Signal(32)
        ports = [getattr(self, name) for name in self.engines]
        refused, mine = Signal(), Signal(len(ports))  # or whose answer it is
        # Answers a cycle late, as engines are far away. They stay until they are taken, a cycle
        # after they were seen.
        answers = [delay(m, Value.cast(port.p), 1, reset_less=True) for port in ports]
        answer, answered = Signal(ports[0].p.shape()), Signal()
        final = Signal()  # no further descriptor was submitted
        following = Signal(32)
        m.d.sync += [taker.ready.eq(0) for taker in (self.note, *ports)]
        m.d.sync += [following.eq(self.completed + 1), final.eq(following == self.doorbell)]
        offset, addr = Signal(32), Signal(self.config.address_bits)
        m.d.sync += [
            offset.eq(ring_position(self.completed, self.log2) << exact_log2(COMPLETION.nbytes)),
            addr.eq(self.base + offset),
        ]
        write = self.write

        m.d.comb += [write.data.p.eq(words[:bus_bits]), write.data.valid.eq(some)]
        with m.If(write.data.valid & write.data.ready):
            m.d.sync += [
                words.eq(Cat(words[bus_bits:], words[-bus_bits:])),
                left.eq(left - 1),
                some.eq(left != 1),
            ]
        m.d.comb += [
            answer.eq(selected(mine, answers)),
            answered.eq((mine & Cat(delay(m, port.valid, 1) for port in ports)).any()),
        ]

        with m.FSM():
            with m.State("WAIT"):
                m.d.sync += [
                    refused.eq(note.status != Status.PENDING),
                    *(
                        mine[number].eq((note.status == Status.PENDING) & (note.engine == number))
                        for number in range(len(ports))
                    ),
                ]
                with m.If(self.note.valid):
                    m.next = "TAKE"
            with m.State("TAKE"):
                # The record follows what there is until the answer is.
                m.d.sync += [
                    record.status.eq(Mux(refused, note.status, answer.status)),
                    record.index.eq(self.completed),
                    record.fetched.eq(note.fetched),
                    record.started.eq(note.started),
                    record.finished.eq(self.cycle),
                    record.beats_read.eq(self.beats_read - seen_read),
                    record.beats_written.eq(self.beats_written - seen_written),
                    record.busy.eq(answer.busy),
                    record.tag.eq(note.tag),
                ]
                m.d.sync += [
                    port.ready.eq(mine[number] & answered) for number, port in enumerate(ports)
                ]
                with m.If(refused | answered):
                    m.d.sync += self.note.ready.eq(1)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += [
                    write.request.valid.eq(1),
                    write.request.p.addr.eq(addr),
                    write.request.p.nbytes.eq(COMPLETION.nbytes),
                ]
                m.d.sync += words.eq(record)
                with m.If(write.request.ready):
                    m.d.sync += [left.eq(beats), some.eq(1)]
                    m.next = "WRITE"
            with m.State("WRITE"):
                with m.If(write.error):
                    m.d.sync += record.status.eq(Status.WRITE_ERROR)
                with m.If(~some & ~write.busy):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [
                    self.completed.eq(self.completed + 1),
                    seen_read.eq(seen_read + record.beats_read),
                    seen_written.eq(seen_written + record.beats_written),
                ]
                m.next = "WAIT"
                with m.If(record.status != Status.OK):
                    m.d.sync += [self.halted.eq(1), self.code.eq(record.status)]
                    m.d.comb += self.error.eq(1)
                    m.next = "HALTED"
                with m.Elif(final):
                    m.d.comb += self.done.eq(1)
            with m.State("HALTED"):
                pass
        with m.If(self.watchdog_expired & ~self.halted):
            m.d.comb += self.error.eq(1)
            m.d.sync += [self.halted.eq(1), self.code.eq(Status.WATCHDOG)]
        return m
