"""What number formats cost: perplexity on a held-out text, against the same model in float32.

The text is of Jane Austen's novels and the King James Bible, from the part on which deepseek-tiny
was not trained. Formats:

float32      linear layers and softmax in floating point
w8a8         linear layers with INT8 weights (a scale a column) and activations (a scale a token),
             both rotated by Hadamard matrices: without that SmolLM2-135M loses 3.5 %
w4a8         INT4 weights with a scale a column and group of 32, INT8 activations; the output
             matrix is INT8, the router and the matrices inside latent attention are float32
softmax_q16  each softmax as the overlay's engine computes it, linear layers in float32
attention_int8
             all of attention as the overlay's engine computes it in blocks of 16 keys, linear
             layers in float32

Weights that a file has as Q4_0 or Q4_1 are not rounded again in w4a8: SmolLM2-135M's are Q4_1.
``limit`` is the largest increase that is allowed; exit status 1 if one is beyond it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ciuic.errors import UsageError

from . import output

if TYPE_CHECKING:
    from ciuic.models.weights import Quantize

TEXT = Path(__file__).parents[1] / "models" / "deepseek-tiny" / "held_out.txt"
MODELS = ("smollm2-135m-instruct", "deepseek-tiny")
FLOAT32 = "float32"

EXAMPLES = """
ciuic fetch && ciuic bench quality
ciuic bench quality --json
ciuic bench quality deepseek-tiny --tokens 16384
"""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a model computes.

    Attributes
    ----------
    quantize
        As for `load_model`.
    attention
        Its form (`ciuic.ops.attention`).
    limit
        By how much the perplexity may exceed that of float32, relative to it.
    """

    quantize: Quantize | None
    attention: str | None = None
    limit: float


FORMATS = {
    FLOAT32: Format(quantize=None, limit=0.0),
    "w8a8": Format(quantize="int8", limit=0.01),
    "w4a8": Format(quantize="int4", limit=0.06),
    "softmax_q16": Format(quantize=None, attention="q16", limit=0.005),
    "attention_int8": Format(quantize=None, attention="int8x16", limit=0.005),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """The perplexity of one model in one format.

    Attributes
    ----------
    model, format
        Names.
    perplexity
        On the text.
    relative_increase
        Over the perplexity in float32, relative to it.
    limit
        The largest increase that is allowed.
    tokens
        That were scored.
    """

    model: str
    format: str
    perplexity: float
    relative_increase: float
    limit: float
    tokens: int

    @property
    def ok(self) -> bool:
        """Whether the increase is within its limit."""
        return self.relative_increase <= self.limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench quality``."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"names, GGUF files or folders ({' '.join(MODELS)})",
    )
    parser.add_argument(
        "--tokens", type=int, default=2048, metavar="N", help="tokens to score (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if a format costs more than its limit."""
    from ciuic.models.loading import load_model

    if arguments.tokens < 2:
        raise UsageError(f"--tokens must be at least 2, not {arguments.tokens}")
    models = arguments.models or list(MODELS)
    for name in models:  # refuses before work what cannot be read
        load_model(name, quantize=None).close()
    rows: list[Row] = []
    with output.progress() as report:
        for name in models:
            rows += _measure(name, arguments.tokens, report)
    if arguments.json:
        output.print_json(rows)
    else:
        output.print_table([_shown(row) for row in rows])
    return 0 if all(row.ok for row in rows) else 1


def _measure(name: str, tokens: int, report: output.Report) -> list[Row]:
    """Return a row for each format of a model."""
    from ciuic.models.loading import load_model
    from ciuic.models.perplexity import perplexity, windows

    rows: list[Row] = []
    text = TEXT.read_text(encoding="utf-8")
    for label, form in FORMATS.items():
        with load_model(name, quantize=form.quantize) as model:
            for layer in model.layers:
                layer.attention = form.attention
            parts = windows(model, text, tokens)
            what = f"{model.config.name} {label}"
            found = perplexity(model, parts, partial(_renamed, report, what))
            float32 = rows[0].perplexity if rows else found
            rows.append(
                Row(
                    model=name,
                    format=label,
                    perplexity=found,
                    relative_increase=found / float32 - 1,
                    limit=form.limit,
                    tokens=sum(len(ids) - 1 for ids in parts),
                )
            )
    return rows


def _renamed(report: output.Report, name: str, _what: str, done: int, total: int) -> None:
    report(name, done, total)


def _shown(row: Row) -> dict[str, object]:
    return {
        "model": row.model,
        "format": row.format,
        "tokens": row.tokens,
        "perplexity": f"{row.perplexity:.3f}",
        "increase": f"{row.relative_increase:+.2%}",
        "limit": f"{row.limit:.1%}",
        "ok": row.ok,
    }
