"""Let a model write text, its layers spread over devices.

Shows the devices and which layers are on which, the text as it is written, and then what each
device did. With --check the same prompt runs again on the CPU alone, with the same quantization,
and must give the same tokens; and layers that were on an FPGA, a few of each, must equal the golden
model bit for bit. Exit status 1 if it does not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from ciuic.models.generate import Generation
    from ciuic.models.model import Model
    from ciuic.models.progress import Report
    from ciuic.models.sampling import SamplingOptions
    from ciuic.models.weights import Quantize

    from .devices import Row

EXAMPLES = """
ciuic run --prompt "It is a truth"
ciuic run smollm2-135m-instruct --prompt "What is an FPGA good for?"
ciuic run my-model.gguf --prompt "Once upon a time" --raw --temperature 0.8 --seed 1
ciuic run --prompt "It was" --place "0-1=opencl,2-4=cpu,5=fpga:emulated" --check
ciuic run --prompt "It was" --max-tokens 4 --place "5=fpga:rtl?config=sim&verify=1"
ciuic run --prompt "It was" --json
"""


QUANTIZE: dict[str, Quantize | None] = {"int8": "int8", "auto": "auto", "none": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic run``."""
    parser.add_argument(
        "model",
        nargs="?",
        help="a GGUF file, a Hugging Face folder, smollm2-135m-instruct, which `ciuic fetch` "
        "brings, or deepseek-tiny, which comes with Ciuic (the default)",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to answer")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=128,
        metavar="N",
        help="most tokens to write (%(default)s)",
    )
    parser.add_argument(
        "--place",
        metavar="SPEC",
        help="which layers on which device, such as 0-1=opencl,2-4=cpu,5=fpga:rtl",
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZE,
        default="int8",
        help="linear layers: int8 (every device then gives the same bits), auto (int8 on FPGAs, "
        "float32 elsewhere) or none (%(default)s)",
    )
    parser.add_argument(
        "--raw", action="store_true", help="continue the text, without the model's chat template"
    )
    parser.add_argument("--check", action="store_true", help="check the text and the FPGA layers")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to choose tokens (greedy by default)")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T")
    group.add_argument("--top-k", type=int, metavar="K", help="among the K most likely")
    group.add_argument("--top-p", type=float, default=1.0, metavar="P", help="up to probability P")
    group.add_argument(
        "--min-p", type=float, default=0.0, metavar="P", help="share of the likeliest"
    )
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    group.add_argument("--seed", type=int, metavar="N", help="repeats the choices")


def run(arguments: argparse.Namespace) -> int:
    """Write the text and its report; return 1 if a check failed."""
    from ciuic.models.loading import load_model
    from ciuic.models.names import DEFAULT_MODEL

    sampling = _sampling(arguments)
    _check_writable(arguments.trace)
    quantize = QUANTIZE[arguments.quantize]
    with load_model(arguments.model or DEFAULT_MODEL, quantize=quantize) as model:
        return _run(arguments, model, sampling)


def _sampling(arguments: argparse.Namespace) -> SamplingOptions:
    from ciuic.errors import UsageError
    from ciuic.models.sampling import SamplingOptions

    sampling = SamplingOptions(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
    if arguments.check and sampling.temperature > 0 and sampling.seed is None:
        raise UsageError("--check must repeat the choices: add --seed, or leave --temperature out")
    return sampling


def _check_writable(path: str | None) -> None:
    from ciuic.errors import UsageError

    if path is not None and not os.access(Path(path).parent, os.W_OK):
        raise UsageError(f"--trace must be in a folder that can be written to, not {path!r}")


def _run(arguments: argparse.Namespace, model: Model, sampling: SamplingOptions) -> int:
    from . import run_report
    from .run_check import check

    ids = model.encode(arguments.prompt, raw=arguments.raw)
    generate = partial(model.generate, ids, arguments.max_tokens, sampling=sampling)
    generate()  # refuses before work what it would refuse later
    with output.progress() as report:
        devices = _place(model, arguments.place, report)
        model.load(report)
    if not arguments.json:
        run_report.print_before(devices, model)
    before = run_report.counters(model)
    with _traced(model, arguments.trace):
        generation = _write(generate, quiet=arguments.json)
    result = run_report.collect(
        model, generation, prompt=arguments.prompt, devices=devices, before=before
    )
    if not arguments.json:
        run_report.print_after(result)
    if arguments.check:
        with output.progress() as report:
            result = replace(result, check=check(model, generation, sampling, report))
    if arguments.json:
        output.print_json(result)
    elif result.check is not None:
        run_report.print_check(result.check)
    return 0 if result.check is None or result.check.ok else 1


def _place(model: Model, spec: str | None, report: Report) -> list[Row]:
    """Put the model's parts on devices, open these, and return their rows."""
    from ciuic.models.placed import HOST
    from ciuic.scheduler.placement import parse_placement

    from .devices import describe

    if spec is not None:
        chosen = parse_placement(spec, n_layers=len(model.layers))
        model.place(dict(enumerate(chosen.layers)), chosen.head)
    uris = dict.fromkeys([HOST, *(layer.device for layer in model.layers), model.head_device])
    rows = []
    for uri in uris:
        report(f"opening {uri}", 0, 1)
        rows.append(describe(model.runtime.device(uri)))
        report(f"opening {uri}", 1, 1)
    return rows


def _write(generate: Callable[..., Generation], *, quiet: bool) -> Generation:
    """Let the model write, and show the text as it comes."""
    with output.progress() as report:  # until the first piece: text and bars do not mix
        generation = generate(report=report)
        first = next(generation, "")
    for piece in chain([first], generation):
        if not quiet:
            print(piece, end="", flush=True)
    return generation


@contextmanager
def _traced(model: Model, path: str | None) -> Iterator[None]:
    """Count, and trace to a file if one is named, what devices do meanwhile."""
    model.runtime.reset_usage()
    if path is None:
        yield
        return
    trace = model.runtime.start_trace()
    try:
        yield
    finally:
        model.runtime.stop_trace(trace)
    trace.write(path)
