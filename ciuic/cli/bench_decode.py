"""How fast the CPU writes: prefill and decode of a model with INT8 weights, beside two limits.

Decode reads every weight and the whole cache once a token, so it can be no faster than memory:
``limit`` is the share of the read bandwidth, measured in the same run, that the bytes of a token
take. ``numpy`` is how many times faster that is than a plain loop of float32 numpy over the same
model, run in turns with it (of the Llama family, if its float32 weights are at hand). Prefill is
bound by arithmetic; its share of the bandwidth is there for completeness. All are medians; one
thread computes.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ciuic.devices import native
from ciuic.errors import UsageError

from . import output

if TYPE_CHECKING:
    from ciuic.models.model import Model

EXAMPLES = """
ciuic bench decode                          SmolLM2-135M-Instruct, which `ciuic fetch` brings
ciuic bench decode deepseek-tiny            the model that comes with Ciuic
ciuic bench decode --tokens 128 --json      more tokens, for programs
"""

PHASES = ("prefill", "decode")
READ_NBYTES = 256 << 20  # many times any cache
READS = 3  # in a round


class Writes(Protocol):
    """What is measured of a model."""

    def new_cache(self) -> Any:
        """Return an empty cache."""

    def prefill(self, token_ids: Sequence[int], cache: Any) -> npt.NDArray[np.float32]:
        """Take tokens into the cache and return the logits after the last."""

    def decode(self, token_id: int, cache: Any) -> npt.NDArray[np.float32]:
        """Take one token into the cache and return the logits after it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One phase of one model.

    Attributes
    ----------
    model
        Its name.
    phase
        "prefill" or "decode".
    tokens_per_second
        Median over the rounds.
    bytes_per_token
        Of weights and cache that must be read for a token, on average.
    bandwidth
        Bytes per second that one thread can read from memory.
    fraction_of_limit
        Of the bandwidth, what the tokens' bytes take.
    ratio_to_numpy
        Times the speed of the numpy loop; None for a family that it does not know, or a converted
        model.
    peak_rss_bytes
        Most memory of the process, files that it has mapped included, before the numpy loop.
    """

    model: str
    phase: str
    tokens_per_second: float
    bytes_per_token: float
    bandwidth: float
    fraction_of_limit: float
    ratio_to_numpy: float | None
    peak_rss_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench decode``."""
    parser.add_argument("model", nargs="?", help="a model as `ciuic run` takes it")
    parser.add_argument(
        "--prompt-tokens", type=int, default=128, metavar="N", help="to read (%(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="to write (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="medians of this many (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    for option in ("prompt_tokens", "tokens", "rounds"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} must be at least 1, not {getattr(arguments, option)}")
    with output.progress() as report:
        rows = measure(
            arguments.model,
            prompt_tokens=arguments.prompt_tokens,
            tokens=arguments.tokens,
            rounds=arguments.rounds,
            report=report,
        )
    if arguments.json:
        output.print_json(rows)
        return 0
    output.print_table(
        [
            {
                "model": row.model,
                "phase": row.phase,
                "tokens/s": row.tokens_per_second,
                "MB/token": row.bytes_per_token / 1e6,
                "read GB/s": row.bandwidth / 1e9,
                "limit": row.fraction_of_limit,
                "numpy": row.ratio_to_numpy,
                "peak MB": row.peak_rss_bytes / 1e6,
            }
            for row in rows
        ]
    )
    return 0


def measure(
    name: str | None,
    *,
    prompt_tokens: int,
    tokens: int,
    rounds: int,
    report: output.Report,
) -> list[Row]:
    """Return the rows of both phases.

    Raises
    ------
    UsageError
        If the tokens are more than the model's context holds.
    """
    from ciuic.models.converted import is_converted
    from ciuic.models.loading import find_model, load_model
    from ciuic.models.names import SMOLLM2

    from .numpy_llama import NumpyLlama

    path = name or SMOLLM2
    with load_model(path, quantize="int8") as model, ExitStack() as stack:
        if prompt_tokens + tokens > model.config.max_seq_len:
            raise UsageError(
                f"a prompt and its answer must be at most {model.config.max_seq_len} tokens, "
                f"the context of {model.config.name}, not {prompt_tokens + tokens}"
            )
        model.load(report)
        rng = np.random.default_rng(0)
        prompt = rng.integers(0, model.config.vocab_size, prompt_tokens).tolist()
        _rates(model, prompt, 2)  # what happens only once
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        plain = None
        if not is_converted(find_model(path)):  # which has no float32 weights
            floats = stack.enter_context(load_model(path, quantize=None))
            plain = NumpyLlama(floats) if NumpyLlama.knows(floats) else None
        bandwidths, fast, slow = [], [], []
        for done in range(rounds):
            report("measuring", done, rounds)
            bandwidths.append(read_bandwidth())
            fast.append(_rates(model, prompt, tokens))
            if plain is not None:
                slow.append(_rates(plain, prompt, tokens))
        report("measuring", rounds, rounds)
        return [
            _row(model, phase, nbytes, statistics.median(bandwidths), fast, slow, peak)
            for phase, nbytes in enumerate(_bytes_per_token(model, prompt_tokens, tokens))
        ]


def _rates(model: Writes, prompt: Sequence[int], tokens: int) -> tuple[float, float]:
    """Return the tokens per second of reading a prompt and of writing after it."""
    cache = model.new_cache()
    start = time.perf_counter()
    logits = model.prefill(prompt, cache)
    read = time.perf_counter()
    for _ in range(tokens):
        logits = model.decode(int(logits.argmax()), cache)
    return len(prompt) / (read - start), tokens / (time.perf_counter() - read)


def _row(
    model: Model,
    phase: int,
    nbytes: float,
    bandwidth: float,
    fast: Sequence[tuple[float, float]],
    slow: Sequence[tuple[float, float]],
    peak: int,
) -> Row:
    rate = statistics.median(rates[phase] for rates in fast)
    numpy_rate = statistics.median(rates[phase] for rates in slow) if slow else None
    return Row(
        model=model.config.name,
        phase=PHASES[phase],
        tokens_per_second=rate,
        bytes_per_token=nbytes,
        bandwidth=bandwidth,
        fraction_of_limit=rate * nbytes / bandwidth,
        ratio_to_numpy=None if numpy_rate is None else rate / numpy_rate,
        peak_rss_bytes=peak,
    )


def _bytes_per_token(model: Model, prompt_tokens: int, tokens: int) -> tuple[float, float]:
    """Return what must be read for a token of the prompt and for one of the answer."""
    from ciuic.models.model import PREFILL_TOKENS

    weights = sum(
        weight.nbytes
        for part in (*(layer.weights for layer in model.layers), model.network.head)
        for _, weight in part
    )
    slot = 4 * len(model.layers) * sum(math.prod(shape) for shape in model.config.slot_shapes)
    chunks = math.ceil(prompt_tokens / PREFILL_TOKENS)
    prefill = weights * chunks / prompt_tokens + slot * prompt_tokens / 2
    return prefill, weights + slot * (prompt_tokens + tokens / 2)


def read_bandwidth() -> float:
    """Return the bytes per second that one thread reads from memory."""
    data = np.ones(READ_NBYTES // 8, np.int64)
    library = native.load().library
    seconds = []
    for _ in range(READS):
        start = time.perf_counter()
        if library is None:
            data.sum()
        else:
            library.ciuic_read(data.ctypes.data, data.nbytes)
        seconds.append(time.perf_counter() - start)
    return data.nbytes / min(seconds)
