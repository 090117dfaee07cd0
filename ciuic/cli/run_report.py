"""What ``ciuic run`` reports: the devices, the placement, who ran what, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ciuic.memory.tiers import Tier
from ciuic.models.batch import BatchGeneration
from ciuic.models.continuation import Speed
from ciuic.models.divided import divided_over
from ciuic.models.model import Model
from ciuic.models.placed import HOST
from ciuic.models.plan_report import DeviceResidency
from ciuic.models.recovery import Recovered
from ciuic.scheduler.trace import UsageRow

from . import output
from .devices import Row, print_devices
from .run_check import Check
from .run_write import Work, texts_of


@dataclass(frozen=True, kw_only=True)
class Fpga:
    """What an overlay did, from its own counters.

    Attributes
    ----------
    device
        URI.
    cycles
        From the start of its engines to their last write, summed over descriptors.
    array_utilisation
        Useful multiply-accumulates over those that the array could do in the cycles of GEMMs.
    beats
        Read and written on its memory port.
    verified
        Results that the device compared with the golden model (option ``verify=1``).
    clock_hz
        Clock of the board that the overlay is meant for.
    seconds_at_clock
        What the cycles would take on that board.
    """

    device: str
    cycles: int
    array_utilisation: float
    beats: int
    verified: int
    clock_hz: float
    seconds_at_clock: float


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What the KV cache takes.

    Attributes
    ----------
    bytes_per_token
        Of all layers.
    expanded_bytes_per_token
        What keys and values of every head would take: more where the cache holds latents.
    tokens
        In the cache at the end.
    nbytes
        Held for them, in whole blocks of tokens.
    """

    bytes_per_token: int
    expanded_bytes_per_token: int
    tokens: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a device: its tier, bytes in use at the end, at most, and that there are.

    Of these, ``arena_bytes`` were needed in the one piece of memory that tasks use again and again:
    on the host and on OpenCL devices for the results of all tasks, on boards for what crosses to
    and from their tasks.
    """

    tier: str
    device: str
    used_bytes: int
    peak_bytes: int
    capacity_bytes: int
    arena_bytes: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was written after one prompt."""

    prompt: str
    text: str
    token_ids: list[int]
    stop_reason: str | None
    speed: Speed | None
    check: Check | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished run; ``tokens_per_second`` are those of all answers together, in decode."""

    model: str
    answers: list[Answer]
    tokens_per_second: float | None
    devices: list[Row]
    placement: dict[str, str]
    cache: Cache
    usage: list[UsageRow]
    fpga: list[Fpga]
    memory: list[Memory]
    residency: list[DeviceResidency]
    recovered: list[Recovered]
    shared: dict[str, str]
    reasons: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(answer.check is None or answer.check.ok for answer in self.answers)

    def plain(self) -> dict[str, object]:
        """Return the report for JSON: the parts of a single answer stand beside the others."""
        parts = {**vars(self)}
        return parts if len(self.answers) > 1 else {**parts.pop("answers")[0].__dict__, **parts}


def ranges(devices: Sequence[str]) -> dict[str, str]:
    """Return the layers of each run of equal devices: "0-14" -> device."""
    found: dict[str, str] = {}
    start = 0
    for index, device in enumerate(devices):
        if index + 1 == len(devices) or devices[index + 1] != device:
            found[str(index) if start == index else f"{start}-{index}"] = device
            start = index + 1
    return found


def print_before(devices: Sequence[Row], model: Model, reasons: Mapping[str, str]) -> None:
    """Print the devices, which layers are on which, and why."""
    print_devices(devices)
    print(f"\nplacement of {model.config.name}:")
    for layers, device in placement(model).items():
        print(f"  {layers:>7}  {device}")
    for operator, device in shared(model).items():
        print(f"  {operator:>7}  {device}")
    for part, reason in reasons.items():
        print(f"why{'' if part == '*' else f' {part}'}: {reason}")
    print()


def placement(model: Model) -> dict[str, str]:
    """Return ranges of layers, and the head, with the URIs of their devices."""
    uris = [model.runtime.device(layer.device).uri for layer in model.layers]
    return {**ranges(uris), "head": model.runtime.device(model.head_device).uri}


def shared(model: Model) -> dict[str, str]:
    """Return operators that are not on their layer's device, with who computes them and why."""
    return {f"{index}.{role}": what for (index, role), what in model.shared.items()}


def print_after(report: Report) -> None:
    """Print who ran what, and how fast."""
    for recovered in report.recovered:
        print(f"{recovered}\n")
    print("who ran what:")
    output.print_table(
        [
            {
                "device": row.device,
                "tasks": row.tasks,
                "seconds": row.seconds,
                "MiB over its link": row.nbytes / 2**20,
                "share (%)": 100 * row.share,
                "busy (%)": None if row.utilisation is None else 100 * row.utilisation,
            }
            for row in report.usage
        ]
    )
    for row in report.usage:
        for op, tasks in row.on_host.items():
            print(f"{row.device} has no kernel for {op}: {tasks:,} tasks ran on {HOST}")
    _print_speed(report)
    _print_cache(report.cache)
    output.print_table(
        [
            {
                "memory of": row.device,
                "tier": row.tier,
                "MiB in use": row.used_bytes / 2**20,
                "at most": row.peak_bytes / 2**20,
                "of": row.capacity_bytes / 2**20,
                "arena (KiB)": row.arena_bytes / 2**10,
            }
            for row in report.memory
        ]
    )
    for fpga in report.fpga:
        _print_fpga(fpga)


def _print_speed(report: Report) -> None:
    speeds = [answer.speed for answer in report.answers if answer.speed is not None]
    if not speeds:
        return
    read = sum(speed.prompt_tokens - speed.reused_tokens for speed in speeds)
    seconds = max(speed.time_to_first_token for speed in speeds)
    print(
        f"\ntime to first token: {seconds:.2f} s "
        f"({read} tokens of prompt, {read / seconds:.1f} a second)"
    )
    if reused := sum(speed.reused_tokens for speed in speeds):
        print(f"{reused} more tokens of the prompt were in the cache")
    if report.tokens_per_second is not None:
        more = sum(speed.tokens - 1 for speed in speeds)
        together = f"in {len(speeds)} texts at once, " if len(speeds) > 1 else ""
        first = "first of each" if together else "first"
        print(
            f"decode: {report.tokens_per_second:.1f} tokens a second "
            f"({together}{more} tokens after the {first})"
        )


def _print_cache(cache: Cache) -> None:
    expanded = ""
    if cache.expanded_bytes_per_token != cache.bytes_per_token:
        expanded = f" (keys and values of every head: {cache.expanded_bytes_per_token:,})"
    print(
        f"KV cache: {cache.bytes_per_token:,} bytes a token{expanded}, {cache.tokens} tokens in "
        f"{cache.nbytes / 2**20:.2f} MiB"
    )


def _print_fpga(fpga: Fpga) -> None:
    print(
        f"{fpga.device}: {fpga.cycles:,} cycles, array {100 * fpga.array_utilisation:.1f} % used, "
        f"{fpga.beats:,} beats; {fpga.seconds_at_clock:.3f} s at the board's "
        f"{fpga.clock_hz / 1e6:.0f} MHz"
    )
    if fpga.verified:
        print(f"{fpga.device}: {fpga.verified:,} results compared with the golden model, all equal")


def print_checks(report: Report) -> None:
    """Print what was checked and how it came out."""
    for number, answer in enumerate(report.answers, start=1):
        if answer.check is not None:
            print(f"\n[{number}]" if len(report.answers) > 1 else "")
            _print_check(answer.check)


def _print_check(check: Check) -> None:
    tokens = "the same tokens" if check.same_tokens else f"OTHER TOKENS: {check.cpu_text!r}"
    print(f"check: the CPU alone, with the same quantization, writes {tokens}")
    for layer in check.layers:
        verdict = "equals" if layer.equal else "DIFFERS FROM"
        tasks = ", ".join(f"{count} {op}" for op, count in layer.tasks.items())
        print(
            f"check: layer {layer.layer} on {layer.device} {verdict} the golden model bit for bit "
            f"({layer.tokens} tokens; {tasks})"
        )


Counters = dict[str, dict[str, float]]


def counters(model: Model) -> Counters:
    """Return the present counters of the FPGAs that a model is on, by URI."""
    on = [model.runtime.device(layer.device) for layer in model.layers]
    on.append(model.runtime.device(model.head_device))
    on += divided_over([model.layers[index] for index, _ in model.shared], model.runtime)
    return {d.uri: dict(d.statistics.counters) for d in on if d.kind == "FPGA"}


def collect(
    model: Model,
    work: Work,
    *,
    prompts: Sequence[str],
    devices: Sequence[Row],
    before: Counters,
    residency: Sequence[DeviceResidency],
    reasons: Mapping[str, str],
) -> Report:
    """Return the report of finished work; ``before`` are the counters at its start."""
    usage = model.runtime.usage()
    texts = texts_of(work)
    if isinstance(work, BatchGeneration):
        rate = work.tokens_per_second
    else:
        rate = work.speed.decode_tokens_per_second if work.speed is not None else None
    return Report(
        model=model.config.name,
        answers=[
            Answer(
                prompt=prompt,
                text=text.text,
                token_ids=text.ids,
                stop_reason=text.stop_reason,
                speed=text.speed,
                check=None,
            )
            for prompt, text in zip(prompts, texts, strict=True)
        ],
        tokens_per_second=rate,
        devices=list(devices),
        placement=placement(model),
        cache=Cache(
            bytes_per_token=model.cache_bytes_per_token,
            expanded_bytes_per_token=model.expanded_cache_bytes_per_token,
            tokens=work.cached_tokens,
            nbytes=work.cache_nbytes,
        ),
        usage=usage,
        fpga=[_fpga(uri, before[uri], after) for uri, after in counters(model).items()],
        memory=[
            Memory(
                tier=(Tier.HOST if device.host_memory else Tier.DEVICE).value,
                device=device.uri,
                used_bytes=device.used_bytes,
                peak_bytes=device.peak_bytes,
                capacity_bytes=device.capacity_bytes,
                arena_bytes=int(device.statistics.counters.get("arena_bytes", 0)),
            )
            for device in map(model.runtime.device, [row.device for row in usage])
        ],
        residency=list(residency),
        recovered=list(model.recovered),
        shared=shared(model),
        reasons=dict(reasons),
    )


def _fpga(uri: str, before: dict[str, float], after: dict[str, float]) -> Fpga:
    def done(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    possible = after["macs_per_cycle"] * done("gemm_cycles")
    return Fpga(
        device=uri,
        cycles=done("cycles"),
        array_utilisation=done("macs") / possible if possible else 0.0,
        beats=done("beats_read") + done("beats_written"),
        verified=done("verified"),
        clock_hz=after["clock_hz"],
        seconds_at_clock=done("cycles") / after["clock_hz"],
    )
