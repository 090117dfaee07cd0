"""The small models of Hugging Face folders as GGUF files, laid out as llama.cpp's converter does.

Names and keys are written out here, apart from the table that Ciuic reads them by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from . import small_deepseek, small_dense
from .conftest import write_gguf
from .small_folder import MERGES, SPECIAL

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction": "exp_probs_b",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}


SCALES = {"Q4_K": slice(0, 4), "Q5_K": slice(0, 4), "Q6_K": slice(208, 210)}
"""Where the float16 scales of a block are, of types that the `gguf` package does not write."""


def write(
    path: Path,
    variant: str,
    *,
    absorbed: bool = True,
    type_name: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a variant's model; return its path, and its weights as they are in the file.

    ``absorbed`` splits what brings latents up in two; ``type_name`` quantizes matrices;
    ``changes`` go into config.json first.
    """
    family = small_dense if variant in small_dense.VARIANTS else small_deepseek
    seed = list(family.VARIANTS).index(variant)
    keys = {**family.config(variant), **(changes or {})}
    if family is small_dense:
        metadata, seed = dense_metadata(keys), seed + small_dense.SEED
    else:
        metadata = deepseek_metadata(keys, absorbed)
    architecture = {"llama": "llama", "qwen2": "qwen2"}.get(keys["model_type"], "deepseek2")
    values = converted(family.random_tensors(keys, seed), keys, absorbed)
    stored, types = dict(values), {}
    if type_name is not None:
        type_ = gguf.GGMLQuantizationType[type_name]
        for name, tensor in values.items():
            if tensor.ndim > 1 and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0] == 0:
                types[name], stored[name] = type_, packed(tensor, type_)
                back = gguf.quants.dequantize(stored[name], type_)
                values[name] = back.reshape(tensor.shape)
    metadata = {f"{architecture}.{key}": value for key, value in metadata.items()}
    write_gguf(path, {**metadata, **tokenizer_metadata()}, stored, types, architecture)
    return path, values


def packed(tensor: np.ndarray, type_: gguf.GGMLQuantizationType) -> np.ndarray:
    """Return the bytes of a tensor, or random ones of its size for types that are read alone."""
    if type_.name not in SCALES:
        return np.asarray(gguf.quants.quantize(tensor, type_)).view(np.uint8)
    elements, nbytes = gguf.GGML_QUANT_SIZES[type_]
    rng = np.random.default_rng(tensor.shape)
    blocks = rng.integers(0, 256, (tensor.size // elements, nbytes), dtype=np.uint8)
    scales = np.full((len(blocks), 2), 1e-4, np.float16).view(np.uint8)
    where = SCALES[type_.name]
    blocks[:, where] = scales[:, : where.stop - where.start]
    return blocks.reshape(*tensor.shape[:-1], -1)


def converted(
    tensors: Mapping[str, np.ndarray], keys: Mapping[str, Any], absorbed: bool
) -> dict[str, np.ndarray]:
    """Return tensors by their names in GGUF, experts stacked."""
    result: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for name, tensor in tensors.items():
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        found = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.*)\.(weight|bias)", name)
        assert found is not None, name
        layer, role, kind = found.groups()
        prefix = "" if layer is None else f"blk.{layer}."
        if (expert := re.sub(r"experts\.\d+\.", "experts.", role)) != role:
            experts.setdefault(f"{prefix}{NAMES[expert]}.{kind}", []).append(tensor)
        elif role == "self_attn.kv_b_proj" and absorbed:
            nope, v = keys["qk_nope_head_dim"], keys["v_head_dim"]
            pairs = tensor.reshape(keys["num_attention_heads"], nope + v, -1)
            keys_up = pairs[:, :nope].transpose(0, 2, 1)
            result[f"{prefix}attn_k_b.weight"] = np.ascontiguousarray(keys_up)
            result[f"{prefix}attn_v_b.weight"] = np.ascontiguousarray(pairs[:, nope:])
        else:
            if keys["model_type"] == "llama" and role in ("self_attn.q_proj", "self_attn.k_proj"):
                kind_heads = "num_attention_heads" if "q_proj" in role else "num_key_value_heads"
                tensor = neighbours(tensor, keys[kind_heads])
            result[f"{prefix}{NAMES[role]}.{kind}"] = tensor
    result |= {name: np.stack(parts) for name, parts in experts.items()}
    rope = keys.get("rope_parameters", {})
    if rope.get("rope_type") == "llama3":
        result["rope_freqs.weight"] = llama3_divisors(keys, rope)
    return result


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return rows (heads * head_dim, ...) with pairs as neighbours instead of half a head apart."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def llama3_divisors(keys: Mapping[str, Any], rope: Mapping[str, Any]) -> np.ndarray:
    """Return by how much each pair's frequency is divided, one pair at a time."""
    head_dim = keys["hidden_size"] // keys["num_attention_heads"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim)
        turns = rope["original_max_position_embeddings"] / wavelength
        if turns > high:
            divisors.append(1.0)
        elif turns < low:
            divisors.append(factor)
        else:
            smooth = (turns - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def common_metadata(keys: Mapping[str, Any]) -> dict[str, Any]:
    rope = keys.get("rope_parameters") or keys["rope_scaling"]
    metadata = {
        "block_count": keys["num_hidden_layers"],
        "context_length": keys["max_position_embeddings"],
        "embedding_length": keys["hidden_size"],
        "feed_forward_length": keys["intermediate_size"],
        "attention.head_count": keys["num_attention_heads"],
        "attention.layer_norm_rms_epsilon": keys["rms_norm_eps"],
        "rope.freq_base": rope.get("rope_theta", keys.get("rope_theta")),
    }
    if "yarn" in (rope.get("rope_type"), rope.get("type")):
        metadata |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_beta_fast": rope.get("beta_fast", 32.0),
            "rope.scaling.yarn_beta_slow": rope.get("beta_slow", 1.0),
        }
    return metadata


def dense_metadata(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a Llama or Qwen2, without the architecture's name before them."""
    metadata = common_metadata(keys)
    metadata["attention.head_count_kv"] = keys["num_key_value_heads"]
    if "head_dim" in keys:
        widths = ("attention.key_length", "attention.value_length", "rope.dimension_count")
        metadata |= dict.fromkeys(widths, keys["head_dim"])
    return metadata


def deepseek_metadata(keys: Mapping[str, Any], absorbed: bool) -> dict[str, Any]:
    """Return the keys of a DeepSeek, without the architecture's name before them."""
    rank, rope_dim, v = keys["kv_lora_rank"], keys["qk_rope_head_dim"], keys["v_head_dim"]
    key_dim = keys["qk_nope_head_dim"] + rope_dim
    v3 = keys["model_type"] == "deepseek_v3"
    grouped = keys.get("topk_method") != "greedy"
    metadata = {
        **common_metadata(keys),
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": rope_dim,
        "leading_dense_block_count": keys["first_k_dense_replace"],
        "expert_feed_forward_length": keys["moe_intermediate_size"],
        "expert_count": keys["n_routed_experts"],
        "expert_used_count": keys["num_experts_per_tok"],
        "expert_shared_count": keys["n_shared_experts"],
        "expert_group_count": keys["n_group"] if grouped else 1,
        "expert_group_used_count": keys["topk_group"] if grouped else 1,
        "expert_weights_scale": keys["routed_scaling_factor"],
        "expert_weights_norm": keys["norm_topk_prob"],
    }
    if v3:  # older files of V2 do not say
        metadata["expert_gating_func"] = 2
    if keys["q_lora_rank"]:
        metadata["attention.q_lora_rank"] = keys["q_lora_rank"]
    if absorbed:
        metadata |= {
            "attention.head_count_kv": 1,
            "attention.key_length": rank + rope_dim,
            "attention.value_length": rank,
            "attention.key_length_mla": key_dim,
            "attention.value_length_mla": v,
        }
    else:
        metadata |= {"attention.key_length": key_dim, "attention.value_length": v}
    if "mscale_all_dim" in keys["rope_parameters"]:
        multiplier = 0.1 * keys["rope_parameters"]["mscale_all_dim"]
        metadata["rope.scaling.yarn_log_multiplier"] = multiplier
    return metadata


def tokenizer_metadata() -> dict[str, Any]:
    """Return the keys of the tokenizer of small_folder, padded to the size of the embedding."""
    from ciuic.models.tokenizer import byte_characters

    words = [*SPECIAL, *sorted(byte_characters()), *("".join(pair) for pair in MERGES)]
    padding = [f"[PAD{index}]" for index in range(small_deepseek.VOCAB_SIZE - len(words))]
    kinds = [3] * len(SPECIAL) + [1] * (len(words) - len(SPECIAL)) + [5] * len(padding)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*words, *padding],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in MERGES],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
    }
