"""What a model of DeepSeek-V2's or V3's architecture is built with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ciuic.errors import ModelFormatError

from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .kv_cache import SlotShapes
from .rope_config import RopeConfig, folder_rope, gguf_rope

GATINGS = {1: "softmax", 2: "sigmoid"}  # expert_gating_func in GGUF files


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig:
    """Parameters of a model of DeepSeek-V2's or V3's architecture.

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
    scoring
        How affinities are made and groups ranked: "softmax" in V2, "sigmoid" in V3, where a bias
        takes part in the choice (`ciuic.ops.experts`).
    normalize_shares, share_scale
        Whether the shares of a token's experts are made to sum to 1, and what multiplies them.
    vocab_size, max_seq_len
        Number of tokens, longest context in tokens.
    rope, rope_interleaved
        What turns the rotary parts, and whether their pairs are neighbours.
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
    scoring: str
    normalize_shares: bool
    share_scale: float
    vocab_size: int
    max_seq_len: int
    rope: RopeConfig
    rope_interleaved: bool
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
        """Keys (n_heads, nope_dim + rope_dim) and values (n_heads, v_dim) of one token."""
        return (self.n_heads, self.nope_dim + self.rope_dim), (self.n_heads, self.v_dim)

    @property
    def score_scale(self) -> float:
        """What multiplies a query times a key before the softmax."""
        return self.rope.score_gain / math.sqrt(self.nope_dim + self.rope_dim)


def deepseek_config(source: HuggingFaceFolder | GgufFile) -> DeepseekConfig:
    """Return the configuration in a folder of either version, or in a GGUF file (``deepseek2``).

    Raises
    ------
    ModelFormatError
        If a key is missing, has the wrong type, or asks for something that is not supported.
    """
    try:
        if isinstance(source, GgufFile):
            return _of_gguf(source)
        return _of_folder(source)
    except ValueError as error:
        raise ModelFormatError(source.path, str(error)) from error


def _of_folder(folder: HuggingFaceFolder) -> DeepseekConfig:
    keys = folder.keys
    v3 = keys.get("model_type") == "deepseek_v3"
    keys.require("hidden_act", "silu")
    keys.require("attention_bias", False)
    keys.require("mlp_bias", False)
    keys.require("moe_layer_freq", 1)
    keys.require("scoring_func", "sigmoid" if v3 else "softmax")
    methods = ("noaux_tc",) if v3 else ("greedy", "group_limited_greedy")
    keys.require("topk_method", *methods)
    grouped = v3 or keys.get("topk_method") == "group_limited_greedy"
    top_k, n_layers = keys.integer("num_experts_per_tok"), keys.integer("num_hidden_layers")
    normalize = keys.boolean("norm_topk_prob", v3)
    share_scale = keys.number("routed_scaling_factor", 1.0)
    if not v3 and normalize:  # DeepSeek's own code of V2 does one or the other
        normalize, share_scale = top_k > 1, 1.0 if top_k > 1 else share_scale
    return DeepseekConfig(
        name=folder.name,
        dim=keys.integer("hidden_size"),
        hidden_dim=keys.integer("intermediate_size"),
        expert_dim=keys.integer("moe_intermediate_size"),
        n_layers=n_layers,
        n_dense_layers=min(keys.integer("first_k_dense_replace", 0), n_layers),
        n_heads=keys.integer("num_attention_heads"),
        q_rank=keys.integer("q_lora_rank", 0) or None,
        kv_rank=keys.integer("kv_lora_rank"),
        nope_dim=keys.integer("qk_nope_head_dim"),
        rope_dim=keys.integer("qk_rope_head_dim"),
        v_dim=keys.integer("v_head_dim"),
        n_experts=keys.integer("n_routed_experts"),
        n_shared_experts=keys.integer("n_shared_experts"),
        top_k=top_k,
        n_groups=keys.integer("n_group", 1) if grouped else 1,
        top_groups=keys.integer("topk_group", 1) if grouped else 1,
        scoring="sigmoid" if v3 else "softmax",
        normalize_shares=normalize,
        share_scale=share_scale,
        vocab_size=keys.integer("vocab_size"),
        max_seq_len=keys.integer("max_position_embeddings"),
        rope=folder_rope(keys),
        rope_interleaved=keys.boolean("rope_interleave", True) if v3 else True,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        tied=keys.boolean("tie_word_embeddings", False),
    )


def _of_gguf(file: GgufFile) -> DeepseekConfig:
    keys = file.keys
    # The last blocks may be those of multi-token prediction, which are not read.
    n_layers = keys.integer("block_count") - keys.integer("nextn_predict_layers", 0)
    n_heads, rope_dim = keys.integer("attention.head_count"), keys.integer("rope.dimension_count")
    gating = keys.integer("expert_gating_func", 1)
    if gating not in GATINGS:
        raise keys.error("expert_gating_func", "1 (softmax) or 2 (sigmoid)", gating)
    # Files for the absorbed form call the widths of a head "mla"; the others are then the latent's.
    key_dim = keys.integer("attention.key_length_mla", keys.integer("attention.key_length"))
    v_dim = keys.integer("attention.value_length_mla", keys.integer("attention.value_length"))
    return DeepseekConfig(
        name=file.name,
        dim=keys.integer("embedding_length"),
        hidden_dim=keys.integer("feed_forward_length"),
        expert_dim=keys.integer("expert_feed_forward_length"),
        n_layers=n_layers,
        n_dense_layers=min(keys.integer("leading_dense_block_count", 0), n_layers),
        n_heads=n_heads,
        q_rank=keys.integer("attention.q_lora_rank", 0) or None,
        kv_rank=keys.integer("attention.kv_lora_rank"),
        nope_dim=key_dim - rope_dim,
        rope_dim=rope_dim,
        v_dim=v_dim,
        n_experts=keys.integer("expert_count"),
        n_shared_experts=keys.integer("expert_shared_count"),
        top_k=keys.integer("expert_used_count"),
        n_groups=keys.integer("expert_group_count", 1),
        top_groups=keys.integer("expert_group_used_count", 1),
        scoring=GATINGS[gating],
        normalize_shares=keys.boolean("expert_weights_norm", False),
        share_scale=keys.number("expert_weights_scale", 1.0),
        vocab_size=file.vocab_size,
        max_seq_len=keys.integer("context_length"),
        rope=gguf_rope(keys, file, rope_dim // 2),
        rope_interleaved=True,
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in file.tensors,
    )
