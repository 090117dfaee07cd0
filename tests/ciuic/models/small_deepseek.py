"""Small random models of DeepSeek-V2's and V3's architecture, as Hugging Face folders.

Also used by ``tools/reference_models.py``, which has `transformers` read what is written here;
imports nothing of Ciuic.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from . import small_folder
else:  # from tools/
    import small_folder  # type: ignore[import-not-found,no-redef]

VOCAB_SIZE = small_folder.VOCAB_SIZE
FLOAT8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [32, 16],
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
BASE: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "max_position_embeddings": 64,
    "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MANY = {"n_routed_experts": 24, "n_group": 3, "topk_group": 2, "num_experts_per_tok": 6}
V2: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "topk_method": "group_limited_greedy",
    "norm_topk_prob": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "tied": {"tie_word_embeddings": True},
    "direct-queries": {"q_lora_rank": None},
    "no-yarn": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "yarn-mscales-differ": {
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    },
    "yarn-without-mscale": {"rope_parameters": YARN},
    "halves": {"rope_interleave": False},
    "shares-not-normalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.0},
    "one-group": {"n_group": 1, "topk_group": 1},
    "two-shared-experts": {"n_shared_experts": 2, "num_experts_per_tok": 1},
    "all-dense": {"first_k_dense_replace": 3},
    "no-dense": {"first_k_dense_replace": 0, "num_hidden_layers": 2},
    "one-head": {"num_attention_heads": 1, "num_key_value_heads": 1, "qk_rope_head_dim": 2},
    "wide-values": {"v_head_dim": 40, "qk_nope_head_dim": 8, "rms_norm_eps": 1e-3},
    "many-experts": MANY,
    "float8": {"quantization_config": FLOAT8},
    "v2": V2,
    "v2-one-group-open": {**V2, "topk_group": 1, "num_experts_per_tok": 2, "n_group": 2},
    "v2-many-experts": {**V2, **MANY, "routed_scaling_factor": 16.0, "n_shared_experts": 2},
    "v2-lite": {
        **V2,
        "topk_method": "greedy",
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "v2-greedy-ignores-groups": {**V2, "topk_method": "greedy", "tie_word_embeddings": True},
    "v2-no-yarn": {**V2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "v2-one-expert": {**V2, "num_experts_per_tok": 1, "first_k_dense_replace": 0},
}
TOKENS = 30  # of the sequence that is compared; longer than the context that YaRN stretches


def config(variant: str) -> dict[str, Any]:
    """Return the config.json of a variant."""
    return {**BASE, **VARIANTS[variant]}


def token_ids(variant: str) -> list[int]:
    """Return the sequence that is compared."""
    seed = list(VARIANTS).index(variant)
    return np.random.default_rng((seed, 1)).integers(2, VOCAB_SIZE, TOKENS).tolist()


def random_tensors(keys: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Return random weights by their names in a folder, float32."""
    rng = np.random.default_rng((seed, 2))
    dim, heads, tensors = keys["hidden_size"], keys["num_attention_heads"], {}

    def matrix(name: str, n: int, k: int) -> None:
        tensors[name] = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

    def gain(name: str, width: int) -> None:
        tensors[name] = (1 + 0.2 * rng.standard_normal(width)).astype(np.float32)

    def feed_forward(prefix: str, width: int) -> None:
        matrix(prefix + "gate_proj.weight", width, dim)
        matrix(prefix + "up_proj.weight", width, dim)
        matrix(prefix + "down_proj.weight", dim, width)

    matrix("model.embed_tokens.weight", keys["vocab_size"], dim)
    tensors["model.embed_tokens.weight"] *= np.float32(np.sqrt(dim))
    gain("model.norm.weight", dim)
    if not keys["tie_word_embeddings"]:
        matrix("lm_head.weight", keys["vocab_size"], dim)
    nope, rope, v = (keys[f"{part}_head_dim"] for part in ("qk_nope", "qk_rope", "v"))
    for index in range(keys["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        attention = f"{prefix}self_attn."
        gain(f"{prefix}input_layernorm.weight", dim)
        gain(f"{prefix}post_attention_layernorm.weight", dim)
        q_rank, kv_rank = keys["q_lora_rank"], keys["kv_lora_rank"]
        if q_rank is None:
            matrix(f"{attention}q_proj.weight", heads * (nope + rope), dim)
        else:
            matrix(f"{attention}q_a_proj.weight", q_rank, dim)
            gain(f"{attention}q_a_layernorm.weight", q_rank)
            matrix(f"{attention}q_b_proj.weight", heads * (nope + rope), q_rank)
        matrix(f"{attention}kv_a_proj_with_mqa.weight", kv_rank + rope, dim)
        gain(f"{attention}kv_a_layernorm.weight", kv_rank)
        matrix(f"{attention}kv_b_proj.weight", heads * (nope + v), kv_rank)
        matrix(f"{attention}o_proj.weight", dim, heads * v)
        mlp = f"{prefix}mlp."
        if index < keys["first_k_dense_replace"]:
            feed_forward(mlp, keys["intermediate_size"])
            continue
        experts, width = keys["n_routed_experts"], keys["moe_intermediate_size"]
        matrix(f"{mlp}gate.weight", experts, dim)
        if keys["model_type"] == "deepseek_v3":
            bias = 0.3 * rng.standard_normal(experts)
            tensors[f"{mlp}gate.e_score_correction_bias"] = bias.astype(np.float32)
        feed_forward(f"{mlp}shared_experts.", keys["n_shared_experts"] * width)
        for expert in range(experts):
            feed_forward(f"{mlp}experts.{expert}.", width)
    if "quantization_config" in keys:
        blocks = keys["quantization_config"]["weight_block_size"]
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            tensors |= random_float8(rng, name, tensors[name].shape, blocks)
    return tensors


def random_float8(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], blocks: list[int]
) -> dict[str, np.ndarray]:
    """Return random bytes that stand for numbers in FP8, and the scales of their blocks."""
    codes = rng.integers(0, 256, shape, dtype=np.uint8)
    codes[codes & 0x7F == 0x7F] = 0x38  # those would be NaN
    counts = [-(-size // step) for size, step in zip(shape, blocks, strict=True)]
    scales = np.exp(0.3 * rng.standard_normal(counts)) / (100 * np.sqrt(shape[1]))
    return {name: codes, f"{name}_scale_inv": scales.astype(np.float32)}


def write_folder(
    folder: Path,
    variant: str = "base",
    *,
    changes: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """Write a model folder and return its path; ``changes`` go into config.json afterwards."""
    keys = config(variant)
    tensors = random_tensors(keys, list(VARIANTS).index(variant))
    return small_folder.write_model(folder, {**keys, **(changes or {})}, tensors, shards=shards)
