"""What a part of a model takes on a device: seconds, and bytes of each kind of memory.

A part is a layer or the head. Its operators come from dry runs (`ciuic.models.dry_run`), their
seconds from the device's own model of its hardware where it has one, and from the cost model
elsewhere: measured figures, or a roofline of assumed ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ciuic.devices import Device, DeviceArray, Estimate, Weight

from .config import ModelConfig
from .dry_run import Call, DryRuntime, Recording
from .kv_cache import LayerCache
from .model import PREFILL_TOKENS, Layer, Network
from .placed import HOST, Placed
from .plan_report import DeviceTime
from .weights import LayerWeights

FLOAT32_NBYTES = 4
CYCLES, MEASURED, ASSUMED = "cycle model", "measured", "assumed"
# Hidden (t, dim) and tokens before them -> what comes after.
Submit = Callable[[DeviceArray, int], DeviceArray]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a plan is for.

    Attributes
    ----------
    prompt_tokens
        Tokens of the prompt.
    context
        Tokens of prompt and answer together, at least one more.
    """

    prompt_tokens: int
    context: int

    @property
    def chunks(self) -> list[tuple[int, int, float]]:
        """Tokens before a chunk of the prompt, tokens in it, and how many chunks it stands for.

        Of whole chunks the first and the last stand for all: what depends on the tokens before
        grows in proportion to them.
        """
        whole, rest = divmod(self.prompt_tokens, PREFILL_TOKENS)
        last = PREFILL_TOKENS * (whole - 1)
        found = [(0, PREFILL_TOKENS, whole / 2), (last, PREFILL_TOKENS, whole / 2)]
        return [*(found if whole else []), *([(last + PREFILL_TOKENS, rest, 1.0)] if rest else [])]

    @property
    def written(self) -> int:
        """Tokens of the answer."""
        return self.context - self.prompt_tokens


@dataclass
class Seconds:
    """Time of something on one device.

    Attributes
    ----------
    work
        In the device's hardware.
    overhead
        To start tasks.
    tasks
        How many.
    basis
        Where ``work`` is from -> of how many tasks: `CYCLES`, `MEASURED` or `ASSUMED`.
    """

    work: float = 0.0
    overhead: float = 0.0
    tasks: int = 0
    basis: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> float:
        """All of it."""
        return self.work + self.overhead


@dataclass
class Step:
    """One step of one part: decoding a token, say.

    Attributes
    ----------
    devices
        URI -> time.
    transfers
        Seconds of transfers between devices inside the part.
    streamed
        URI -> bytes of weights that are read.
    on_host
        Operators that the device has no kernel for.
    overlapped
        Seconds in which more than one device works on the parts of a divided matrix: those of all
        but the one that ends last.
    """

    devices: dict[str, Seconds] = field(default_factory=dict)
    transfers: float = 0.0
    streamed: Counter[str] = field(default_factory=Counter)
    on_host: set[str] = field(default_factory=set)
    overlapped: float = 0.0

    @property
    def work(self) -> float:
        """Seconds of all devices."""
        return sum(one.total for one in self.devices.values())

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.transfers + self.work - self.overlapped


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """A part on a device.

    Attributes
    ----------
    prefill_seconds
        Of the whole prompt.
    first, last
        Decoding the first token of the answer, and the last that the context holds.
    seconds
        Prompt and answer.
    weights, cache, activations, staging
        URI -> bytes. Of activations and staging the most at any time.
    originals
        Bytes of weights on the host that devices have copies of.
    calls
        What is submitted for the first token of the answer.
    """

    prefill_seconds: float
    first: Step
    last: Step
    seconds: float
    weights: Counter[str]
    cache: Counter[str]
    activations: Counter[str]
    staging: Counter[str]
    originals: int
    calls: tuple[Call, ...]


class CostRules:
    """Finds what parts take.

    Parameters
    ----------
    runtime
        Records dry runs; its cost model tells seconds.
    workload
        What to plan for.
    """

    def __init__(self, runtime: DryRuntime, workload: Workload) -> None:
        self.runtime = runtime
        self.workload = workload
        self.host = runtime.device(HOST)

    def layer(self, layer: Layer, config: ModelConfig, device: Device) -> PartCost:
        """Return what a layer takes on a device."""

        def submit(hidden: DeviceArray, before: int) -> DeviceArray:
            cache = LayerCache(self.runtime, config.slot_shapes, config.max_seq_len)
            cache.length = before
            return layer.submit(hidden, runtime=self.runtime, device=device, cache=cache)

        chunks = self.workload.chunks
        return self._part(submit, layer.weights, config.dim, device, chunks)

    def head(self, network: Network, device: Device) -> PartCost:
        """Return what the head takes on a device: it runs once for the whole prompt."""

        def submit(hidden: DeviceArray, _before: int) -> DeviceArray:
            return network.logits(Placed(self.runtime, device), hidden)

        chunks = [(self.workload.prompt_tokens - 1, 1, 1.0)]
        return self._part(submit, network.head, network.config.dim, device, chunks)

    def embedding(self, network: Network) -> PartCost:
        """Return what the embedding takes; it is on the host."""

        def submit(hidden: DeviceArray, _before: int) -> DeviceArray:
            return network.embed(self.runtime, np.zeros(hidden.shape[0], np.int32))

        chunks = self.workload.chunks
        return self._part(submit, network.embedding, network.config.dim, self.host, chunks)

    def record(self, submit: Submit, device: Device, dim: int, before: int, t: int) -> Recording:
        """Return what is submitted for t tokens after others."""
        recording = self.runtime.start()
        hidden = submit(self.runtime.array((t, dim), device), before)
        if device.arena_alignment is not None and hidden.shape == (t, dim):
            # The next layer finds its input somewhere in the arena, not at its beginning.
            following = self.runtime.start()
            following.places = recording.places
            submit(hidden, before)
            recording.peak_bytes |= following.peak_bytes
        return recording

    def _part(
        self,
        submit: Submit,
        weights: LayerWeights,
        dim: int,
        device: Device,
        chunks: list[tuple[int, int, float]],
    ) -> PartCost:
        work = self.workload
        prefill = [
            (self.record(submit, device, dim, before, t), share) for before, t, share in chunks
        ]
        decode = [
            self.record(submit, device, dim, before, 1)
            for before in (work.prompt_tokens, work.context - 1)
        ]
        first, last = map(self._step, decode)
        prefill_seconds = sum(self._step(recording).seconds * share for recording, share in prefill)
        every = [recording for recording, _ in prefill] + decode
        return PartCost(
            prefill_seconds=prefill_seconds,
            first=first,
            last=last,
            seconds=prefill_seconds + work.written * (first.seconds + last.seconds) / 2,
            weights=self._weights(weights, device, decode[0]),
            cache=decode[1].cache_bytes,
            activations=_most(recording.peak_bytes for recording in every),
            staging=_most(map(_staging, every)),
            originals=_original_bytes(weights, device),
            calls=tuple(decode[0].calls),
        )

    def _step(self, recording: Recording) -> Step:
        step = Step()
        for move in recording.moves:
            step.transfers += self.runtime.costs.transfer_seconds(*move)
        groups: dict[int, dict[str, float]] = {}
        for call in recording.calls:
            if call.device is not call.asked:
                step.on_host.add(call.op)
            before = step.work
            self._count(step, call)
            if call.group is not None:
                # What the host does for a device is waited for: nothing overlaps with it.
                group, uri = groups.setdefault(call.group, {}), call.asked.uri
                group[uri] = group.get(uri, 0.0) + step.work - before
        step.overlapped = sum(
            sum(group.values()) - max(group.values()) for group in groups.values()
        )
        return step

    def _count(self, step: Step, call: Call) -> None:
        device, costs = call.device, self.runtime.costs
        overhead, read = device.roofline.task_seconds, _read_bytes(call)
        here = step.devices.setdefault(device.uri, Seconds())
        here.overhead += overhead
        here.tasks += 1
        estimate = self._estimate(call)
        if estimate is None or estimate.products_on_host:
            arithmetic = device if estimate is None else self.host
            work = costs.seconds(arithmetic, call.op, call.inputs, call.attributes)
            work -= arithmetic.roofline.task_seconds
            measured = costs.is_measured(arithmetic, call.op, call.inputs, call.attributes)
            if not measured:
                # The cost rule takes weights to be as small as their format allows.
                work = max(work, read / arithmetic.roofline.bytes_per_second)
            there = step.devices.setdefault(arithmetic.uri, Seconds())
            there.work += max(0.0, work)
            there.basis[MEASURED if measured else ASSUMED] += 1
            step.streamed[arithmetic.uri] += read
        else:
            step.streamed[device.uri] += read
        if estimate is not None:
            here.work += estimate.seconds
            here.basis[CYCLES] += 1

    def _estimate(self, call: Call) -> Estimate | None:
        """Return what the device's own model says, unless real hardware has been measured."""
        task = (call.op, call.inputs, call.attributes)
        if not call.device.emulated and self.runtime.costs.is_measured(call.device, *task):
            return None
        return call.device.estimate(*task)

    def _weights(self, weights: LayerWeights, device: Device, recording: Recording) -> Counter[str]:
        """Return the bytes of weights where they are loaded to, and where they are used."""
        on = Placed(self.runtime, device)
        held: dict[tuple[str, int], int] = {}
        for _, weight in weights.on(device.kind):
            division = self.runtime.division(weight)
            if division is None:
                home = on.home_of(weight)
                held[home.uri, id(weight)] = home.weight_bytes(weight)
                continue
            for part in division:
                one = weight if part.weight is None else part.weight
                held[part.device.uri, id(one)] = part.device.weight_bytes(one)
        for call in recording.calls:
            for weight in call.weights:
                held[call.device.uri, id(weight)] = call.device.weight_bytes(weight)
        total: Counter[str] = Counter()
        for (uri, _), nbytes in held.items():
            total[uri] += nbytes
        return total


def device_times(steps: Sequence[Step], devices: Mapping[str, Device]) -> list[DeviceTime]:
    """Return what each device does in some steps together."""
    times = []
    for uri, device in devices.items():
        mine = [step.devices[uri] for step in steps if uri in step.devices]
        if not mine:
            continue
        work = sum(one.work for one in mine)
        streamed = sum(step.streamed[uri] for step in steps)
        reached = streamed / work if work else 0.0
        times.append(
            DeviceTime(
                device=uri,
                emulated=device.emulated,
                tasks=sum(one.tasks for one in mine),
                work_seconds=work,
                overhead_seconds=sum(one.overhead for one in mine),
                basis=dict(sum((one.basis for one in mine), Counter[str]())),
                streamed_bytes=streamed,
                bytes_per_second=max(device.roofline.bytes_per_second, reached),
            )
        )
    return times


def _original_bytes(weights: LayerWeights, device: Device) -> int:
    """Return the bytes of weights on the host beside what its CPU holds as a device.

    What the CPU holds in as many bytes are the originals themselves; all else is a copy.
    """

    def shared(weight: Weight) -> bool:
        return device.host_memory and device.weight_bytes(weight) == weight.nbytes

    return sum(weight.nbytes for _, weight in weights.on(device.kind) if not shared(weight))


def _read_bytes(call: Call) -> int:
    """Return the bytes of weights that a task reads; of a table, one row a token."""
    if call.op == "embedding" and call.weights:
        return FLOAT32_NBYTES * math.prod(call.output)
    return sum(call.device.weight_bytes(weight) for weight in call.weights)


def _staging(recording: Recording) -> Counter[str]:
    found: Counter[str] = Counter()
    for call in recording.calls:
        nbytes = call.device.staging_bytes(call.op, call.inputs)
        found[call.device.uri] = max(found[call.device.uri], nbytes)
    return +found


def _most(counts: Iterable[Counter[str]]) -> Counter[str]:
    most: Counter[str] = Counter()
    for count in counts:
        most |= count
    return most
