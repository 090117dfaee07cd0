"""rope: rotary position embedding of (t, heads, head_dim) at positions int32 (t,).

``interleaved`` rotates the pairs (2i, 2i + 1); otherwise element i pairs with i + head_dim / 2
(the "neox" layout of Hugging Face checkpoints). ``scaling`` stretches the context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elementwise_cost, require


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """How YaRN stretches a context: slow pairs turn ``factor`` times slower, fast ones as before.

    Source: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models",
    section 3.2, with the bounds rounded outwards to whole pairs as DeepSeek does.

    Attributes
    ----------
    factor : float
        By how much the context grows.
    original_max_seq_len : int
        Tokens of the context that the model was trained with.
    beta_fast, beta_slow : float
        Turns within that context above which a pair is fast and below which it is slow.
    """

    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def gains(self, head_dim: int, theta: float) -> npt.NDArray[np.float64]:
        """Return what multiplies the frequency of each pair: (head_dim / 2,)."""

        def pair_of(turns: float) -> float:
            wavelength = self.original_max_seq_len / (2 * math.pi * turns)
            return head_dim * math.log(wavelength) / (2 * math.log(theta))

        first = max(math.floor(pair_of(self.beta_fast)), 0)
        last = min(math.ceil(pair_of(self.beta_slow)), head_dim - 1)
        ramp = (np.arange(head_dim // 2) - first) / max(last - first, 1e-3)
        return _mixed(np.clip(ramp, 0.0, 1.0), self.factor)


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """How Llama 3.1 stretches a context, by how often a pair turns within the original one.

    Source: Grattafiori et al., "The Llama 3 Herd of Models"; the formula is that of Meta's own
    code, in which each pair is between 1 and 1 / ``factor`` times as fast, linear in its turns.

    Attributes
    ----------
    factor : float
        By how much the context grows.
    original_max_seq_len : int
        Tokens of the context that the model was trained with.
    low_turns, high_turns : float
        Turns within that context up to which a pair is slowed wholly, and above which not at all.
    """

    factor: float
    original_max_seq_len: int
    low_turns: float = 1.0
    high_turns: float = 4.0

    def gains(self, head_dim: int, theta: float) -> npt.NDArray[np.float64]:
        """Return what multiplies the frequency of each pair: (head_dim / 2,)."""
        turns = self.original_max_seq_len * _unscaled(head_dim, theta) / (2 * math.pi)
        kept = (turns - self.low_turns) / (self.high_turns - self.low_turns)
        return _mixed(1.0 - np.clip(kept, 0.0, 1.0), self.factor)


@dataclass(frozen=True)
class DividedFrequencies:
    """A divisor for each pair's frequency, as GGUF files of Llama 3.1 hold them."""

    divisors: tuple[float, ...]

    def gains(self, head_dim: int, theta: float) -> npt.NDArray[np.float64]:
        """Return what multiplies the frequency of each pair: (head_dim / 2,)."""
        return 1.0 / np.array(self.divisors)


RopeScaling = YarnScaling | Llama3Scaling | DividedFrequencies


def _unscaled(head_dim: int, theta: float) -> npt.NDArray[np.float64]:
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return np.asarray(theta**-exponents)


def _mixed(slowed: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    """Return the gain of pairs that are slowed ``factor`` times, from 0 (not) to 1 (wholly)."""
    return 1.0 - slowed + slowed / factor


@lru_cache(maxsize=16)
def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Float32Array:
    """Return the angle per position of each pair: float32 (head_dim / 2,), read-only."""
    exact = _unscaled(head_dim, theta)
    if scaling is not None:
        exact = exact * scaling.gains(head_dim, theta)
    result = exact.astype(np.float32)
    result.flags.writeable = False
    return result


def _shape(
    x: Spec,
    positions: Spec,
    *,
    theta: float,
    interleaved: bool = False,
    scaling: RopeScaling | None = None,
) -> Shape:
    fits = (
        len(x.shape) == 3
        and x.shape[2] % 2 == 0
        and x.dtype == np.float32
        and positions.shape == x.shape[:1]
        and positions.dtype == np.int32
    )
    require(fits, "rope", "float32 (t, heads, even head_dim) and int32 (t,)", (x, positions))
    return x.shape


def _cost(
    x: Spec,
    positions: Spec,
    *,
    theta: float,
    interleaved: bool = False,
    scaling: RopeScaling | None = None,
) -> Cost:
    return elementwise_cost(x.shape, flops=3, arrays=2)


def _kernel(
    x: Float32Array,
    positions: npt.NDArray[np.int32],
    *,
    theta: float,
    interleaved: bool = False,
    scaling: RopeScaling | None = None,
) -> Float32Array:
    half = x.shape[2] // 2
    angles = positions.astype(np.float32)[:, None] * frequencies(x.shape[2], theta, scaling)
    turns = angles.astype(np.float64)[:, None]  # (t, 1, head_dim / 2)
    cos, sin = np.cos(turns), np.sin(turns)
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if interleaved
        else (slice(0, half), slice(half, None))
    )
    a, b = x[..., first], x[..., second]
    result = np.empty_like(x)
    result[..., first] = a * cos - b * sin
    result[..., second] = b * cos + a * sin
    return result


OPERATOR = Operator("rope", _shape, _cost, _kernel)
