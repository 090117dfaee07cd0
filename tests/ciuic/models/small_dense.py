"""Small random models of the Llama and Qwen2 families, as Hugging Face folders.

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

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": small_folder.VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-one-kv-head": {"num_key_value_heads": 1},
    "llama-every-head": {"num_key_value_heads": 6, "num_hidden_layers": 1},
    "llama-wide-heads": {"head_dim": 20},
    "llama3": {"rope_parameters": LLAMA3},
    "llama3-tied": {
        "rope_parameters": {**LLAMA3, "factor": 32.0, "high_freq_factor": 2.0},
        "tie_word_embeddings": True,
    },
    "llama-attention-bias": {"attention_bias": True},
    "llama-every-bias": {"attention_bias": True, "mlp_bias": True},
    "qwen2": QWEN2,
    "qwen2-tied": {**QWEN2, "tie_word_embeddings": True, "num_key_value_heads": 3},
    "qwen2-yarn": {**QWEN2, "rope_parameters": None, "rope_theta": 1e4, "rope_scaling": YARN},
}
TOKENS = 30  # of the sequence that is compared; longer than the context that is stretched
SEED = 100  # not that of a DeepSeek


def config(variant: str) -> dict[str, Any]:
    """Return the config.json of a variant."""
    keys = {**BASE, **VARIANTS[variant]}
    return {key: value for key, value in keys.items() if value is not None}


def token_ids(variant: str) -> list[int]:
    """Return the sequence that is compared."""
    rng = np.random.default_rng((SEED + list(VARIANTS).index(variant), 1))
    return rng.integers(2, small_folder.VOCAB_SIZE, TOKENS).tolist()


def random_tensors(keys: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Return random weights by their names in a folder, float32."""
    rng = np.random.default_rng((seed, 2))
    dim, hidden_dim, heads = (
        keys[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    head_dim = keys.get("head_dim", dim // heads)
    kv_dim = keys["num_key_value_heads"] * head_dim
    qwen2 = keys["model_type"] == "qwen2"
    qkv_bias, o_bias = qwen2 or keys["attention_bias"], keys["attention_bias"] and not qwen2
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, n: int, k: int, biased: bool = False) -> None:
        tensors[f"{name}.weight"] = rng.standard_normal((n, k)) / np.sqrt(k)
        if biased:
            tensors[f"{name}.bias"] = 0.5 * rng.standard_normal(n)

    def gain(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + 0.2 * rng.standard_normal(dim)

    linear("model.embed_tokens", keys["vocab_size"], dim)
    tensors["model.embed_tokens.weight"] *= np.sqrt(dim)
    gain("model.norm")
    if not keys["tie_word_embeddings"]:
        linear("lm_head", keys["vocab_size"], dim)
    for index in range(keys["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        gain(f"{prefix}input_layernorm")
        gain(f"{prefix}post_attention_layernorm")
        linear(f"{prefix}self_attn.q_proj", heads * head_dim, dim, qkv_bias)
        linear(f"{prefix}self_attn.k_proj", kv_dim, dim, qkv_bias)
        linear(f"{prefix}self_attn.v_proj", kv_dim, dim, qkv_bias)
        linear(f"{prefix}self_attn.o_proj", dim, heads * head_dim, o_bias)
        for part, n, k in (
            ("gate_proj", hidden_dim, dim),
            ("up_proj", hidden_dim, dim),
            ("down_proj", dim, hidden_dim),
        ):
            linear(f"{prefix}mlp.{part}", n, k, keys["mlp_bias"])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_folder(
    folder: Path, variant: str = "llama", *, changes: Mapping[str, Any] | None = None
) -> Path:
    """Write a model folder and return its path; ``changes`` go into config.json afterwards."""
    keys = config(variant)
    tensors = random_tensors(keys, SEED + list(VARIANTS).index(variant))
    return small_folder.write_model(folder, {**keys, **(changes or {})}, tensors)
