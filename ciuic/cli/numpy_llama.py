"""A Llama as a plain loop of float32 numpy: what `ciuic bench decode` compares with.

Written as one would without a library of kernels: float32 weights, a matrix product of numpy's
BLAS for each linear layer, a cache of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import numpy.typing as npt

from ciuic.ops.rope import frequencies
from ciuic.tensor import CiuicTensor

if TYPE_CHECKING:
    from ciuic.devices import Weight
    from ciuic.models.llama import LlamaLayer
    from ciuic.models.model import Layer, Model

Array = npt.NDArray[np.float32]


class Cache:
    """Keys and values of all layers: (layers, tokens, kv_heads, head_dim), and how many tokens."""

    def __init__(self, layers: int, tokens: int, kv_heads: int, head_dim: int) -> None:
        self.keys = np.empty((layers, tokens, kv_heads, head_dim), np.float32)
        self.values = np.empty_like(self.keys)
        self.length = 0


class NumpyLlama:
    """The weights of a model that was loaded without quantization, and the loop over them."""

    def __init__(self, model: Model) -> None:
        layers = [layer for layer in model.layers if _is_llama(layer)]
        self._config = layers[0].config
        self._embed = model.embed
        self._layers = [
            {role: _floats(weight) for role, weight in layer.weights} for layer in layers
        ]
        self._head = {role: _floats(weight) for role, weight in model.network.head}

    @staticmethod
    def knows(model: Model) -> bool:
        """Return whether the loop is of this model's family."""
        return all(map(_is_llama, model.layers))

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        config = self._config
        return Cache(config.n_layers, config.max_seq_len, config.n_kv_heads, config.head_dim)

    def prefill(self, token_ids: Sequence[int], cache: Cache) -> Array:
        """Take tokens into the cache and return the logits after the last (vocab,)."""
        config, t = self._config, len(token_ids)
        x = self._embed(token_ids).numpy()
        start, stop = cache.length, cache.length + t
        angles = np.arange(start, stop)[:, None] * frequencies(
            config.head_dim, config.rope.theta, config.rope.scaling
        )
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        hidden = np.arange(stop) > np.arange(start, stop)[:, None]  # (t, stop)
        for weights, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            h = self._norm(x, weights["attn_norm"])
            q = (h @ weights["q"]).reshape(t, config.n_heads, config.head_dim)
            k = (h @ weights["k"]).reshape(t, config.n_kv_heads, config.head_dim)
            keys[start:stop] = self._rotate(k, cos, sin)
            values[start:stop] = (h @ weights["v"]).reshape(k.shape)
            mixed = self._attend(self._rotate(q, cos, sin), keys[:stop], values[:stop], hidden)
            x = x + mixed @ weights["o"]
            h = self._norm(x, weights["ffn_norm"])
            gate = h @ weights["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ weights["up"])) @ weights["down"]
        cache.length = stop
        logits: Array = (self._norm(x[-1:], self._head["norm"]) @ self._head["output"])[0]
        return logits

    def decode(self, token_id: int, cache: Cache) -> Array:
        """Take one token into the cache and return the logits after it (vocab,)."""
        return self.prefill([token_id], cache)

    def _norm(self, x: Array, gain: Array) -> Array:
        mean_square = (x * x).mean(axis=1, keepdims=True)
        normed: Array = x / np.sqrt(mean_square + np.float32(self._config.norm_eps)) * gain
        return normed

    def _rotate(self, x: Array, cos: Array, sin: Array) -> Array:
        half = x.shape[2] // 2
        neighbours = self._config.rope_interleaved
        first, second = (
            (slice(0, None, 2), slice(1, None, 2))
            if neighbours
            else (slice(0, half), slice(half, None))
        )
        a, b = x[..., first], x[..., second]
        turned = np.empty_like(x)
        turned[..., first] = a * cos - b * sin
        turned[..., second] = b * cos + a * sin
        return turned

    def _attend(self, q: Array, keys: Array, values: Array, hidden: npt.NDArray[np.bool_]) -> Array:
        """Return attention (t, heads * head_dim) of q (t, heads, head_dim)."""
        t, heads, head_dim = q.shape
        kv_heads = keys.shape[1]
        grouped = q.reshape(t, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)  # (kv, group, t, hd)
        scores = grouped @ keys.transpose(1, 2, 0)[:, None] * np.float32(head_dim**-0.5)
        if t > 1:
            scores[..., hidden] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = shares @ values.transpose(1, 0, 2)[:, None]  # (kv, group, t, hd)
        result: Array = mixed.transpose(2, 0, 1, 3).reshape(t, heads * head_dim)
        return result


def _floats(weight: Weight) -> Array:
    assert isinstance(weight, CiuicTensor)  # of a model that is not quantized
    return weight.numpy()


def _is_llama(layer: Layer) -> TypeGuard[LlamaLayer]:
    from ciuic.models.llama import LlamaLayer

    return isinstance(layer, LlamaLayer)
