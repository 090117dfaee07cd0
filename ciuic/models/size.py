"""How large a model is: parameters, arithmetic and cache of each operator, from its outline.

Counts are per token where they say so. Parameters are those of the tensors of the file, each
counted once; *active* ones take part in the computation of one token: all but the experts that it
is not routed to, and one row of the embedding. Not covered: layers for multi-token prediction,
which are not loaded (`ciuic.models.deepseek`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ciuic.devices import Weight
from ciuic.devices.array import Shape
from ciuic.ops import OPERATORS

from .dry_run import Call
from .kv_cache import slot_nbytes
from .model import Layer, Network
from .weights import LayerWeights

FLOAT32_NBYTES = 4
_EXPERT = re.compile(r"^expert\.\d+\.")


@dataclass(frozen=True, kw_only=True)
class OperatorSize:
    """One operator of a layer, or one weight of all routed experts.

    Attributes
    ----------
    operator
        Its name in `ciuic.ops`.
    weights
        Roles of its weights.
    inputs
        Shapes of its inputs for one token; of a cache, those of the whole cache.
    tasks
        How often it runs for one token.
    parameters, active_parameters
        Of its weights; of all experts, and of those that one token is routed to.
    flops
        Arithmetic operations for one token.
    activation_bytes
        Of its results for one token; none of what is written into the cache.
    """

    operator: str
    weights: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]
    tasks: int
    parameters: int
    active_parameters: int
    flops: int
    activation_bytes: int


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """Layers that are alike, the embedding or the head.

    Attributes
    ----------
    part
        "embedding", "layers 0-2", "head".
    layers
        How many layers; 1 for the others.
    operators
        Of one layer, in the order in which they run.
    parameters, active_parameters, flops
        Of one layer.
    """

    part: str
    layers: int
    operators: tuple[OperatorSize, ...]
    parameters: int
    active_parameters: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A model.

    Attributes
    ----------
    parts
        In order.
    parameters, active_parameters
        Of the whole model; a tied output matrix counts once among all, and in full among the
        active ones.
    flops
        Arithmetic operations for one token, with ``context`` tokens in the cache.
    cache_bytes, expanded_cache_bytes
        Of the KV cache for one token, as it is and if keys and values of all heads were stored.
    """

    parts: tuple[PartSize, ...]
    context: int
    parameters: int
    active_parameters: int
    flops: int
    cache_bytes: int
    expanded_cache_bytes: int


def is_expert(role: str) -> bool:
    """Return whether a weight with this role is a routed expert's."""
    return _EXPERT.match(role) is not None


def layer_kind(layer: Layer) -> object:
    """Return a value that is equal for layers that differ in nothing but their contents."""
    return type(layer), tuple((role, shape) for role, (_, shape) in layer.weights.stored.items())


def layer_groups(kinds: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Yield first and last index of runs of layers of one kind."""
    for _, run in groupby(range(len(kinds)), key=kinds.__getitem__):
        indices = list(run)
        yield indices[0], indices[-1]


def part_size(part: str, layers: int, weights: LayerWeights, calls: Iterable[Call]) -> PartSize:
    """Return the size of what ran for one token with these weights."""
    roles = {id(weight): role for role, weight in weights}
    operators = tuple(_operators(weights, roles, calls))
    return PartSize(
        part=part,
        layers=layers,
        operators=operators,
        parameters=_stored_parameters([weights]),
        active_parameters=sum(one.active_parameters for one in operators),
        flops=sum(one.flops for one in operators),
    )


def model_size(network: Network, sizes: Sequence[PartSize], context: int) -> ModelSize:
    """Return the size of a model of the sizes of its parts."""
    config, n_layers = network.config, len(network.layers)
    shared = {name for name, _ in network.embedding.stored.values()} & {
        name for name, _ in network.head.stored.values()
    }
    tied = sum(math.prod(s) for name, s in network.embedding.stored.values() if name in shared)
    return ModelSize(
        parts=tuple(sizes),
        context=context,
        parameters=sum(part.layers * part.parameters for part in sizes) - tied,
        active_parameters=sum(part.layers * part.active_parameters for part in sizes),
        flops=sum(part.layers * part.flops for part in sizes),
        cache_bytes=n_layers * slot_nbytes(config.slot_shapes),
        expanded_cache_bytes=n_layers * slot_nbytes(config.expanded_slot_shapes),
    )


def _operators(
    weights: LayerWeights, roles: dict[int, str], calls: Iterable[Call]
) -> Iterator[OperatorSize]:
    """Yield operators; those of different experts are one."""
    groups: dict[tuple[str, tuple[str, ...], tuple[Shape, ...]], list[Call]] = {}
    for call in calls:
        names = tuple(_all_experts(roles[id(w)]) for w in call.weights if id(w) in roles)
        groups.setdefault((call.op, names, call.inputs), []).append(call)
    all_weights: dict[str, list[Weight]] = {}
    for role, weight in weights:
        all_weights.setdefault(_all_experts(role), []).append(weight)
    for (op, names, inputs), same in groups.items():
        ran = {id(w): w for call in same for w in call.weights if id(w) in roles}
        yield OperatorSize(
            operator=op,
            weights=names,
            inputs=inputs,
            tasks=len(same),
            parameters=sum(_elements(w) for name in names for w in all_weights[name]),
            active_parameters=sum(
                math.prod(same[0].output) if op == "embedding" else _elements(weight)
                for weight in ran.values()
            ),
            flops=sum(call.cost.flops for call in same),
            activation_bytes=0
            if OPERATORS[op].in_place
            else FLOAT32_NBYTES * math.prod(same[0].output) * len(same),
        )


def _all_experts(role: str) -> str:
    return _EXPERT.sub("expert.*.", role)


def _stored_parameters(groups: Iterable[LayerWeights]) -> int:
    stored = {name: shape for weights in groups for name, shape in weights.stored.values()}
    return sum(math.prod(shape) for shape in stored.values())


def _elements(weight: Weight) -> int:
    return math.prod(weight.shape)
