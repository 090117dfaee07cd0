"""Let a model write text, its layers spread over devices.

Shows the devices and which layers are on which, the text as it is written, and then what each
device did. With --check the same prompt runs again on the CPU alone, with the same quantization,
and must give the same tokens; and layers that were on an FPGA, a few of each, must equal the golden
model bit for bit. Exit status 1 if it does not.

Several prompts are answered at once: each step reads every weight once for all of them, and each
answer is the one that its prompt has alone. With --json a single answer stands beside the rest of
the report, several are its list "answers".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import model_options, output

if TYPE_CHECKING:
    from ciuic.models.kv_cache import KvCache
    from ciuic.models.model import Model
    from ciuic.models.sampling import SamplingOptions

    from .run_write import Work

EXAMPLES = """
ciuic run --prompt "It is a truth"
ciuic run smollm2-135m-instruct --prompt "What is an FPGA good for?"
ciuic run my-model.gguf --prompt "Once upon a time" --raw --temperature 0.8 --seed 1
ciuic run --prompt "It was" --place "0-1=opencl,2-4=cpu,5=fpga:emulated" --check
ciuic run --prompt "It was" --max-tokens 4 --place "5=fpga:rtl?config=sim&verify=1"
ciuic run --prompt "It was a dark night" --prompt-cache night.cache
ciuic run --prompt "It was" --quantize int4 --place "0-5=fpga:emulated" --check
ciuic run --prompt "It was" --prompt "She had" --prompt "And God said"
ciuic run --prompts questions.txt --json
ciuic run --prompt "It was" --stop . --stop ";" --json
ciuic run --prompt "It was" --place "*=fpga:emulated" --cap FPGA=8MB --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic run``."""
    model_options.add_model(parser)
    model_options.add_cap(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to answer; several prompts are answered at once",
    )
    parser.add_argument("--prompts", metavar="FILE", help="a file with a prompt on each line")
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
    prompts = _prompts(arguments)
    with model_options.open_model(arguments) as model:
        return _run(arguments, model, prompts, sampling)


def _sampling(arguments: argparse.Namespace) -> SamplingOptions:
    from ciuic.errors import UsageError

    sampling = model_options.sampling_options(arguments)
    if arguments.check and sampling.temperature > 0 and sampling.seed is None:
        raise UsageError("--check must repeat the choices: add --seed, or leave --temperature out")
    return sampling


def _prompts(arguments: argparse.Namespace) -> list[str]:
    """Return the prompts, those of the file after the others."""
    from ciuic.errors import UsageError

    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        try:
            lines = Path(arguments.prompts).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--prompts {arguments.prompts} cannot be read ({error})") from error
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise UsageError("there must be a prompt: --prompt TEXT or --prompts FILE")
    if len(prompts) > 1 and arguments.prompt_cache is not None:
        raise UsageError(f"--prompt-cache keeps one prompt, not {len(prompts)}")
    return prompts


def _run(
    arguments: argparse.Namespace, model: Model, prompts: list[str], sampling: SamplingOptions
) -> int:
    from . import run_report
    from .plan import print_residency
    from .run_check import check
    from .run_write import texts_of, write

    ids = [model.encode(prompt, raw=arguments.raw) for prompt in prompts]
    options: dict[str, Any] = {
        "max_tokens": arguments.max_tokens,
        "sampling": sampling,
        "stop": arguments.stop,
    }
    generate: Callable[..., Work] = partial(model.generate_batch, ids, **options)
    if len(ids) == 1:
        generate = partial(model.generate, ids[0], **options)
    generate()  # refuses before work what it would refuse later
    with ExitStack() as stack:
        with output.progress() as report:
            longest = max(map(len, ids))
            context = min(longest + arguments.max_tokens, model.config.max_seq_len)
            sizes = {"prompt_tokens": min(longest, context - 1), "context": context}
            chosen, reasons = model_options.choose(model, arguments, **sizes)
            devices = model_options.place(model, chosen, report)
            for row in devices:
                model.runtime.device(row.uri).reset_peak()
            if len(ids) == 1:
                cache = _cache(model, arguments.prompt_cache)
                generate = partial(generate, cache=cache)
            loaded = model_options.loaded(model, arguments, report, **sizes)
            residency = stack.enter_context(loaded)
        if not arguments.json:
            run_report.print_before(devices, model, reasons)
            print_residency(residency)
        before = run_report.counters(model)
        with _traced(model, arguments.trace):
            work = write(generate, prompts, quiet=arguments.json)
        if arguments.prompt_cache is not None:
            cache.save(arguments.prompt_cache)
        result = run_report.collect(
            model,
            work,
            prompts=prompts,
            devices=devices,
            before=before,
            residency=residency,
            reasons=reasons,
        )
        if not arguments.json:
            run_report.print_after(result)
        if arguments.check:
            with output.progress() as report:
                checks = [check(model, t, sampling, arguments.stop, report) for t in texts_of(work)]
            answers = [replace(a, check=c) for a, c in zip(result.answers, checks, strict=True)]
            result = replace(result, answers=answers)
    if arguments.json:
        output.print_json(result.plain())
    else:
        run_report.print_checks(result)
    return 0 if result.ok else 1


def _cache(model: Model, path: str | None) -> KvCache:
    """Return what a file holds of prompts read before, or an empty cache."""
    if path is None or not Path(path).exists():
        return model.new_cache()
    return model.load_cache(path)


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
