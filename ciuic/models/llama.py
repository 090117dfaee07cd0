"""The Llama family: RMSNorm, rotary grouped-query attention, SwiGLU; biases where config says so.

Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", section 2.2.

Every operator goes through the runtime to the layer's device. Shapes in comments: t tokens,
dim, hidden_dim, heads, kv_heads and head_dim as in `LlamaConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ciuic.devices import Device, DeviceArray
from ciuic.errors import ShapeError
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .attend import Cache, attend, positions_after
from .checkpoint import Part, folder_checkpoint, gguf_checkpoint
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .llama_config import LlamaConfig, llama_config
from .model import Hidden, Network
from .placed import HOST, Placed, Value
from .weights import LayerWeights, Quantize, weights_for


class LlamaLayer:
    """One transformer layer.

    Attributes
    ----------
    index
        Which layer of the model, from 0.
    weights
        Its weights: pairs of name and weight.
    device
        Where its operators run; the host runs those that the device has no kernel for.
    as_fpga
        Whether to compute in the overlay's number formats on any device: INT8 linear layers
        (if the model is quantized "auto") and the softmax "q16".
    attention
        The form of its attention (`ciuic.ops.attention`); None for that of the device.
    """

    def __init__(
        self, index: int, config: LlamaConfig, weights: LayerWeights, runtime: Runtime
    ) -> None:
        self.index = index
        self.config = config
        self.weights = weights
        self.runtime = runtime
        self.device: Device | str = HOST
        self.as_fpga = False
        self.attention: str | None = None

    def __repr__(self) -> str:
        return f"<LlamaLayer {self.index} on {self.device}>"

    def forward(self, hidden: Hidden) -> Hidden:
        """Return the layer's output for t tokens at positions 0 to t - 1, each seeing those before.

        Parameters
        ----------
        hidden : CiuicTensor or float32 array (t, dim)

        Returns
        -------
        CiuicTensor or float32 array (t, dim)
            Of the same type as ``hidden``; a tensor stays where it was computed.
        """
        if len(hidden.shape) != 2 or hidden.shape[1] != self.config.dim:
            raise ShapeError(f"hidden must be (tokens, {self.config.dim}), not {hidden.shape}")
        result = self.submit(hidden)
        if isinstance(hidden, CiuicTensor):
            return CiuicTensor.from_device(result)
        return result.numpy()

    def submit(
        self,
        hidden: Value,  # (t, dim)
        *,
        runtime: Runtime | None = None,
        device: Device | str | None = None,
        cache: Cache = None,
        positions: CiuicTensor | None = None,  # int32 (t,)
    ) -> DeviceArray:
        """Submit the layer's operators and return the handle of its output (t, dim).

        Parameters
        ----------
        hidden
            Of t tokens.
        runtime, device
            Where to run instead of the layer's own.
        cache
            Holds the tokens before these, and these afterwards; None if there are none.
        positions
            Of the tokens; those after the cache's if None.
        """
        if positions is None:
            positions = positions_after(cache, hidden.shape[0])
        on = Placed(runtime or self.runtime, self.device if device is None else device)
        weights, eps = self._weights(on), self.config.norm_eps
        normed = on.run("rms_norm", hidden, weights["attn_norm"], eps=eps)  # (t, dim)
        attended = self._attention(on, normed, positions, cache)  # (t, dim)
        hidden = on.run("add", hidden, attended)
        normed = on.run("rms_norm", hidden, weights["ffn_norm"], eps=eps)
        bias = self.config.ffn_bias
        gate = self._linear(on, normed, "gate", bias)  # (t, hidden_dim)
        up = self._linear(on, normed, "up", bias)  # (t, hidden_dim)
        down = self._linear(on, on.run("silu_mul", gate, up), "down", bias)  # (t, dim)
        return on.run("add", hidden, down)

    def _weights(self, on: Placed) -> LayerWeights:
        return weights_for(self, on.device)

    def _attention(
        self,
        on: Placed,
        normed: DeviceArray,  # (t, dim)
        positions: CiuicTensor,  # int32 (t,)
        cache: Cache,
    ) -> DeviceArray:
        config, t = self.config, normed.shape[0]
        rope = {
            "theta": config.rope.theta,
            "interleaved": config.rope_interleaved,
            "scaling": config.rope.scaling,
        }
        q = self._linear(on, normed, "q", config.qkv_bias)
        k = self._linear(on, normed, "k", config.qkv_bias)
        values = self._linear(on, normed, "v", config.qkv_bias)
        values = values.reshape(t, config.n_kv_heads, config.head_dim)
        q = on.run("rope", q.reshape(t, config.n_heads, config.head_dim), positions, **rope)
        k = k.reshape(t, config.n_kv_heads, config.head_dim)
        keys = on.run("rope", k, positions, **rope)
        mixed = attend(
            on,
            "attention",
            (q,),
            (keys, values),
            cache=cache,
            scale=config.score_scale,
            softmax=self.attention or ("q16" if self.as_fpga else on.device.attention),
        )  # (t, heads * head_dim)
        return self._linear(on, mixed, "o", config.o_bias)

    def _linear(self, on: Placed, x: DeviceArray, role: str, biased: bool) -> DeviceArray:
        weights = self._weights(on)
        return on.linear(x, weights[role], weights[f"{role}_bias"] if biased else None)


def llama_network(
    source: HuggingFaceFolder | GgufFile, *, quantize: Quantize | None, runtime: Runtime
) -> Network:
    """Return the network in a folder or GGUF file of this family; its weights are read later.

    Raises
    ------
    ModelFormatError
        If anything that the model needs is missing or does not fit.
    """
    return dense_network(source, llama_config(source), quantize=quantize, runtime=runtime)


def dense_network(
    source: HuggingFaceFolder | GgufFile,
    config: LlamaConfig,
    *,
    quantize: Quantize | None,
    runtime: Runtime,
) -> Network:
    """Return the network of `LlamaLayer`s with this configuration.

    Raises
    ------
    ModelFormatError
        If a tensor is missing or does not fit.
    """
    if isinstance(source, GgufFile):
        checkpoint = gguf_checkpoint(source, config.n_layers)
    else:
        checkpoint = folder_checkpoint(source)
    layers = []
    for index in range(config.n_layers):
        weights = checkpoint.weights(_layer_parts(index, config), quantize)
        layers.append(LlamaLayer(index, config, weights, runtime))
    return checkpoint.network(config, layers, tied=config.tied, quantize=quantize)


def _layer_parts(index: int, config: LlamaConfig) -> Iterator[Part]:
    """Yield role, name and shape of each weight of a layer."""
    prefix, dim, hidden_dim = f"model.layers.{index}.", config.dim, config.hidden_dim
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "attn_norm", f"{prefix}input_layernorm.weight", (dim,)
    yield "ffn_norm", f"{prefix}post_attention_layernorm.weight", (dim,)
    for role, place, (n, k), biased in (
        ("q", "self_attn.q_proj", (q_dim, dim), config.qkv_bias),
        ("k", "self_attn.k_proj", (kv_dim, dim), config.qkv_bias),
        ("v", "self_attn.v_proj", (kv_dim, dim), config.qkv_bias),
        ("o", "self_attn.o_proj", (dim, q_dim), config.o_bias),
        ("gate", "mlp.gate_proj", (hidden_dim, dim), config.ffn_bias),
        ("up", "mlp.up_proj", (hidden_dim, dim), config.ffn_bias),
        ("down", "mlp.down_proj", (dim, hidden_dim), config.ffn_bias),
    ):
        yield role, f"{prefix}{place}.weight", (n, k)
        if biased:
            yield f"{role}_bias", f"{prefix}{place}.bias", (n,)
