"""Choosing the next token from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to choose the next token.

    Parameters
    ----------
    temperature
        0 chooses the most likely token always; larger is more varied.
    top_k
        Keep only so many of the most likely tokens; None keeps all.
    top_p
        Keep the most likely tokens until their probability reaches this; 1 keeps all.
    min_p
        Keep only tokens with at least this share of the most likely one's probability.
    repetition_penalty
        Divide positive logits of tokens seen so far by this, multiply negative ones; 1 does
        nothing.
    seed
        Of the random numbers; None takes a fresh one.

    Raises
    ------
    UsageError
        If a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, "at least 0", 0 <= self.temperature < np.inf)
        _check("top_k", self.top_k, "at least 1", self.top_k is None or self.top_k >= 1)
        _check("top_p", self.top_p, "above 0 and at most 1", 0 < self.top_p <= 1)
        _check("min_p", self.min_p, "from 0 to 1", 0 <= self.min_p <= 1)
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, "above 0", 0 < penalty < np.inf)
        _check("seed", self.seed, "at least 0", self.seed is None or self.seed >= 0)


def _check(name: str, value: object, range_: str, holds: bool) -> None:
    if not holds:
        raise UsageError(f"{name} must be {range_}, not {value!r}")


class Sampler:
    """Chooses tokens one after the other, with its own random numbers."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._rng = np.random.default_rng(options.seed)

    def choose(self, logits: npt.NDArray[np.float32], seen: Sequence[int] = ()) -> int:
        """Return the id of the next token.

        Parameters
        ----------
        logits
            Of the last position, (vocab,).
        seen
            Ids so far, for the repetition penalty.
        """
        if self.options.repetition_penalty != 1.0 and seen:
            logits = _penalize(logits, seen, self.options.repetition_penalty)
        if self.options.temperature == 0:
            return int(logits.argmax())
        ids, probabilities = self.candidates(logits)
        return int(self._rng.choice(ids, p=probabilities))

    def candidates(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Return the tokens that may be chosen, most likely first, and their probabilities.

        The filters apply in the order top_k, top_p, min_p, each to what the one before it left,
        renormalized; ties in likelihood keep the smaller id first.
        """
        scaled = logits.astype(np.float64) / self.options.temperature
        ids = np.argsort(-scaled, kind="stable")[: self.options.top_k]  # (kept,)
        probabilities = _normalize(np.exp(scaled[ids] - scaled[ids[0]]))
        if self.options.top_p < 1.0:
            before = np.cumsum(probabilities) - probabilities
            keep = int(np.count_nonzero(before < self.options.top_p))
            ids, probabilities = ids[:keep], _normalize(probabilities[:keep])
        keep = int(np.count_nonzero(probabilities >= self.options.min_p * probabilities[0]))
        return ids[:keep], _normalize(probabilities[:keep])


def _penalize(
    logits: npt.NDArray[np.float32], seen: Sequence[int], penalty: float
) -> npt.NDArray[np.float32]:
    ids = np.unique(np.asarray(seen, np.intp))
    penalized = logits.copy()
    chosen = logits[ids]
    penalized[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return penalized


def _normalize(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    normal: npt.NDArray[np.float64] = values / values.sum()
    return normal
