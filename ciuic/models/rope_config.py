"""How a model turns queries and keys, read from config.json or from a GGUF file's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ciuic.errors import ModelFormatError
from ciuic.ops.rope import DividedFrequencies, Llama3Scaling, RopeScaling, YarnScaling

from .gguf_file import GgufFile
from .keys import Keys

FREQUENCIES = "rope_freqs.weight"  # the tensor of divisors in GGUF files of Llama 3.1


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """What turns queries and keys.

    Parameters
    ----------
    theta
        Base of the frequencies.
    scaling
        How the context is stretched; None where it is not.
    turned_gain
        What multiplies the product of a turned query and a turned key (YaRN's temperature).
    score_gain
        What DeepSeek multiplies every score with besides; other families do not use it.

    Raises
    ------
    ValueError
        If one of the numbers is not positive.
    """

    theta: float
    scaling: RopeScaling | None = None
    turned_gain: float = 1.0
    score_gain: float = 1.0

    def __post_init__(self) -> None:
        for field in ("theta", "turned_gain", "score_gain"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"rope {field} must be positive, not {getattr(self, field)!r}")


def folder_rope(keys: Keys) -> RopeConfig:
    """Return what a config.json says: ``rope_parameters``, or the older ``rope_scaling``.

    Raises
    ------
    ModelFormatError
        If it is of a type other than "default", "yarn" and "llama3", or makes no sense.
    """
    rope = keys.inside("rope_parameters" if keys.get("rope_parameters") else "rope_scaling")
    theta = rope.number("rope_theta", keys.number("rope_theta", 10000.0))
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=rope.number("factor"),
            original_max_seq_len=rope.integer("original_max_position_embeddings"),
            low_turns=rope.number("low_freq_factor"),
            high_turns=rope.number("high_freq_factor"),
        )
        sensible = scaling.high_turns > scaling.low_turns > 0 and scaling.factor >= 1
        _require_sense(rope, sensible)
        return RopeConfig(theta=theta, scaling=scaling)
    if kind != "yarn":
        raise rope.error("rope_type", "'default', 'yarn' or 'llama3'", kind)
    rope.require("truncate", True)
    yarn = YarnScaling(
        factor=rope.number("factor"),
        original_max_seq_len=rope.integer("original_max_position_embeddings"),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
    )
    _require_yarn(rope, yarn, theta)
    mscale, all_dim = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    # Without both of them the paper's own temperature applies to cosine and sine.
    turned = _mscale(yarn, mscale) / _mscale(yarn, all_dim) if mscale and all_dim else 0.0
    turned = rope.number("attention_factor", turned or _mscale(yarn, 1.0))
    return RopeConfig(
        theta=theta,
        scaling=yarn,
        turned_gain=turned**2,
        score_gain=_mscale(yarn, all_dim) ** 2 if all_dim else 1.0,
    )


def gguf_rope(keys: Keys, file: GgufFile, pairs: int) -> RopeConfig:
    """Return what a GGUF file says of rotary dimensions in ``pairs``.

    The keys are those of llama.cpp. There ``yarn_log_multiplier`` is a tenth of DeepSeek's
    ``mscale_all_dim``, and stands for ``mscale`` too.

    Raises
    ------
    ModelFormatError
        If the scaling is of a type other than "none" and "yarn", or makes no sense.
    """
    theta = keys.number("rope.freq_base", 10000.0)
    kind = keys.text("rope.scaling.type", "none")
    if kind == "none":
        return RopeConfig(theta=theta, scaling=_divisors(file, pairs))
    if kind != "yarn" or FREQUENCIES in file.tensors:
        raise ModelFormatError(file.path, f"rotary scaling ({kind}) is not supported")
    yarn = YarnScaling(
        factor=keys.number("rope.scaling.factor"),
        original_max_seq_len=keys.integer("rope.scaling.original_context_length"),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
    )
    _require_yarn(keys, yarn, theta)
    for factor in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        keys.require(f"rope.scaling.{factor}", 1.0)
    if keys.get("rope.scaling.yarn_log_multiplier") is None:
        return RopeConfig(theta=theta, scaling=yarn, turned_gain=_mscale(yarn, 1.0) ** 2)
    all_dim = 10.0 * keys.number("rope.scaling.yarn_log_multiplier")
    return RopeConfig(theta=theta, scaling=yarn, score_gain=_mscale(yarn, all_dim) ** 2)


def _divisors(file: GgufFile, pairs: int) -> DividedFrequencies | None:
    if FREQUENCIES not in file.tensors:
        return None
    if file.tensors[FREQUENCIES].shape != (pairs,):
        raise ModelFormatError(
            file.path,
            f"tensor {FREQUENCIES} must have shape ({pairs},), "
            f"not {file.tensors[FREQUENCIES].shape}",
        )
    divisors = file.tensor(FREQUENCIES)
    if not (divisors > 0).all():
        raise ModelFormatError(file.path, f"tensor {FREQUENCIES} must be positive")
    return DividedFrequencies(tuple(divisors.tolist()))


def _require_yarn(keys: Keys, yarn: YarnScaling, theta: float) -> None:
    sensible = (
        yarn.factor >= 1
        and yarn.original_max_seq_len >= 1
        and yarn.beta_fast > yarn.beta_slow > 0
        and theta > 1
    )
    _require_sense(keys, sensible)


def _require_sense(keys: Keys, sensible: bool) -> None:
    if not sensible:
        raise ModelFormatError(keys.path, "the parameters of rotary scaling do not work together")


def _mscale(yarn: YarnScaling, mscale: float) -> float:
    """Return the gain of YaRN for a context ``factor`` times as long (section 3.4)."""
    return 0.1 * mscale * math.log(yarn.factor) + 1.0
