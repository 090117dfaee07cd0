"""What a model will take, found before a weight is read: where its layers go, memory, time.

Only headers are read: config.json of a folder, whose weights may be absent or broken, or the
header of a GGUF file. All else is asked of the devices and of the layers' own code, in dry runs.
Every time is an estimate: of the device's own cycle model where it has one, of the cost model
elsewhere. Not covered: loading, and weights that stream from a slower tier, for which the runtime
has no means; what does not fit is said with its numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

from ciuic.devices import Device, DeviceManager
from ciuic.errors import ModelFormatError, PlacementError, UsageError
from ciuic.memory.tiers import Tier
from ciuic.scheduler.chain import obstacles, place_chain
from ciuic.scheduler.placement import parse_placement
from ciuic.scheduler.problem import ChainProblem

from .dry_run import DryRuntime
from .gguf_file import GgufFile
from .huggingface import CONFIG, HuggingFaceFolder
from .kv_cache import BLOCK_SLOTS
from .layer_costs import CostRules, PartCost, Step, Workload
from .loading import Source, find_model, model_network
from .model import Network
from .placed import HOST
from .plan_report import (
    DeviceMemory,
    DeviceTime,
    ModelPlan,
    PlacedPart,
    Prediction,
    SingleDevice,
)
from .size import ModelSize, layer_groups, layer_kind, model_size, part_size
from .weights import Quantize

FORMATS: dict[str, Quantize | None] = {
    "int8": "int8",
    "int4": "int4",
    "auto": "auto",
    "float32": None,
}
"""Name of a number format of linear layers -> what `load_model` calls it."""
CONFIGS = Path(__file__).parent / "configs"
DEFAULT_CONTEXT, DEFAULT_PROMPT = 2048, 256  # tokens, where the model's context allows
FLOAT32_NBYTES = 4
STORED_NBYTES = {"bfloat16": 2, "float16": 2, "float8": 1}


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
        Of `FORMATS`.
    caps
        Device, by URI or kind -> bytes that it may hold.
    """

    model: str | Path
    devices: Sequence[str] = ()
    place: str | None = None
    context: int | None = None
    prompt_tokens: int | None = None
    format: str = "int8"
    caps: Mapping[str, int] = field(default_factory=dict)


def plan_model(request: PlanRequest, manager: DeviceManager) -> ModelPlan:
    """Return the plan of a model.

    Raises
    ------
    ModelFormatError
        If the model's header is missing, broken, or of a kind that is not supported.
    UsageError
        If the request makes no sense.
    DeviceNotFound
        If a device is not here.
    """
    if request.format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {request.format!r}")
    source = open_outline(request.model)
    try:
        plan = _plan(request, source, manager)
        if plan.problems:
            others = [replace(request, format=name) for name in FORMATS if name != plan.format]
            fitting = [one.format for one in others if _plan(one, source, manager).fits]
            found = (*plan.would_fit, *(f"all of it in the format {name}" for name in fitting))
            plan = replace(plan, would_fit=found)
    finally:
        source.close()
    disk = DeviceMemory(
        tier=Tier.DISK.value,
        device="model file",
        capacity_bytes=None,
        nbytes={"weights": stored_bytes(source, plan.size.parameters)},
    )
    return replace(plan, memory=(*plan.memory, disk), left_out=_left_out(source))


def _plan(request: PlanRequest, source: Source, manager: DeviceManager) -> ModelPlan:
    runtime = DryRuntime(manager)
    network = model_network(source, quantize=FORMATS[request.format], runtime=runtime)
    for weights in (network.embedding, network.head, *(one.weights for one in network.layers)):
        weights.outline()
    return _Planner(request, runtime, network).plan()


def open_outline(model: str | Path) -> Source:
    """Open a model of which only the header will be read.

    Raises
    ------
    ModelFormatError
        If there is none, or it is broken.
    """
    path = find_model(model)
    if isinstance(model, str) and (CONFIGS / model / CONFIG).is_file():
        path = CONFIGS / model
    if path.name == CONFIG:
        path = path.parent
    if path.is_dir():
        return HuggingFaceFolder(path, weights=False)
    if not path.is_file():
        names = ", ".join(sorted(one.name for one in CONFIGS.iterdir()))
        raise ModelFormatError(
            path, f"must be a folder, its {CONFIG}, a GGUF file, or one of {names}"
        )
    return GgufFile(path)


def stored_bytes(source: Source, parameters: int) -> int:
    """Return the bytes of the model's files; what config.json says of them if they are absent."""
    if isinstance(source, GgufFile):
        return source.path.stat().st_size
    files = list(source.path.glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files)
    dtype = str(source.config.get("torch_dtype", source.config.get("dtype")))
    if source.keys.inside("quantization_config").get("quant_method") == "fp8":
        dtype = "float8"
    return parameters * STORED_NBYTES.get(dtype, FLOAT32_NBYTES)


def _left_out(source: Source) -> tuple[str, ...]:
    """Return what of a model is not loaded, in words."""
    if isinstance(source, GgufFile):
        return ()
    count = source.config.get("num_nextn_predict_layers", 0)
    if type(count) is not int or count < 1:
        return ()
    return (f"layers for multi-token prediction: {count}",)


class _Planner:
    """Plans one model; each kind of layer is looked at once a device."""

    def __init__(self, request: PlanRequest, runtime: DryRuntime, network: Network) -> None:
        self.request, self.runtime, self.network = request, runtime, network
        self.workload = _workload(request, network.config.max_seq_len)
        self.rules = CostRules(runtime, self.workload)
        n_layers = len(network.layers)
        spec = request.place
        self.asked = None if spec is None else parse_placement(spec, n_layers=n_layers)
        wanted = list(request.devices) or runtime.manager.list_uris(emulated=False)
        if self.asked is not None:
            wanted = [*self.asked.layers, self.asked.head]
        opened = [runtime.device(uri) for uri in dict.fromkeys(wanted)]
        self.candidates = {device.uri: device for device in opened}
        self.devices = {HOST: self.rules.host, **self.candidates}
        self.room = {uri: self._capacity(device) for uri, device in self.devices.items()}
        for name in request.caps:
            if not any(name in (device.uri, device.kind) for device in self.devices.values()):
                raise UsageError(f"--cap must name a device of the plan, not {name!r}")
        self.embedding = self.rules.embedding(network)
        self._kinds = [layer_kind(layer) for layer in network.layers]
        self._costs: dict[tuple[object, str], PartCost] = {}

    def plan(self) -> ModelPlan:
        chosen, reasons = self._choose()
        memory = self._memory(chosen)
        problems = tuple(_problem(one) for one in memory if not one.fits)
        singles = [self._single(uri) for uri in self.candidates]
        prediction = self._prediction(chosen)
        return ModelPlan(
            model=self.network.config.name,
            format=self.request.format,
            context=self.workload.context,
            prompt_tokens=self.workload.prompt_tokens,
            size=self._size(),
            placement=tuple(self._placed(chosen, reasons)),
            memory=tuple(memory),
            prediction=prediction,
            single_devices=tuple(singles),
            problems=problems,
            would_fit=tuple(self._would_fit(chosen, memory)) if problems else (),
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
            return [*self.asked.layers, self.asked.head], ["as asked"] * (self._n + 1)
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
        times = _device_times([part.first for part in parts], self.devices)
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
            if cache and left > 0:
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


def _device_times(steps: Sequence[Step], devices: Mapping[str, Device]) -> list[DeviceTime]:
    times = []
    for uri, device in devices.items():
        mine = [step.devices[uri] for step in steps if uri in step.devices]
        if mine:
            times.append(
                DeviceTime(
                    device=uri,
                    emulated=device.emulated,
                    tasks=sum(one.tasks for one in mine),
                    work_seconds=sum(one.work for one in mine),
                    overhead_seconds=sum(one.overhead for one in mine),
                    streamed_bytes=sum(step.streamed[uri] for step in steps),
                    bytes_per_second=device.roofline.bytes_per_second,
                )
            )
    return times


def _problem(row: DeviceMemory) -> str:
    parts = ", ".join(f"{size:,} {kind}" for kind, size in row.nbytes.items())
    return (
        f"{row.device} must hold {row.total_bytes:,} bytes ({parts}), "
        f"{row.capacity_bytes:,} are available"
    )
