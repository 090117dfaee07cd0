"""Arguments that commands which let a model write have in common, and what they stand for."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ciuic.devices import Device
    from ciuic.models.model import Model
    from ciuic.models.plan_report import DeviceResidency, ModelPlan
    from ciuic.models.planner import PlanRequest
    from ciuic.models.progress import Report
    from ciuic.models.sampling import SamplingOptions
    from ciuic.models.weights import Quantize

    from .devices import Row

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
MOSTLY_FULL = 0.8  # of a device's memory: then it is planned what else it must hold
QUANTIZE: dict[str, Quantize | None] = {
    "int8": "int8",
    "int4": "int4",
    "auto": "auto",
    "none": None,
}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model, its quantization and its placement."""
    parser.add_argument(
        "model",
        nargs="?",
        help="a GGUF file, a Hugging Face folder, smollm2-135m-instruct, which `ciuic fetch` "
        "brings, or deepseek-tiny, which comes with Ciuic (the default)",
    )
    parser.add_argument(
        "--place",
        metavar="SPEC",
        help="which layers on which device, such as 0-1=opencl,2-4=cpu,5=fpga:rtl; "
        "5.down=cpu|opencl divides a matrix, 5.expert.0-3=opencl puts experts on a device",
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZE,
        help="linear layers: int8 or int4 (every device then gives the same bits), auto (int8 on "
        "FPGAs, float32 elsewhere) or none; by default as a converted folder has them, else int8",
    )


def add_cap(parser: argparse.ArgumentParser) -> None:
    """Add caps on memory."""
    parser.add_argument(
        "--cap",
        action="append",
        default=[],
        metavar="DEVICE=BYTES",
        help="most memory of a device, by URI or kind, such as GPU=4GiB; may be repeated",
    )


def cap_of(text: str) -> tuple[str, int]:
    """Return the device and the bytes of a cap; a device's URI may have equal signs in it."""
    from ciuic.errors import UsageError

    match = re.fullmatch(r"(.+)=(\d+)\s*([A-Za-z]*)", text)
    if match is None or match[3] not in UNITS or int(match[2]) == 0:
        units = ", ".join(filter(None, UNITS))
        raise UsageError(f"--cap must be like GPU=4GiB, in bytes or {units}, not {text!r}")
    return match[1], int(match[2]) * UNITS[match[3]]


def add_writing(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Add how much is written and how tokens are chosen."""
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=max_tokens,
        metavar="N",
        help="most tokens to write (%(default)s)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    group = parser.add_argument_group("how to choose tokens (greedy by default)")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T")
    group.add_argument("--top-k", type=int, metavar="K", help="among the K most likely")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="up to probability P")
    group.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="share of the likeliest"
    )
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    group.add_argument("--seed", type=int, metavar="N", help="repeats the choices")


def open_model(arguments: argparse.Namespace) -> Model:
    """Return the model that the arguments name, its weights not read yet."""
    from ciuic.models.converted import is_converted
    from ciuic.models.loading import load_model
    from ciuic.models.names import DEFAULT_MODEL

    model = arguments.model or DEFAULT_MODEL
    default = "auto" if is_converted(Path(model)) else "int8"
    return load_model(model, quantize=QUANTIZE[arguments.quantize or default])


def sampling_options(arguments: argparse.Namespace) -> SamplingOptions:
    """Return how tokens are to be chosen."""
    from ciuic.models.sampling import SamplingOptions

    return SamplingOptions(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )


def place(model: Model, spec: str | None, report: Report) -> list[Row]:
    """Put the model's parts on devices, open these, and return their rows."""
    from ciuic.models.divided import place_operators
    from ciuic.models.placed import HOST
    from ciuic.scheduler.placement import parse_placement

    from .devices import describe

    shared: list[str] = []
    if spec is not None:
        chosen = parse_placement(spec, n_layers=len(model.layers))
        model.place(dict(enumerate(chosen.layers)), chosen.head)
        model.shared = place_operators(model.layers, model.runtime, chosen.operators)
        shared = [uri for uris in chosen.operators.values() for uri in uris]
    uris = dict.fromkeys(
        [HOST, *(layer.device for layer in model.layers), model.head_device, *shared]
    )
    rows = []
    for uri in uris:
        report(f"opening {uri}", 0, 1)
        rows.append(describe(model.runtime.device(uri)))
        report(f"opening {uri}", 1, 1)
    return rows


def choose(
    model: Model,
    arguments: argparse.Namespace,
    *,
    prompt_tokens: int | None = None,
    context: int | None = None,
) -> tuple[str | None, dict[str, str]]:
    """Return the placement that was asked for, or else the one that the planner chooses, and why.

    It chooses among the host and the real devices here, by calibrated figures or assumed ones, and
    never what it takes to be slower than all on one device. The placement is None, which is all on
    the host, if there is no choice. ``prompt_tokens`` and ``context`` are as of `loaded`.
    """
    from ciuic.devices import DeviceManager
    from ciuic.models.plan import plan_model
    from ciuic.models.plan_report import placement_of

    if arguments.place is not None:
        return arguments.place, {"*": "as asked"}
    uris = model.runtime.manager.list_uris(emulated=False)
    if len(uris) == 1:
        return None, {"*": f"{uris[0]} is the only device here that is not emulated"}
    request = _request(model, arguments, prompt_tokens=prompt_tokens, context=context)
    with DeviceManager() as manager:
        plan = plan_model(replace(request, devices=uris), manager)
    return placement_of(plan), {part.part: part.reason for part in plan.placement}


def _request(
    model: Model,
    arguments: argparse.Namespace,
    *,
    prompt_tokens: int | None,
    context: int | None,
) -> PlanRequest:
    """Return what to plan: the model as it was loaded, for so many tokens."""
    from ciuic.models.converted import is_converted
    from ciuic.models.loading import find_model
    from ciuic.models.names import DEFAULT_MODEL
    from ciuic.models.planner import PlanRequest

    path = arguments.model or DEFAULT_MODEL
    return PlanRequest(
        model=path,
        context=None if context is None else max(2, min(context, model.config.max_seq_len)),
        prompt_tokens=prompt_tokens,
        format=model.layers[0].weights.quantize or "float32",
        caps=dict(map(cap_of, arguments.cap)),
        on_disk=is_converted(find_model(path)),
    )


@contextmanager
def loaded(
    model: Model,
    arguments: argparse.Namespace,
    report: Report,
    *,
    prompt_tokens: int | None = None,
    context: int | None = None,
) -> Iterator[tuple[DeviceResidency, ...]]:
    """Load a placed model, within the caps; yield what streams, which it does in this context.

    ``prompt_tokens`` and ``context`` are what is planned for, by default what plans are for.
    """
    from ciuic.models.resident import limit, resident

    plan = _plan_memory(model, arguments, prompt_tokens=prompt_tokens, context=context)
    residency = () if plan is None else plan.residency
    caps = dict(map(cap_of, arguments.cap))
    with limit(model.runtime, caps), resident(model, residency, report):
        yield residency


def _plan_memory(
    model: Model,
    arguments: argparse.Namespace,
    *,
    prompt_tokens: int | None,
    context: int | None,
) -> ModelPlan | None:
    """Return the plan of what lies where if a device's memory is capped or nearly full.

    Raises
    ------
    UsageError
        If a cap cannot be read.
    PlacementError
        If the model does not fit, even if weights stream.
    """
    from ciuic.devices import DeviceManager
    from ciuic.errors import PlacementError
    from ciuic.models.plan import plan_model

    if not arguments.cap and not _mostly_full(model):
        return None
    places = [f"{i}={model.runtime.device(on.device).uri}" for i, on in enumerate(model.layers)]
    places.append(f"head={model.runtime.device(model.head_device).uri}")
    request = _request(model, arguments, prompt_tokens=prompt_tokens, context=context)
    request = replace(request, place=",".join(places))
    with DeviceManager() as manager:
        plan = plan_model(request, manager)
    if not plan.fits:
        raise PlacementError("; ".join([*plan.problems, "would fit:", *plan.would_fit]))
    return plan


def _mostly_full(model: Model) -> bool:
    """Return whether weights alone take most of what a device has free."""
    from collections import Counter

    from ciuic.models.resident import placed_parts

    wanted: Counter[Device] = Counter()
    for _, on, weights in placed_parts(model):
        if on.device.host_memory:
            continue
        for _, weight in weights:
            home = on.home_of(weight)
            wanted[home] += 0 if home.holds(weight) else home.weight_bytes(weight)
    return any(
        nbytes > MOSTLY_FULL * (device.capacity_bytes - device.used_bytes)
        for device, nbytes in wanted.items()
    )


def check_writable(option: str, path: str | None) -> None:
    """Refuse a file that could not be written to once the work is done."""
    from ciuic.errors import UsageError

    if path is not None and not os.access(Path(path).parent, os.W_OK):
        raise UsageError(f"{option} must be in a folder that can be written to, not {path!r}")
