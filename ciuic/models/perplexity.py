"""Perplexity of a text: e to the mean of -log p over its tokens, each given those before it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .model import Model
from .progress import Report, silent

WINDOW = 512  # tokens that are scored together, the first of them given
ROWS = 64  # of logits that are float64 at a time


def windows(model: Model, text: str, tokens: int) -> list[list[int]]:
    """Return windows of a text, spread evenly over it, with at most ``tokens`` tokens in all.

    Each begins with the model's token for the beginning, if it has one, and is as long as `WINDOW`,
    the model's context and ``tokens`` allow.
    """
    begin = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
    ids = model.tokenizer.encode(text)
    length = min(WINDOW, model.config.max_seq_len, tokens, len(begin) + len(ids))
    step = length - len(begin)
    count = max(1, min(tokens // length, len(ids) // step))
    starts = [len(ids) * index // count for index in range(count)]
    return [begin + ids[start : start + step] for start in starts]


def perplexity(model: Model, parts: list[list[int]], report: Report = silent) -> float:
    """Return the perplexity of windows of tokens, over all tokens but the first of each.

    Raises
    ------
    UsageError
        If a window has unknown tokens or more than the context holds.
    """
    total, count = 0.0, 0
    for done, ids in enumerate(parts):
        report("scoring", done, len(parts))
        losses = _losses(model.logits(ids)[:-1], np.array(ids[1:]))
        total += float(losses.sum())
        count += len(losses)
    report("scoring", len(parts), len(parts))
    return float(np.exp(total / count))


def _losses(
    logits: npt.NDArray[np.float32], following: npt.NDArray[np.int_]
) -> npt.NDArray[np.float64]:
    """Return -log p of the tokens (t,) that follow, by logits (t, vocab)."""
    losses = np.empty(len(following))
    for start in range(0, len(following), ROWS):
        part = slice(start, start + ROWS)
        rows = logits[part].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        chosen = rows[np.arange(len(rows)), following[part]]
        losses[part] = np.log(np.exp(rows).sum(axis=1)) - chosen
    return losses
