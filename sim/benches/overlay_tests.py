"""The whole overlay, inside the simulator; `test_overlay.py` starts this."""

from __future__ import annotations

import itertools
from typing import Any

import cocotb
from ciuic_sim import jobs
from ciuic_sim.bench import parameters
from ciuic_sim.overlay_bench import COMPLETION_BASE, MEMORY_BYTES, RING_BASE, OverlayBench
from cocotbext.axi import AxiResp

from ciuic.abi import DESCRIPTOR, Flag, Format, Opcode, OverlayConfig, Status, registers
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE

CONFIG = OverlayConfig(**parameters()["config"])


async def started(dut: Any, pause: float = 0) -> OverlayBench:
    bench = OverlayBench(dut, CONFIG, pause=pause)
    await bench.start()
    return bench


async def works(bench: OverlayBench) -> None:
    """Check that the overlay does every kind of job after what was done to it."""
    await bench.run(
        jobs.copy(bench, 77),
        jobs.gemm(bench, 3, CONFIG.rows + 1, CONFIG.cols + 1),
        jobs.softmax(bench, 2, 19),
        *attentions(bench),
    )


def attentions(bench: OverlayBench) -> list[jobs.Fields]:
    """Return an attention, if the overlay has the engine."""
    shape = (3, CONFIG.rows + 1, 2 * CONFIG.cols + 3, CONFIG.cols + 2)
    return [jobs.attention(bench, *shape)] if CONFIG.attention else []


@cocotb.test()
async def registers_tell_the_configuration(dut: Any) -> None:
    bench = await started(dut)
    assert await bench.read(registers.MAGIC) == registers.MAGIC_VALUE
    assert await bench.read(registers.ABI_VERSION) == registers.ABI_VERSION_VALUE
    found: dict[str, int] = {}
    for register in (
        registers.ARRAY_SHAPE,
        registers.BUS_SHAPE,
        registers.ACTIVATION_WORDS,
        registers.ACCUMULATOR_ROWS,
        registers.MAX_ROW,
        registers.ENGINES,
    ):
        found |= register.decode(await bench.read(register))
    assert found == {name: getattr(CONFIG, name) for name in found}


@cocotb.test()
async def registers_keep_what_was_written(dut: Any) -> None:
    bench = await started(dut)
    for register in (registers.RING_BASE_LO, registers.RING_BASE_HI, registers.WATCHDOG):
        value = int(bench.rng.integers(0, 1 << 32))
        await bench.write(register, value)
        assert await bench.read(register) == value
        byte = int(bench.rng.integers(0, 4))
        await bench.control.write(register.offset + byte, b"\x5c")
        mixed = value & ~(0xFF << 8 * byte) | 0x5C << 8 * byte
        assert await bench.read(register) == mixed
    for register in (registers.MAGIC, registers.COMPLETED, registers.MAX_ROW):
        before = await bench.read(register)
        await bench.write(register, 0xFFFF_FFFF)
        assert await bench.read(register) == before


@cocotb.test()
@cocotb.parametrize(pause=[0, 0.3])
async def random_jobs_equal_the_reference(dut: Any, pause: float) -> None:
    bench = await started(dut, pause)
    for count in (1, 3, 8, 8, 8):
        await bench.run(*(jobs.random_job(bench) for _ in range(count)))


@cocotb.test()
@cocotb.parametrize(pause=[0, 0.3])
async def engines_that_share_the_array_take_turns(dut: Any, pause: float) -> None:
    """Attention borrows from GEMM and softmax, which go on as if nothing had been."""
    bench = await started(dut, pause)
    for _ in range(3):
        around = [jobs.random_gemm(bench, (3, 40, 20)), jobs.softmax(bench, 2, 30)]
        await bench.run(*around, *attentions(bench), *attentions(bench), *reversed(around))
    score = jobs.gemm(bench, 4, CONFIG.rows, CONFIG.cols)
    for heads in (attentions(bench) for _ in range(2)):
        await bench.run(*heads, score, *heads)


@cocotb.test()
async def edges_of_the_array_and_the_bus(dut: Any) -> None:
    bench = await started(dut, 0.1)
    rows, cols = CONFIG.rows, CONFIG.cols
    for m, k, n in itertools.product((1, 2), (1, rows, rows + 1), (1, cols - 1, cols + 1)):
        await bench.run(jobs.gemm(bench, m, k, n))
    for nbytes in range(1, 2 * CONFIG.bus_bytes + 1):
        await bench.run(jobs.copy(bench, nbytes))
    for cols, out in itertools.product((1, 2, CONFIG.lanes + 1), (Format.Q0_16, Format.Q0_8)):
        await bench.run(jobs.softmax(bench, 3, cols, out_format=out, causal=True))


@cocotb.test()
async def a_chain_waits_for_what_it_reads(dut: Any) -> None:
    """GEMM, softmax of its result, copy of that: `after` alone keeps the order."""
    bench = await started(dut, 0.2)
    m, n = 4, CONFIG.cols + 3
    first = jobs.gemm(bench, m, CONFIG.rows, n)
    second = jobs.softmax(bench, m, n)
    second |= {"a_addr": first["o_addr"], "a_stride": first["o_stride"], "after": 1}
    third = jobs.copy(bench, m * second["o_stride"])
    third |= {"a_addr": second["o_addr"], "after": 1}
    await bench.run(first, second, third)


@cocotb.test()
@cocotb.parametrize(pause=[0, 0.3])
async def a_gemm_waits_for_the_gemm_that_it_reads(dut: Any, pause: float) -> None:
    """The engine works ahead, so that without `after` the second would read too early."""
    bench = await started(dut, pause)
    m, n = 6, 2 * CONFIG.cols
    for _ in range(3):
        first = jobs.gemm(bench, m, 5 * CONFIG.rows, n)
        second = jobs.gemm(bench, m, 4 * n, 3)
        second |= {"a_addr": first["o_addr"], "a_stride": first["o_stride"], "after": 1}
        await bench.run(first, second)
        between = jobs.gemm(bench, 1, 3, 2)
        third = second | {"o_addr": bench.space(m * second["o_stride"]), "after": 2}
        await bench.run(first, between, third)


@cocotb.test()
async def counters_agree_with_the_records(dut: Any) -> None:
    bench = await started(dut)
    before = await bench.counters()
    records = await bench.run(*(jobs.random_job(bench) for _ in range(6)))
    after = await bench.counters()
    grown = {name: after[name] - before[name] for name in registers.COUNTERS}
    fetched = 6 * 128 // CONFIG.bus_bytes
    answered = 6 * 64 // CONFIG.bus_bytes
    assert grown["beats_read"] == sum(r["beats_read"] for r in records) + fetched
    assert grown["beats_written"] == sum(r["beats_written"] for r in records) + answered
    assert grown["array_busy"] + grown["lanes_busy"] <= sum(r["busy"] for r in records)
    assert grown["cycles"] >= records[-1]["finished"] - records[0]["fetched"]
    assert await bench.read(registers.COMPLETED) == 6


@cocotb.test()
async def interrupts_can_be_masked(dut: Any) -> None:
    bench = await started(dut)
    await bench.write(registers.INTERRUPT_ENABLE, 0)
    await bench.submit(jobs.nop(bench))
    await bench.cycles(300)
    assert dut.interrupt.value == 0
    assert await bench.read(registers.INTERRUPT_STATUS) == 1
    await bench.write(registers.INTERRUPT_ENABLE, registers.INTERRUPT_ENABLE.encode(done=1))
    await bench.interrupt(10)
    await bench.clear_interrupt()
    await bench.cycles(2)
    assert dut.interrupt.value == 0


@cocotb.test()
@cocotb.parametrize(first=["done", "error"])
async def interrupts_are_cleared_one_by_one(dut: Any, first: str) -> None:
    bench = await started(dut)
    await bench.submit(jobs.nop(bench))
    await bench.interrupt(1000)
    await bench.submit({"opcode": 9})
    await bench.cycles(500)
    register = registers.INTERRUPT_STATUS
    assert register.decode(await bench.read(register)) == {"done": 1, "error": 1}
    await bench.write(register, register.encode(**{first: 1}))
    left = {"done": 1, "error": 1} | {first: 0}
    assert register.decode(await bench.read(register)) == left
    assert dut.interrupt.value == 1
    await bench.clear_interrupt()
    assert await bench.read(register) == 0


@cocotb.test()
async def bad_descriptors_are_refused(dut: Any) -> None:
    bench = await started(dut)
    gemm, softmax = jobs.gemm(bench, 2, 5, 3), jobs.softmax(bench, 2, 5)
    bad = [
        (Status.BAD_OPCODE, {"opcode": len(Opcode)}),
        (Status.BAD_OPCODE, {"opcode": 255}),
        *((Status.BAD_ALIGNMENT, gemm | {name: gemm[name] + 1}) for name in ("a_addr", "o_addr")),
        (Status.BAD_ALIGNMENT, gemm | {"w_addr": gemm["w_addr"] + CONFIG.bus_bytes // 2}),
        (Status.BAD_ALIGNMENT, gemm | {"a_stride": gemm["a_stride"] + 1}),
        (Status.BAD_ALIGNMENT, softmax | {"o_stride": softmax["o_stride"] + 2}),
        *(
            (Status.BAD_ALIGNMENT, gemm | {name: CONFIG.bus_bytes // 2})
            for name in ("p_addr", "r_addr", "w_stride", "r_stride")
        ),
        *((Status.BAD_SIZE, gemm | {name: 0}) for name in ("m", "k", "n")),
        (Status.BAD_SIZE, gemm | {"k": GEMM_MAX_K + 1}),
        (Status.BAD_SIZE, gemm | {"m": MAX_SIZE + 1}),
        (Status.BAD_FORMAT, gemm | {"out_format": Format.INT16}),
        (Status.BAD_FORMAT, gemm | {"out_format": Format.INT8}),  # without parameters
        (Status.BAD_SIZE, softmax | {"n": 0}),
        (Status.BAD_SIZE, softmax | {"m": 0}),
        (Status.BAD_SIZE, softmax | {"n": CONFIG.max_row + 1}),
        (Status.BAD_FORMAT, softmax | {"in_format": Format.Q0_16}),
        (Status.BAD_FORMAT, softmax | {"out_format": Format.INT32}),
    ]
    for status, descriptor in bad:
        await bench.fail(status, descriptor)
        bench.compare()  # nothing was written
    if not CONFIG.attention:
        await bench.fail(Status.BAD_OPCODE, gemm | {"opcode": Opcode.ATTENTION})
    for job in attentions(bench):
        await bench.fail(Status.BAD_SIZE, job | {"d_v": 0})
        await bench.fail(Status.BAD_FORMAT, job | {"out_format": Format.INT8})
        for name in ("a_addr", "p_addr", "r_addr", "w_stride"):
            await bench.fail(Status.BAD_ALIGNMENT, job | {name: job[name] + 1})
    if not CONFIG.w4:
        await bench.fail(Status.BAD_FORMAT, gemm | {"flags": Flag.W4})
    await works(bench)


@cocotb.test()
async def jobs_before_a_bad_one_are_done_and_those_after_are_not(dut: Any) -> None:
    bench = await started(dut)
    good, late = jobs.gemm(bench, 2, 5, 3), jobs.copy(bench, 40)
    bench.engines.run(DESCRIPTOR.unpack(DESCRIPTOR.pack(**good)))
    await bench.submit(good, {"opcode": 9}, late)
    await bench.interrupt(20_000)
    await bench.cycles(500)
    assert [bench.record(i)["status"] for i in (0, 1)] == [Status.OK, Status.BAD_OPCODE]
    assert await bench.read(registers.COMPLETED) == 2
    bench.compare()
    await bench.soft_reset()
    await bench.configure()
    await works(bench)


@cocotb.test()
@cocotb.parametrize(operand=["a_addr", "w_addr", "o_addr"], pause=[0, 0.3])
async def refused_accesses_of_a_gemm_are_reported(dut: Any, operand: str, pause: float) -> None:
    bench = await started(dut, pause)
    job = jobs.gemm(bench, 5, 40, 20)
    refused = range(job[operand], job[operand] + CONFIG.bus_bytes)
    written = operand == "o_addr"
    side = bench.writes if written else bench.reads
    side.refused = refused
    await bench.fail(Status.WRITE_ERROR if written else Status.READ_ERROR, job)
    side.refused = range(0)
    start = job["o_addr"]
    stop = start + job["m"] * job["o_stride"]
    bench.image.bytes[start:stop] = list(bench.writes.mem[start:stop])  # undefined after an error
    bench.compare()
    await works(bench)


@cocotb.test()
@cocotb.parametrize(answer=[AxiResp.SLVERR, AxiResp.DECERR])
async def either_error_of_any_port_is_reported(dut: Any, answer: AxiResp) -> None:
    bench = await started(dut, 0.1)
    job = jobs.gemm(bench, 5, 4 * CONFIG.rows, 4 * CONFIG.cols)
    weights = range(job["w_addr"], job["w_addr"] + 16 * CONFIG.rows * CONFIG.cols)
    for port in bench.read_ports:
        port.answer, port.refused = answer, weights  # of the share of this port alone
        await bench.fail(Status.READ_ERROR, job)
        port.refused = range(0)
    bench.writes.answer, bench.writes.refused = answer, range(job["o_addr"], job["o_addr"] + 1)
    await bench.fail(Status.WRITE_ERROR, job)
    bench.writes.refused = range(0)
    bench.image.bytes[:] = list(bench.writes.mem[:])  # the result is undefined after an error
    await works(bench)


@cocotb.test()
@cocotb.parametrize(kind=["softmax", "copy"], written=[False, True])
async def refused_accesses_of_others_are_reported(dut: Any, kind: str, written: bool) -> None:
    bench = await started(dut)
    job = jobs.softmax(bench, 3, 20) if kind == "softmax" else jobs.copy(bench, 300)
    address = job["o_addr" if written else "a_addr"] + CONFIG.bus_bytes
    side = bench.writes if written else bench.reads
    side.refused = range(address, address + CONFIG.bus_bytes)
    await bench.fail(Status.WRITE_ERROR if written else Status.READ_ERROR, job)
    side.refused = range(0)
    start = job["o_addr"]
    stop = start + (job.get("m", 1) * job.get("o_stride", 0) or job["n"])
    bench.image.bytes[start:stop] = list(bench.writes.mem[start:stop])
    bench.compare()
    await works(bench)


@cocotb.test()
async def an_unreadable_ring_is_reported(dut: Any) -> None:
    bench = await started(dut)
    bench.reads.refused = range(RING_BASE, RING_BASE + CONFIG.bus_bytes)
    await bench.fail(Status.READ_ERROR, jobs.nop(bench))
    bench.reads.refused = range(0)
    await works(bench)


@cocotb.test()
async def an_unwritable_record_is_reported(dut: Any) -> None:
    bench = await started(dut)
    bench.writes.refused = range(COMPLETION_BASE, MEMORY_BYTES)
    await bench.submit(jobs.nop(bench))
    await bench.interrupt(5000)
    status = await bench.status()
    assert (status["halted"], status["code"]) == (1, Status.WRITE_ERROR), status
    bench.writes.refused = range(0)
    await bench.soft_reset()
    await bench.configure()
    await works(bench)


@cocotb.test()
@cocotb.parametrize(channel=["r", "b"])
async def a_silent_memory_trips_the_watchdog(dut: Any, channel: str) -> None:
    bench = await started(dut)
    await bench.configure(watchdog=400)
    silent = bench.reads.r_channel if channel == "r" else bench.writes.b_channel
    silent.pause = True
    await bench.submit(jobs.gemm(bench, 2, 5, 3))
    await bench.interrupt(5000)
    status = await bench.status()
    assert (status["halted"], status["code"]) == (1, Status.WATCHDOG), status
    silent.pause = False
    await bench.soft_reset()
    await bench.configure()
    bench.image.bytes[:] = list(bench.writes.mem[:])  # how far the job came is undefined
    await works(bench)


@cocotb.test()
async def a_busy_memory_does_not_trip_the_watchdog(dut: Any) -> None:
    bench = await started(dut, 0.5)
    await bench.configure(watchdog=400)
    await works(bench)


@cocotb.test()
async def a_reset_does_not_wait_for_the_work(dut: Any) -> None:
    bench = await started(dut)
    long = jobs.gemm(bench, 1, 20_000, CONFIG.cols)  # nothing is written before the end
    for _ in range(4):
        await bench.submit(long)
        await bench.cycles(int(bench.rng.integers(100, 1000)))
        start = bench.now()
        await bench.soft_reset()
        # what is in flight may still come: a queue of bursts
        assert bench.now() - start < 2000
        bench.image.bytes[:] = list(bench.writes.mem[:])
        await bench.configure()
    await works(bench)


@cocotb.test()
@cocotb.parametrize(pause=[0, 0.3])
async def a_reset_in_the_middle_of_work(dut: Any, pause: float) -> None:
    bench = await started(dut, pause)
    for _ in range(8):
        await bench.submit(*(jobs.random_job(bench) for _ in range(3)))
        await bench.cycles(int(bench.rng.integers(1, 500)))
        await bench.soft_reset()
        assert (await bench.status())["busy"] == 0
        bench.image.bytes[:] = list(bench.writes.mem[:])  # what was done is undefined
        await bench.configure()
    await works(bench)
