"""Several texts at once against one after the other: tokens a second of the same decode.

A step of a batch reads each weight once for all of its texts. If reading the weights were all that
takes time, n texts at once would be n times as fast: that is the limit of the gain. What a text
costs by itself (its attention, and the arithmetic of its row in each product) keeps it below.
Prompts have different lengths. Both ways take turns, and the best round of each counts. Exit
status 1 if the tokens differ, which they may only with --quantize none, where BLAS rounds as the
number of rows wants it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import model_options, output

if TYPE_CHECKING:
    from ciuic.models.model import Model
    from ciuic.models.progress import Report

EXAMPLES = """
ciuic bench batch
ciuic bench batch smollm2-135m-instruct --sizes 1 4 16 --tokens 32
ciuic bench batch --json
"""
SEED = 0  # of the prompts
SHORTEST, LONGER = 4, 3  # tokens of the first prompt, and how many more each next one has


@dataclass(frozen=True, kw_only=True)
class Row:
    """One size of batch; tokens a second are those of decode, of all texts together."""

    model: str
    batch: int
    alone_tokens_per_second: float
    tokens_per_second: float
    gain: float
    limit: float
    same_tokens: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench batch``."""
    model_options.add_model(parser)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="N",
        help="texts at once (1 2 4 8)",
    )
    parser.add_argument(
        "--tokens", type=int, default=24, metavar="N", help="tokens of each text (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure each size; return 1 if a batch wrote other tokens."""
    from ciuic.errors import UsageError

    for option, value, least in (
        ("--sizes", min(arguments.sizes), 1),
        ("--tokens", arguments.tokens, 2),  # the first is not counted
        ("--rounds", arguments.rounds, 1),
    ):
        if value < least:
            raise UsageError(f"{option} must be at least {least}, not {value}")
    with model_options.open_model(arguments) as model, output.progress() as report:
        model_options.place(model, arguments.place, report)
        model.load(report)
        rows = [
            measure(model, size, arguments.tokens, arguments.rounds, report)
            for size in arguments.sizes
        ]
    if arguments.json:
        output.print_json(rows)
    else:
        output.print_table(
            [
                {
                    "texts": row.batch,
                    "tokens/s one by one": row.alone_tokens_per_second,
                    "tokens/s at once": row.tokens_per_second,
                    "gain": row.gain,
                    "limit": row.limit,
                    "same tokens": row.same_tokens,
                }
                for row in rows
            ]
        )
    exact = arguments.quantize != "none"
    return 1 if exact and not all(row.same_tokens for row in rows) else 0


def measure(model: Model, size: int, tokens: int, rounds: int, report: Report) -> Row:
    """Let the model write ``size`` texts of up to ``tokens`` tokens in both ways, by turns."""
    rng = np.random.default_rng(SEED)
    vocab = model.tokenizer.vocab_size
    prompts = [rng.integers(vocab, size=SHORTEST + LONGER * n).tolist() for n in range(size)]
    what = f"{size} at once and one by one"
    one_by_one = at_once = 0.0
    same = True
    for done in range(rounds):
        report(what, done, rounds)
        alone = [model.generate(prompt, tokens) for prompt in prompts]
        for text in alone:
            exhaust(text)
        batch = model.generate_batch(prompts, tokens)
        exhaust(batch)
        more = sum(len(text.ids) - 1 for text in alone)
        seconds = sum(text.decode_seconds for text in alone)
        one_by_one = max(one_by_one, more / seconds if more else 0.0)
        at_once = max(at_once, batch.tokens_per_second or 0.0)
        same &= [text.ids for text in alone] == [text.ids for text in batch.texts]
    report(what, rounds, rounds)
    return Row(
        model=model.config.name,
        batch=size,
        alone_tokens_per_second=one_by_one,
        tokens_per_second=at_once,
        gain=at_once / one_by_one if one_by_one else 0.0,
        limit=float(size),
        same_tokens=same,
    )


def exhaust(work: Iterable[object]) -> None:
    """Let the model write to the end."""
    for _ in work:
        pass
