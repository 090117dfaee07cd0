"""A Llama in plain float64 numpy, written from the paper and apart from Ciuic: the reference.

It undoes the row order that GGUF gives query and key weights, and rotates halves as Hugging Face
checkpoints do; one token at a time, no cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def logits(
    tensors: Mapping[str, np.ndarray], keys: Mapping[str, Any], ids: Sequence[int]
) -> np.ndarray:
    """Return logits (t, vocab) of a sequence."""
    heads, kv_heads = keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"]
    eps = keys["llama.attention.layer_norm_rms_epsilon"]
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = weights["token_embd.weight"][list(ids)]
    t, dim = x.shape
    head_dim = dim // heads
    for layer in range(keys["llama.block_count"]):
        w = {name.split(".")[2]: v for name, v in weights.items() if f"blk.{layer}." in name}
        h = norm(x, w["attn_norm"], eps)
        q = (h @ half_order(w["attn_q"], heads).T).reshape(t, heads, head_dim)
        k = (h @ half_order(w["attn_k"], kv_heads).T).reshape(t, kv_heads, head_dim)
        v = (h @ w["attn_v"].T).reshape(t, kv_heads, head_dim)
        q, k = (rotate(a, keys["llama.rope.freq_base"]) for a in (q, k))
        mixed = np.zeros((t, heads, head_dim))
        for head in range(heads):
            shared = head // (heads // kv_heads)
            for i in range(t):
                scores = k[: i + 1, shared] @ q[i, head] / np.sqrt(head_dim)
                shares = np.exp(scores - scores.max())
                mixed[i, head] = shares / shares.sum() @ v[: i + 1, shared]
        x = x + mixed.reshape(t, dim) @ w["attn_output"].T
        h = norm(x, w["ffn_norm"], eps)
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    output = weights.get("output.weight", weights["token_embd.weight"])
    return norm(x, weights["output_norm.weight"], eps) @ output.T


def norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """Return RMSNorm of rows."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


def half_order(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Return rows (heads * head_dim, k) with pairs half a head apart instead of neighbours."""
    rows, k = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, k)
    return pairs.swapaxes(1, 2).reshape(rows, k)


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """Return (t, heads, head_dim) rotated by position, halves paired."""
    t, _, head_dim = x.shape
    half = head_dim // 2
    angles = np.arange(t)[:, None] * theta ** (-np.arange(half) / half)
    turn = np.exp(1j * angles)[:, None]
    turned = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)
