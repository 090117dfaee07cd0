"""Checks a descriptor and hands it to its engine when its turn has come."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import Opcode, OverlayConfig, Status
from ciuic.abi.descriptors import ALIGNED

from ..jobs import when_ready
from ..layouts import DESCRIPTOR_LAYOUT
from .fetch import FETCHED_LAYOUT

__all__ = ["NOTES_WAITING", "Dispatch", "note_layout"]

NOTES_WAITING = 4  # of descriptors between dispatch and completion
FLYING_BITS = (2 * NOTES_WAITING + 8).bit_length()  # their number, with those on the way


def note_layout(engines: int) -> data.StructLayout:
    """Return what completion must know of a descriptor that was dispatched."""
    return data.StructLayout(
        {
            "engine": ceil_log2(max(2, engines)),
            "status": 8,  # other than PENDING: it was refused and no engine has it
            "tag": DESCRIPTOR_LAYOUT["tag"].width,
            "fetched": 64,
            "started": 64,
        }
    )


class Dispatch(Component):
    """Start descriptors in order.

    A descriptor is started when the one that it names in ``after`` is complete, and when its
    engine is the one that works already or none works.

    Parameters
    ----------
    config
        The overlay's configuration.
    engines
        Name of each engine and the opcodes that it runs.

    Members
    -------
    run : In(1)
        Start descriptors while set.
    completed : In(32)
        Number of completed descriptors.
    cycle : In(64)
        Cycle counter.
    fetched : In(stream)
        See `Fetch`.
    <engine> : Out(stream)
        Descriptors, see `when_ready`.
    note : Out(stream)
        See `note_layout`.
    """

    def __init__(self, config: OverlayConfig, engines: dict[str, tuple[Opcode, ...]]):
        self.config = config
        self.engines = engines
        super().__init__(
            {
                "run": In(1),
                "completed": In(32),
                "cycle": In(64),
                "fetched": In(stream.Signature(FETCHED_LAYOUT)),
                **{engine: Out(stream.Signature(DESCRIPTOR_LAYOUT)) for engine in engines},
                "note": Out(stream.Signature(note_layout(len(engines)))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        descriptor = self.fetched.p.descriptor
        # What a descriptor is, a cycle after it is there.
        checked, taken = Signal(), Signal()
        engine, its_engine = (Signal(self.note.p.engine.shape()) for _ in range(2))
        status, good = Signal(8), Signal()  # why it is refused; it is not
        known, misaligned = Signal(), Signal()
        low = exact_log2(self.config.alignment)
        m.d.comb += misaligned.eq(Cat(getattr(descriptor, name)[:low] for name in ALIGNED).any())
        m.d.sync += [
            checked.eq(self.fetched.valid & ~taken),
            status.eq(Status.PENDING),
            good.eq(known & ~self.fetched.p.error & ~misaligned),
        ]
        with m.Switch(descriptor.opcode):
            for number, opcodes in enumerate(self.engines.values()):
                with m.Case(*opcodes):
                    m.d.comb += [known.eq(1), its_engine.eq(number)]
                    m.d.sync += engine.eq(number)
        with m.If(self.fetched.p.error):
            m.d.sync += status.eq(Status.READ_ERROR)
        with m.Elif(~known):
            m.d.sync += status.eq(Status.BAD_OPCODE)
        with m.Elif(misaligned):
            m.d.sync += status.eq(Status.BAD_ALIGNMENT)

        # Whose turn it is. `started` counts descriptors handed out. Once it is a descriptor's turn
        # it stays so: what it waits for only gets done.
        started, flying = Signal(FLYING_BITS), Signal(FLYING_BITS)
        working = Signal.like(engine)
        # No engine works, or its own; what it waits for is done; descriptors may start at all.
        idle, same, turn, open_ = Signal(), Signal(), Signal(), Signal()
        offered = Signal(len(self.engines))
        handed = Signal()
        m.d.sync += [
            same.eq(its_engine == working),
            open_.eq(self.run & self.note.ready),
            flying.eq(started - self.completed),
            idle.eq(flying == 0),
            turn.eq(
                (descriptor.after == 0)
                | descriptor.after[FLYING_BITS:].any()
                | (flying < descriptor.after[:FLYING_BITS])
            ),
        ]
        due = Signal()
        m.d.comb += due.eq(checked & ~taken & open_ & turn & (idle | (good & same)))
        m.d.sync += taken.eq(handed | (due & ~good))
        for number, name in enumerate(self.engines):
            port = getattr(self, name)
            m.d.comb += [
                port.p.eq(descriptor),
                port.valid.eq(when_ready(m, offered[number], port)),
            ]
            m.d.sync += offered[number].eq(
                Mux(offered[number], ~port.valid, due & good & (engine == number))
            )
        m.d.comb += [
            handed.eq(Cat(getattr(self, name).valid for name in self.engines).any()),
            self.fetched.ready.eq(taken),
            self.note.valid.eq(taken),
            self.note.p.engine.eq(engine),
            self.note.p.status.eq(status),
            self.note.p.tag.eq(descriptor.tag),
            self.note.p.fetched.eq(self.fetched.p.cycle),
            self.note.p.started.eq(self.cycle),
        ]
        with m.If(taken):
            m.d.sync += [started.eq(started + 1), working.eq(engine)]
        return m
