"""What a model of DeepSeek-V3's architecture is built with, read from its config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ciuic.errors import ModelFormatError
from ciuic.ops.rope import YarnScaling

from .huggingface import CONFIG, HuggingFaceFolder
from .kv_cache import SlotShapes

LARGEST = 1e12  # of any number in a config.json; far beyond sense, and its square is finite


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig:
    """Parameters of a model of DeepSeek-V3's architecture.

    Parameters
    ----------
    name
        Name of the model, for people.
    dim
        Width of the hidden state.
    hidden_dim, expert_dim
        Width inside a dense feed-forward part and inside one expert.
    n_layers, n_dense_layers
        Layers, and how many of the first have a dense feed-forward part instead of experts.
    n_heads
        Heads of attention.
    q_rank
        Width of the latent that queries are made from; None where they are made directly.
    kv_rank
        Width of the latent that keys and values are made from: what the cache holds.
    nope_dim, rope_dim, v_dim
        Widths in one head: of the part of a key without position, of the rotary part (one for all
        heads), of a value.
    n_experts, n_shared_experts, top_k
        Routed experts, experts that every token goes through, routed experts of one token.
    n_groups, top_groups
        Groups of routed experts, and how many of them a token's experts come from.
    normalize_shares, share_scale
        Whether the shares of a token's experts are made to sum to 1, and what multiplies them.
    vocab_size, max_seq_len
        Number of tokens, longest context in tokens.
    rope_theta, rope_interleaved, yarn
        Base of the rotary frequencies, whether pairs are neighbours, how the context is stretched.
    rope_gain, score_gain
        What multiplies the rotary part of the scores and all scores (YaRN's mscale).
    norm_eps
        Added to the mean square in RMSNorm.
    tied
        Whether the output matrix is the embedding.

    Raises
    ------
    ValueError
        If the parameters cannot work together.
    """

    name: str
    dim: int
    hidden_dim: int
    expert_dim: int
    n_layers: int
    n_dense_layers: int
    n_heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    n_experts: int
    n_shared_experts: int
    top_k: int
    n_groups: int
    top_groups: int
    normalize_shares: bool
    share_scale: float
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    rope_interleaved: bool
    yarn: YarnScaling | None
    rope_gain: float
    score_gain: float
    norm_eps: float
    tied: bool

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            smallest = 0 if field == "n_dense_layers" else 1
            if type(value) is int and value < smallest:
                raise ValueError(f"{field} must be at least {smallest}, not {value}")
            if type(value) is float and not 0 < value < math.inf:
                raise ValueError(f"{field} must be positive, not {value!r}")
        if self.rope_dim % 2:
            raise ValueError(f"rope_dim must be even, not {self.rope_dim}")
        if self.n_experts % self.n_groups or self.top_groups > self.n_groups:
            raise ValueError(
                f"n_groups must divide {self.n_experts} experts and be at least "
                f"{self.top_groups}, not {self.n_groups}"
            )
        open_experts = self.n_experts // self.n_groups * self.top_groups
        if self.top_k > open_experts:
            raise ValueError(f"top_k must be at most {open_experts}, not {self.top_k}")

    @property
    def slot_shapes(self) -> SlotShapes:
        """Latent and rotary key of one token: kv_rank + rope_dim numbers."""
        return (self.kv_rank,), (self.rope_dim,)

    @property
    def expanded_slot_shapes(self) -> SlotShapes:
        """Keys and values of one token for every head, which the latent stands for."""
        return (self.n_heads, self.nope_dim + self.rope_dim), (self.n_heads, self.v_dim)

    @property
    def score_scale(self) -> float:
        """What multiplies a query times a key before the softmax."""
        return self.score_gain / math.sqrt(self.nope_dim + self.rope_dim)


def deepseek_config(folder: HuggingFaceFolder) -> DeepseekConfig:
    """Return the configuration in a folder of model type ``deepseek_v3``.

    Raises
    ------
    ModelFormatError
        If a key is missing, has the wrong type, or asks for something that is not supported.
    """
    keys = _Keys(folder)
    keys.require("hidden_act", "silu")
    keys.require("attention_bias", False)
    keys.require("scoring_func", "sigmoid")
    keys.require("topk_method", "noaux_tc")
    keys.require("quantization_config", None)
    rope = folder.config.get("rope_parameters") or folder.config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelFormatError(keys.path, f"rope_parameters must be an object, not {rope!r}")
    scaling, rope_gain, score_gain = _yarn(keys, rope)
    n_layers = keys.integer("num_hidden_layers")
    try:
        return DeepseekConfig(
            name=str(folder.config.get("_name_or_path") or folder.path.resolve().name),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            expert_dim=keys.integer("moe_intermediate_size"),
            n_layers=n_layers,
            n_dense_layers=min(keys.integer("first_k_dense_replace", 0), n_layers),
            n_heads=keys.integer("num_attention_heads"),
            q_rank=keys.integer("q_lora_rank") if folder.config.get("q_lora_rank") else None,
            kv_rank=keys.integer("kv_lora_rank"),
            nope_dim=keys.integer("qk_nope_head_dim"),
            rope_dim=keys.integer("qk_rope_head_dim"),
            v_dim=keys.integer("v_head_dim"),
            n_experts=keys.integer("n_routed_experts"),
            n_shared_experts=keys.integer("n_shared_experts"),
            top_k=keys.integer("num_experts_per_tok"),
            n_groups=keys.integer("n_group", 1),
            top_groups=keys.integer("topk_group", 1),
            normalize_shares=bool(folder.config.get("norm_topk_prob", True)),
            share_scale=keys.number(folder.config, "routed_scaling_factor", 1.0),
            vocab_size=keys.integer("vocab_size"),
            max_seq_len=keys.integer("max_position_embeddings"),
            rope_theta=keys.number({**folder.config, **rope}, "rope_theta", 10000.0),
            rope_interleaved=bool(folder.config.get("rope_interleave", True)),
            yarn=scaling,
            rope_gain=rope_gain,
            score_gain=score_gain,
            norm_eps=keys.number(folder.config, "rms_norm_eps", 1e-6),
            tied=bool(folder.config.get("tie_word_embeddings", False)),
        )
    except ValueError as error:
        raise ModelFormatError(keys.path, str(error)) from error


def _yarn(keys: _Keys, rope: dict[str, Any]) -> tuple[YarnScaling | None, float, float]:
    """Return the scaling and what multiplies rotary scores and all scores."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None, 1.0, 1.0
    if kind != "yarn":
        raise ModelFormatError(keys.path, f"rope_type must be 'default' or 'yarn', not {kind!r}")
    factor = keys.number(rope, "factor")
    original = keys.number(rope, "original_max_position_embeddings")
    beta_fast, beta_slow = (
        keys.number(rope, "beta_fast", 32.0),
        keys.number(rope, "beta_slow", 1.0),
    )
    if not (factor >= 1 and original >= 1 and beta_fast > beta_slow > 0):
        raise ModelFormatError(keys.path, f"the parameters of yarn do not work together: {rope}")
    mscale, all_dim = keys.number(rope, "mscale", 0.0), keys.number(rope, "mscale_all_dim", 0.0)
    # Without both of them the paper's own temperature applies to cosine and sine.
    turned = _mscale(factor, mscale) / _mscale(factor, all_dim) if mscale and all_dim else 0.0
    turned = keys.number(rope, "attention_factor", turned or _mscale(factor, 1.0))
    scaling = YarnScaling(
        factor=factor,
        original_max_seq_len=int(original),
        beta_fast=beta_fast,
        beta_slow=beta_slow,
    )
    return scaling, turned**2, _mscale(factor, all_dim) ** 2 if all_dim else 1.0


def _mscale(factor: float, mscale: float) -> float:
    """Return the gain of YaRN for a context ``factor`` times as long (section 3.4)."""
    return 0.1 * mscale * math.log(factor) + 1.0


class _Keys:
    """Typed access to config.json."""

    def __init__(self, folder: HuggingFaceFolder) -> None:
        self._config = folder.config
        self.path = folder.path / CONFIG

    def require(self, key: str, wanted: object) -> None:
        """Refuse a value that would give wrong numbers without a word."""
        found = self._config.get(key, wanted)
        if found != wanted:
            raise ModelFormatError(self.path, f"{key} must be {wanted!r}, not {found!r}")

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an integer that is not negative."""
        value = self._config.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise ModelFormatError(
                self.path, f"{key} must be an integer from 0 to {(1 << 31) - 1}, not {value!r}"
            )
        return value

    def number(self, values: dict[str, Any], key: str, default: float | None = None) -> float:
        """Return a number."""
        value = values.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not abs(value) <= LARGEST:  # type: ignore[arg-type]
            raise ModelFormatError(
                self.path, f"{key} must be a number of at most {LARGEST:g}, not {value!r}"
            )
        return float(value)  # type: ignore[arg-type]
