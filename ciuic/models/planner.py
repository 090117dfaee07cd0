"""The planner: decides where the parts of a model go, and adds up what they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, pairwise
from pathlib import Path

from ciuic.devices import Device
from ciuic.errors import OutOfMemory, PlacementError, UsageError
from ciuic.memory.tiers import Tier
from ciuic.scheduler.chain import obstacles, place_chain
from ciuic.scheduler.placement import parse_placement
from ciuic.scheduler.problem import ChainProblem

from .divided import place_operators
from .dividing import Shared, divide_layer, make_whole, told
from .dry_run import DryRuntime
from .fitting import Part, fit, link_of, routed_share, waiting
from .kv_cache import BLOCK_SLOTS
from .layer_costs import CostRules, PartCost, Workload, device_times
from .model import Network
from .placed import HOST, Placed
from .plan_report import (
    DeviceMemory,
    DeviceResidency,
    ModelPlan,
    PlacedPart,
    Prediction,
    SingleDevice,
)
from .size import ModelSize, layer_groups, layer_kind, model_size, part_size

DEFAULT_CONTEXT, DEFAULT_PROMPT = 2048, 256  # tokens, where the model's context allows
FLOAT32_NBYTES = 4


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to plan.

    Attributes
    ----------
    model
        A folder, its config.json, a GGUF file, or a name.
    devices
        URIs that layers may be put on; the host and all real devices here if empty.
    place
        Where layers must be, as for ``ciuic run``; chosen by least time if None.
    context, prompt_tokens
        Tokens in all, and of the prompt; None: `DEFAULT_CONTEXT`, `DEFAULT_PROMPT`, or what the
        model holds.
    format
        Of `ciuic.models.plan.FORMATS`.
    caps
        Device, by URI or kind -> bytes that it may hold.
    on_disk
        Whether the model's file has its weights as devices take them (``ciuic convert``), so that
        the host need not hold them all either.
    """

    model: str | Path
    devices: Sequence[str] = ()
    place: str | None = None
    context: int | None = None
    prompt_tokens: int | None = None
    format: str = "int8"
    caps: Mapping[str, int] = field(default_factory=dict)
    on_disk: bool = False


class Planner:
    """Plans one model; each kind of layer is looked at once a device.

    Parameters
    ----------
    request
        What to plan.
    runtime
        Opens devices, and records dry runs.
    network
        The model, its weights outlines.

    Raises
    ------
    UsageError
        If the request makes no sense.
    DeviceNotFound
        If a device is not here.
    """

    def __init__(self, request: PlanRequest, runtime: DryRuntime, network: Network) -> None:
        self.request, self.runtime, self.network = request, runtime, network
        self.workload = _workload(request, network.config.max_seq_len)
        self.rules = CostRules(runtime, self.workload)
        n_layers = len(network.layers)
        spec = request.place
        self.asked = None if spec is None else parse_placement(spec, n_layers=n_layers)
        wanted = list(request.devices) or runtime.manager.list_uris(emulated=False)
        if self.asked is not None:
            if request.devices:
                raise UsageError("--place names the devices: leave --device out")
            wanted = [*self.asked.layers, self.asked.head, *chain(*self.asked.operators.values())]
        opened = [runtime.device(uri) for uri in dict.fromkeys(wanted)]
        if self.asked is not None:  # "opencl" is "opencl:0", or what an environment variable says
            self.asked = self.asked.renamed(lambda uri: runtime.device(uri).uri)
        self.candidates = {device.uri: device for device in opened}
        self.devices = {HOST: self.rules.host, **self.candidates}
        self.room = {uri: self._capacity(device) for uri, device in self.devices.items()}
        for name in request.caps:
            if not any(name in (device.uri, device.kind) for device in self.devices.values()):
                raise UsageError(f"--cap must name a device of the plan, not {name!r}")
        self.embedding = self.rules.embedding(network)
        operators = {} if self.asked is None else self.asked.operators
        if self.asked is not None:
            for layer, uri in zip(network.layers, self.asked.layers, strict=True):
                layer.device = uri
        self.divisions = place_operators(network.layers, runtime, operators)
        self._kinds: list[Hashable] = [
            (layer_kind(layer), *(o for o in operators.items() if o[0][0] == index))
            for index, layer in enumerate(network.layers)
        ]
        self._costs: dict[tuple[object, str], PartCost] = {}
        self._shared: dict[int, dict[str, Shared]] = {}  # layer -> matrices that are divided

    def plan(self) -> ModelPlan:
        """Return the plan."""
        chosen, reasons = self._choose()
        singles = [self._single(uri) for uri in self.candidates]
        size = self._size()
        self._divide(chosen, reasons)
        memory, residency, least = self._streamed(chosen, self._memory(chosen))
        problems = tuple(_problem(one) for one in memory if not one.fits)
        prediction = waiting(self._prediction(chosen), residency, self.workload)
        return ModelPlan(
            model=self.network.config.name,
            format=self.request.format,
            context=self.workload.context,
            prompt_tokens=self.workload.prompt_tokens,
            size=size,
            placement=tuple(self._placed(chosen, reasons)),
            memory=tuple(memory),
            prediction=prediction,
            single_devices=tuple(singles),
            problems=problems,
            would_fit=(*self._would_fit(chosen, memory), *least) if problems else (),
            residency=tuple(residency),
        )

    # Placement.

    @property
    def _n(self) -> int:
        return len(self.network.layers)

    def _cost(self, index: int, uri: str) -> PartCost:
        """Return what a layer, or the head behind the last, takes on a device."""
        is_head = index == self._n
        kind = "head" if is_head else self._kinds[index]
        if (kind, uri) not in self._costs:
            device = self.devices[uri]
            self._costs[kind, uri] = (
                self.rules.head(self.network, device)
                if is_head
                else self.rules.layer(self.network.layers[index], self.network.config, device)
            )
        return self._costs[kind, uri]

    def _choose(self) -> tuple[list[str], list[str]]:
        """Return the device of each layer and of the head, and why."""
        if self.asked is not None:
            why = ["; ".join(["as asked", *self._operators_of(i)]) for i in range(self._n + 1)]
            return [*self.asked.layers, self.asked.head], why
        parts = range(self._n + 1)
        problem = ChainProblem(
            seconds=[{uri: self._cost(i, uri).seconds for uri in self.candidates} for i in parts],
            transfer=self._transfer,
            nbytes=[{uri: self._stays(i, uri)[uri] for uri in self.candidates} for i in parts],
            room={uri: self._room_for_parts(uri) for uri in self.candidates},
        )
        try:
            chosen = list(place_chain(problem).devices)
        except PlacementError:  # the memory table will say by how much
            problem = replace(problem, room={})
            chosen = list(place_chain(problem).devices)
        best = self._best_single(chosen)
        if best is not None:
            chosen = self._everywhere(best)
        keeps = obstacles(problem, chosen)
        return chosen, [self._reason(i, keeps[i]) for i in parts]

    def _divide(self, chosen: list[str], reasons: list[str]) -> None:
        """Divide matrices of layers over devices where that takes less time; say so."""
        if self.asked is not None or len(self.candidates) < 2 or not self._fits(chosen):
            return
        free = {row.device: row.room_after(row.total_bytes) for row in self._memory(chosen)}
        for kind, uri in dict.fromkeys(zip(self._kinds, chosen, strict=False)):
            alike = [i for i in range(self._n) if (self._kinds[i], chosen[i]) == (kind, uri)]
            elsewhere = {other: self._cost(alike[0], other) for other in self.devices}
            others = [one for other, one in self.candidates.items() if other != uri]
            room = {one.uri: free.get(one.uri, self.room[one.uri]) for one in others}
            passing = elsewhere[uri].activations[uri]  # goes to the others too
            room = {on: max(0, nbytes - passing) // len(alike) for on, nbytes in room.items()}
            layer, home = self.network.layers[alike[0]], self.devices[uri]
            shared, cost = divide_layer(
                *(self.rules, layer, self.network.config, others, room, home, elsewhere[uri])
            )
            if not shared:
                continue
            now = (kind, uri, tuple(shared.items()))
            before = list(reasons), list(self._kinds), dict(self._shared)
            self._costs |= {(now, other): one for other, one in elsewhere.items()}
            self._costs[now, uri] = cost
            for index in alike:
                self._kinds[index], self._shared[index] = now, shared
                reasons[index] = "; ".join([reasons[index], *told(shared)])
            if not self._fits(chosen):
                reasons[:], self._kinds, self._shared = before
                make_whole(self.rules, layer, home, shared)
            free = {row.device: row.room_after(row.total_bytes) for row in self._memory(chosen)}

    def _operators_of(self, index: int) -> list[str]:
        """Return which operators of a layer are elsewhere, and why."""
        return [f"{role}: {what}" for (at, role), what in self.divisions.items() if at == index]

    def _best_single(self, chosen: list[str]) -> str | None:
        """Return a device that holds everything and takes less than the placement, if any."""
        singles = [
            (self._seconds(self._everywhere(uri)), uri)
            for uri in self.candidates
            if self._fits(self._everywhere(uri))
        ]
        if not singles or not min(singles)[0] < self._seconds(chosen):
            return None
        return min(singles)[1]

    def _everywhere(self, uri: str) -> list[str]:
        return [uri] * (self._n + 1)

    def _fits(self, chosen: list[str]) -> bool:
        return all(row.fits for row in self._memory(chosen))

    def _reason(self, index: int, keeps: list[str]) -> str:
        if len(self.candidates) == 1:
            return "the only device allowed"
        figures = ", ".join(
            f"{uri} {1e3 * self._cost(index, uri).first.seconds:.3g} ms" for uri in self.candidates
        )
        return "; ".join([f"least time of the chain, a token here: {figures}", *keeps])

    def _placed(self, chosen: list[str], reasons: list[str]) -> list[PlacedPart]:
        """Return runs of like layers on one device, then the head."""
        placed = []
        for first, last in layer_groups(self._kinds):
            start = first
            for index in range(first, last + 1):
                at_end = index == last or (chosen[index + 1], reasons[index + 1]) != (
                    chosen[index],
                    reasons[index],
                )
                if at_end:
                    placed.append(self._placed_part(start, index, chosen, reasons))
                    start = index + 1
        return [*placed, self._placed_part(self._n, self._n, chosen, reasons)]

    def _placed_part(
        self, first: int, last: int, chosen: list[str], reasons: list[str]
    ) -> PlacedPart:
        cost = self._cost(first, chosen[first])
        return PlacedPart(
            part="head" if first == self._n else _layers_name(first, last),
            device=chosen[first],
            reason=reasons[first],
            prefill_seconds=cost.prefill_seconds,
            token_seconds=cost.first.seconds,
            on_host=tuple(sorted(cost.first.on_host)),
            shared={o: one.uris for o, one in self._shared.get(first, {}).items()},
        )

    # Time.

    def _hidden_bytes(self, tokens: int) -> int:
        return FLOAT32_NBYTES * tokens * self.network.config.dim

    def _moved(self, source: str, target: str, tokens: int) -> float:
        pair = (self.devices[source], self.devices[target])
        return self.runtime.costs.transfer_seconds(*pair, self._hidden_bytes(tokens))

    def _transfer(self, source: str, target: str, _index: int) -> float:
        """Return the seconds to move the hidden state of all tokens between two devices."""
        return self._prefill_moved(source, target) + self.workload.written * self._moved(
            source, target, 1
        )

    def _prefill_moved(self, source: str, target: str) -> float:
        return sum(share * self._moved(source, target, t) for _, t, share in self.workload.chunks)

    def _stops(self, chosen: list[str]) -> list[tuple[str, str]]:
        return list(pairwise([HOST, *chosen, HOST]))

    def _parts_of(self, chosen: list[str]) -> list[PartCost]:
        return [self.embedding, *(self._cost(i, uri) for i, uri in enumerate(chosen))]

    def _seconds(self, chosen: list[str]) -> float:
        moved = sum(self._transfer(a, b, 0) for a, b in self._stops(chosen))
        return moved + sum(part.seconds for part in self._parts_of(chosen))

    def _prediction(self, chosen: list[str]) -> Prediction:
        parts = self._parts_of(chosen)
        moved = sum(self._moved(a, b, 1) for a, b in self._stops(chosen))
        first = sum(part.first.seconds for part in parts) + moved
        last = sum(part.last.seconds for part in parts) + moved
        times = device_times([part.first for part in parts], self.devices)
        limit = sum(one.streamed_bytes / one.bytes_per_second for one in times)
        prefill = sum(part.prefill_seconds for part in parts)
        prefill += sum(self._prefill_moved(a, b) for a, b in self._stops(chosen))
        return Prediction(
            time_to_first_token=prefill,
            tokens_per_second=1 / first,
            tokens_per_second_at_context=1 / last,
            limit_tokens_per_second=1 / limit,
            transfer_seconds=moved + sum(part.first.transfers for part in parts),
            devices=tuple(times),
            total_seconds=self._seconds(chosen),
        )

    def _single(self, uri: str) -> SingleDevice:
        prediction = self._prediction(self._everywhere(uri))
        return SingleDevice(
            device=uri,
            fits=self._fits(self._everywhere(uri)),
            time_to_first_token=prediction.time_to_first_token,
            tokens_per_second=prediction.tokens_per_second,
            total_seconds=prediction.total_seconds,
        )

    # Memory.

    def _capacity(self, device: Device) -> int:
        caps = self.request.caps
        cap = caps.get(device.uri, caps.get(device.kind, device.capacity_bytes))
        return min(cap, device.capacity_bytes)

    def _stays(self, index: int, uri: str) -> Counter[str]:
        """Return device -> bytes that a layer on ``uri`` keeps there for good."""
        cost = self._cost(index, uri)
        return cost.weights + cost.cache + Counter({HOST: cost.originals})

    def _room_for_parts(self, uri: str) -> int:
        costs = [self._cost(i, uri) for i in range(self._n + 1)]
        passing = max(cost.activations[uri] for cost in costs)
        passing += max(cost.staging[uri] for cost in costs)
        return self.room[uri] - passing - self.embedding.weights[uri]

    def _memory(self, chosen: list[str]) -> list[DeviceMemory]:
        """Return what lies where: on chip, on devices, on the host."""
        kinds: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("weights", "originals", "kv_cache")
        }
        passing: dict[str, Counter[str]] = {"activations": Counter(), "staging": Counter()}
        for part in self._parts_of(chosen):
            kinds["weights"] += part.weights
            kinds["kv_cache"] += part.cache
            passing["activations"] |= part.activations
            passing["staging"] |= part.staging
            kinds["originals"][HOST] += part.originals
        used = {uri for counts in (*kinds.values(), *passing.values()) for uri in counts}
        rows = []
        for uri in [uri for uri in self.devices if uri in used]:
            device = self.devices[uri]
            nbytes = {kind: counts[uri] for kind, counts in {**kinds, **passing}.items()}
            if device.on_chip_bytes:
                rows.append(
                    DeviceMemory(
                        tier=Tier.ON_CHIP.value,
                        device=uri,
                        capacity_bytes=device.on_chip_bytes,
                        nbytes={"staging": device.on_chip_bytes},
                    )
                )
            rows.append(
                DeviceMemory(
                    tier=(Tier.HOST if device.host_memory else Tier.DEVICE).value,
                    device=uri,
                    capacity_bytes=self.room[uri],
                    nbytes={kind: size for kind, size in nbytes.items() if size},
                )
            )
        return rows

    def _streamed(
        self, chosen: list[str], memory: Sequence[DeviceMemory]
    ) -> tuple[list[DeviceMemory], list[DeviceResidency], list[str]]:
        """Return the memory if weights that do not fit stream, how, and what else would fit."""
        rows, found, least = list(memory), list[DeviceResidency](), list[str]()
        for index, row in enumerate(memory):
            device = self.devices[row.device]
            if row.fits:
                continue
            others = row.total_bytes - row.nbytes.get("weights", 0)
            # Of a table on disk only rows are read.
            fixed = 0 if device.host_memory else self.embedding.weights[row.device]
            room = row.room_after(others + fixed)
            try:
                one = fit(
                    self._fitted(chosen),
                    device,
                    room,
                    source=(Tier.DISK if device.host_memory else Tier.HOST).value,
                    link_bytes_per_second=link_of(device),
                    routed_share=routed_share(self.network.config),
                )
            except OutOfMemory as error:
                wanted = others + fixed + error.wanted
                least.append(f"{row.device}: all of it with {wanted:,} bytes, weights streaming")
                continue
            if device.host_memory and not self.request.on_disk:
                least.append(f"{row.device}: a model from `ciuic convert`, streaming from its file")
                continue
            nbytes = {**row.nbytes, "weights": one.pinned_bytes + fixed, "slots": one.slots_bytes}
            rows[index] = replace(row, nbytes=nbytes)
            found.append(one)
        return rows, found, least

    def _fitted(self, chosen: list[str]) -> Iterator[Part]:
        for index, uri in enumerate(chosen):
            is_head = index == self._n
            yield Part(
                name="head." if is_head else f"layers.{index}.",
                weights=self.network.head if is_head else self.network.layers[index].weights,
                on=Placed(self.runtime, self.devices[uri]),
                seconds=self._cost(index, uri).first.seconds,
                held_bytes=self._cost(index, uri).weights,
            )

    def _would_fit(self, chosen: list[str], memory: Sequence[DeviceMemory]) -> list[str]:
        """Return what would fit instead, in words."""
        found = []
        for row in (row for row in memory if not row.fits):
            layers = [
                self._stays(index, uri)[row.device]
                for index, uri in enumerate(chosen[:-1])
                if row.device in (uri, HOST)
            ]
            left = row.room_after(row.total_bytes - sum(layers))
            count = sum(used <= left for used in accumulate(layers))
            found.append(f"{row.device}: {count} of its {len(layers)} layers")
            cache = row.nbytes.get("kv_cache", 0)
            left = row.room_after(row.total_bytes - cache)
            if 0 < cache * BLOCK_SLOTS <= left * self.workload.context:
                tokens = self.workload.context * left // cache // BLOCK_SLOTS * BLOCK_SLOTS
                found.append(f"{row.device}: all of them with a context of {tokens:,} tokens")
        return found

    # Size.

    def _size(self) -> ModelSize:
        """Return counts; operators are those of the host, one token after the prompt."""
        network = self.network
        sizes = [part_size("embedding", 1, network.embedding, self.embedding.calls)]
        for first, last in layer_groups(self._kinds):
            weights, calls = network.layers[first].weights, self._cost(first, HOST).calls
            sizes.append(part_size(_layers_name(first, last), last - first + 1, weights, calls))
        sizes.append(part_size("head", 1, network.head, self._cost(self._n, HOST).calls))
        return model_size(network, sizes, self.workload.prompt_tokens + 1)


def _workload(request: PlanRequest, longest: int) -> Workload:
    context = min(DEFAULT_CONTEXT, longest) if request.context is None else request.context
    if not 2 <= context <= longest:
        raise UsageError(
            f"context must be from 2 to {longest} tokens, which the model holds, not {context}"
        )
    prompt = request.prompt_tokens
    prompt = min(DEFAULT_PROMPT, context - 1) if prompt is None else prompt
    if not 1 <= prompt < context:
        raise UsageError(f"prompt tokens must be from 1 to {context - 1}, not {prompt}")
    return Workload(prompt_tokens=prompt, context=context)


def _layers_name(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}-{last}"


def _problem(row: DeviceMemory) -> str:
    parts = ", ".join(f"{size:,} {kind}" for kind, size in row.nbytes.items())
    return (
        f"{row.device} must hold {row.total_bytes:,} bytes ({parts}), "
        f"{row.capacity_bytes:,} are available"
    )
