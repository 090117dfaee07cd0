"""Let a model write text, its layers spread over devices.

Shows the devices and which layers are on which, the text as it is written, and then what each
device did. With --check the same prompt runs again on the CPU alone, with the same quantization,
and must give the same tokens; and layers that were on an FPGA, a few of each, must equal the golden
model bit for bit. Exit status 1 if it does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from . import model_options, output

if TYPE_CHECKING:
    from ciuic.models.generate import Generation
    from ciuic.models.kv_cache import KvCache
    from ciuic.models.model import Model
    from ciuic.models.sampling import SamplingOptions

EXAMPLES = """
ciuic run --prompt "It is a truth"
ciuic run smollm2-135m-instruct --prompt "What is an FPGA good for?"
ciuic run my-model.gguf --prompt "Once upon a time" --raw --temperature 0.8 --seed 1
ciuic run --prompt "It was" --place "0-1=opencl,2-4=cpu,5=fpga:emulated" --check
ciuic run --prompt "It was" --max-tokens 4 --place "5=fpga:rtl?config=sim&verify=1"
ciuic run --prompt "It was a dark night" --prompt-cache night.cache
ciuic run --prompt "It was" --quantize int4 --place "0-5=fpga:emulated" --check
ciuic run --prompt "It was" --stop . --stop ";" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic run``."""
    model_options.add_model(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to answer")
    parser.add_argument(
        "--raw", action="store_true", help="continue the text, without the model's chat template"
    )
    parser.add_argument(
        "--prompt-cache",
        metavar="FILE",
        help="keep what was read and written in this file: the next prompt that begins alike is "
        "read from where it differs",
    )
    parser.add_argument("--check", action="store_true", help="check the text and the FPGA layers")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    model_options.add_writing(parser, max_tokens=128)


def run(arguments: argparse.Namespace) -> int:
    """Write the text and its report; return 1 if a check failed."""
    sampling = _sampling(arguments)
    model_options.check_writable("--trace", arguments.trace)
    model_options.check_writable("--prompt-cache", arguments.prompt_cache)
    with model_options.open_model(arguments) as model:
        return _run(arguments, model, sampling)


def _sampling(arguments: argparse.Namespace) -> SamplingOptions:
    from ciuic.errors import UsageError

    sampling = model_options.sampling_options(arguments)
    if arguments.check and sampling.temperature > 0 and sampling.seed is None:
        raise UsageError("--check must repeat the choices: add --seed, or leave --temperature out")
    return sampling


def _run(arguments: argparse.Namespace, model: Model, sampling: SamplingOptions) -> int:
    from . import run_report
    from .run_check import check

    ids = model.encode(arguments.prompt, raw=arguments.raw)
    generate = partial(
        model.generate, ids, arguments.max_tokens, sampling=sampling, stop=arguments.stop
    )
    generate()  # refuses before work what it would refuse later
    with output.progress() as report:
        devices = model_options.place(model, arguments.place, report)
        cache = _cache(model, arguments.prompt_cache)
        model.load(report)
    if not arguments.json:
        run_report.print_before(devices, model)
    before = run_report.counters(model)
    with _traced(model, arguments.trace):
        generation = _write(partial(generate, cache=cache), quiet=arguments.json)
    if arguments.prompt_cache is not None:
        cache.save(arguments.prompt_cache)
    result = run_report.collect(
        model, generation, prompt=arguments.prompt, devices=devices, before=before
    )
    if not arguments.json:
        run_report.print_after(result)
    if arguments.check:
        with output.progress() as report:
            result = replace(
                result, check=check(model, generation, sampling, arguments.stop, report)
            )
    if arguments.json:
        output.print_json(result)
    elif result.check is not None:
        run_report.print_check(result.check)
    return 0 if result.check is None or result.check.ok else 1


def _cache(model: Model, path: str | None) -> KvCache:
    """Return what a file holds of prompts read before, or an empty cache."""
    if path is None or not Path(path).exists():
        return model.new_cache()
    return model.load_cache(path)


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
