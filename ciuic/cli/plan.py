"""Show what a model will take before it is loaded: where its layers go, memory, estimated times.

Only the model's header is read: config.json, alone or in a folder, or the header of a GGUF file.
Layers go where the whole takes least time, on the devices named and within their memory; weights
that find no room anywhere stream to their device for every token, through a few slots. Times are
estimates, of an FPGA from the model of its cycles at its board's clock. Layers for multi-token
prediction are left out, as they are when the model is loaded. Exit status 1 if it does not fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import model_options, output

if TYPE_CHECKING:
    from ciuic.models.plan_report import DeviceMemory, DeviceResidency, ModelPlan
    from ciuic.models.size import ModelSize

EXAMPLES = """
ciuic plan
ciuic plan deepseek-v3
ciuic plan deepseek-tiny --device "fpga:emulated?board=pynq-z2"
ciuic plan deepseek-r1-distill-qwen-1.5b --format int4 --device "fpga:emulated?board=kv260"
ciuic plan my-folder --place "0-9=opencl,*=cpu" --cap GPU=4GiB --operators
ciuic plan my-model.gguf --device cpu --device opencl --format float32 --json
"""
KINDS = ("weights", "slots", "originals", "kv_cache", "activations", "staging")
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic plan``."""
    parser.add_argument(
        "model",
        nargs="?",
        help="a folder, its config.json, a GGUF file, deepseek-tiny (the default), "
        "smollm2-135m-instruct, deepseek-v3, deepseek-v2-lite or deepseek-r1-distill-qwen-1.5b",
    )
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="URI",
        help="a device that layers may be on; may be repeated (the CPU and all real devices here)",
    )
    parser.add_argument(
        "--place", metavar="SPEC", help="which layers on which device, as for `ciuic run`"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens that the cache holds")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="tokens of the prompt")
    parser.add_argument(
        "--format",
        default="int8",
        metavar="FORMAT",
        help="of linear layers: int8, int4, float32 or auto (int8 on FPGAs, float32 elsewhere) "
        "(%(default)s)",
    )
    model_options.add_cap(parser)
    parser.add_argument(
        "--operators", action="store_true", help="show each operator and weight of the layers"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; return 1 if the model does not fit."""
    from ciuic.devices import DeviceManager
    from ciuic.models.converted import is_converted
    from ciuic.models.loading import find_model
    from ciuic.models.names import DEFAULT_MODEL
    from ciuic.models.plan import plan_model
    from ciuic.models.planner import PlanRequest

    request = PlanRequest(
        model=arguments.model or DEFAULT_MODEL,
        devices=arguments.device,
        place=arguments.place,
        context=arguments.context,
        prompt_tokens=arguments.prompt_tokens,
        format=arguments.format,
        caps=dict(map(model_options.cap_of, arguments.cap)),
        on_disk=is_converted(find_model(arguments.model or DEFAULT_MODEL)),
    )
    with DeviceManager() as manager:
        plan = plan_model(request, manager)
    if arguments.json:
        output.print_json(plan.as_dict())
    else:
        _print(plan, operators=arguments.operators)
    return 0 if plan.fits else 1


def _print(plan: ModelPlan, *, operators: bool) -> None:
    _print_size(plan, operators=operators)
    print()
    output.print_table(
        [
            {
                "part": part.part,
                "device": part.device,
                "prompt (ms)": 1e3 * part.prefill_seconds,
                "token (ms)": 1e3 * part.token_seconds,
                "why": part.reason,
                "on the host": ", ".join(part.on_host),
            }
            for part in plan.placement
        ]
    )
    print("\nmemory in MiB" + (f", cache for {plan.context:,} tokens:"))
    output.print_table([_memory_row(row) for row in plan.memory])
    print_residency(plan.residency)
    for problem in plan.problems:
        print(f"does not fit: {problem}")
    for fitting in plan.would_fit:
        print(f"would fit: {fitting}")
    _print_times(plan)


def _print_size(plan: ModelPlan, *, operators: bool) -> None:
    size = plan.size
    print(
        f"{plan.model}: {_count(size.parameters)} parameters, "
        f"{_count(size.active_parameters)} active and {_count(size.flops)} operations a token; "
        f"{plan.format}"
    )
    print(f"KV cache: {size.cache_bytes:,} bytes a token{_expanded(size)}")
    for what in plan.left_out:
        print(f"left out, as when it is loaded: {what}")
    print()
    output.print_table(
        [
            {
                "part": part.part,
                "parameters of each": part.parameters,
                "active": part.active_parameters,
                "operations a token": part.flops,
            }
            for part in size.parts
        ]
    )
    for part in size.parts if operators else ():
        print(f"\n{part.part}:")
        output.print_table(
            [
                {
                    "operator": one.operator,
                    "weights": ", ".join(one.weights),
                    "inputs": " ".join("x".join(map(str, shape)) for shape in one.inputs),
                    "tasks": one.tasks,
                    "parameters": one.parameters,
                    "active": one.active_parameters,
                    "operations": one.flops,
                    "result bytes": one.activation_bytes,
                }
                for one in part.operators
            ]
        )


def _expanded(size: ModelSize) -> str:
    if size.expanded_cache_bytes == size.cache_bytes:
        return ""
    factor = size.expanded_cache_bytes / size.cache_bytes
    return f" (latent); {size.expanded_cache_bytes:,} if expanded, {factor:.1f} times as many"


def print_residency(residency: Sequence[DeviceResidency]) -> None:
    """Print what stays on devices that do not hold all of their weights, and what streams."""
    for one in residency:
        print(
            f"{one.device}: {len(one.pinned)} weights stay ({one.pinned_bytes / MIB:.4g} MiB), "
            f"{len(one.streamed)} stream from {one.source} for every token "
            f"({one.streamed_bytes / MIB:.4g} MiB) through {one.slots} slots of "
            f"{one.slot_bytes / MIB:.4g} MiB"
        )
        if one.on_demand:
            print(
                f"{one.device}: {len(one.on_demand)} weights of experts come when a token is "
                f"routed to them (about {one.routed_bytes / MIB:.4g} MiB a token)"
            )


def _memory_row(row: DeviceMemory) -> dict[str, object]:
    kinds = {kind.replace("_", " "): row.nbytes.get(kind, 0) / MIB for kind in KINDS}
    return {
        "tier": row.tier,
        "device": row.device,
        **kinds,
        "total": row.total_bytes / MIB,
        "of": None if row.capacity_bytes is None else row.capacity_bytes / MIB,
        "": "" if row.fits else "too much",
    }


def _print_times(plan: ModelPlan) -> None:
    times = plan.prediction
    print(
        f"\nestimated: {plan.prompt_tokens:,} tokens of prompt in "
        f"{times.time_to_first_token:.3g} s, then {times.tokens_per_second:.3g} tokens/s "
        f"({times.tokens_per_second_at_context:.3g} with {plan.context:,} in the cache); "
        f"memory limit {times.limit_tokens_per_second:.3g}"
    )
    output.print_table(list(_time_rows(plan)))
    if times.waiting_seconds:
        print(f"waiting for weights that stream: {1e3 * times.waiting_seconds:.3g} ms a token")
    if times.transfer_seconds:
        print(f"activations between devices: {1e3 * times.transfer_seconds:.3g} ms a token")
    if len(plan.single_devices) > 1 or plan.single_devices[0].device != plan.placement[0].device:
        print("\nall on one device, estimated:")
        output.print_table(
            [
                {
                    "device": one.device,
                    "fits": one.fits,
                    "prompt (s)": one.time_to_first_token,
                    "tokens/s": one.tokens_per_second,
                    "prompt and answer (s)": one.total_seconds,
                }
                for one in plan.single_devices
            ]
        )
        print(f"this plan: {times.total_seconds:.4g} s")


def _time_rows(plan: ModelPlan) -> Iterator[dict[str, object]]:
    for one in plan.prediction.devices:
        limit = one.streamed_bytes / one.bytes_per_second
        yield {
            "a token on": one.device,
            "tasks": one.tasks,
            "starts (ms)": 1e3 * one.overhead_seconds,
            "work (ms)": 1e3 * one.work_seconds,
            "weights (MB)": one.streamed_bytes / 1e6,
            "GB/s": one.bytes_per_second / 1e9,
            "work alone (tokens/s)": 1 / one.work_seconds if one.work_seconds else None,
            "limit": 1 / limit if limit else None,
            "from": ", ".join(one.basis) + (", emulated" if one.emulated else ""),
        }


def _count(number: int) -> str:
    for unit, name in ((10**9, " G"), (10**6, " M")):
        if number >= unit:
            return f"{number / unit:.4g}{name}"
    return f"{number:,}"
