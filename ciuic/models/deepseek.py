"""DeepSeek-V2 and V3: latent attention, dense first layers, routed and shared experts.

Sources: DeepSeek-AI, "DeepSeek-V2", section 2, and "DeepSeek-V3 Technical Report", section 2.1,
which changes how experts are chosen (`ciuic.ops.experts`). Every operator goes through the
runtime to the layer's device. Shapes in comments: t tokens; dim, heads, nope, rope, v, kv_rank as
in `DeepseekConfig`. The layers of multi-token prediction that come with the large models are not
read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, Weight
from ciuic.errors import ShapeError
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .attend import Cache, attend, positions_after
from .checkpoint import Part, folder_checkpoint, gguf_checkpoint
from .deepseek_config import DeepseekConfig, deepseek_config
from .gguf_deepseek import DeepseekTensors
from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .model import Hidden, Network
from .placed import HOST, Placed, Value
from .weights import LayerWeights, Quantize, weights_for

LATENT_EPS = 1e-6  # of the norms inside attention, whatever rms_norm_eps says
# The router decides in float32. The matrices that attention brings latents up with are part of an
# operator that multiplies them in two orders.
EXACT = ("router", "up_keys", "up_values")


class DeepseekLayer:
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
        self, index: int, config: DeepseekConfig, weights: LayerWeights, runtime: Runtime
    ) -> None:
        self.index = index
        self.config = config
        self.weights = weights
        self.runtime = runtime
        self.device: Device | str = HOST
        self.as_fpga = False
        self.attention: str | None = None

    def __repr__(self) -> str:
        return f"<DeepseekLayer {self.index} on {self.device}>"

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

        A layer with experts waits for the router, since only its result says which experts run.

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
        if self.index < self.config.n_dense_layers:
            mixed = self._feed_forward(on, normed, weights, "ffn")
        else:
            mixed = self._experts(on, normed)
        return on.run("add", hidden, mixed)

    def _weights(self, on: Placed) -> LayerWeights:
        return weights_for(self, on.device)

    def _attention(
        self,
        on: Placed,
        normed: DeviceArray,  # (t, dim)
        positions: CiuicTensor,  # int32 (t,)
        cache: Cache,
    ) -> DeviceArray:
        config, weights, t = self.config, self._weights(on), normed.shape[0]
        rope = {
            "theta": config.rope.theta,
            "interleaved": config.rope_interleaved,
            "scaling": config.rope.scaling,
        }
        queries_of = normed
        if config.q_rank is not None:
            queries_of = on.linear(normed, weights["q_down"])  # (t, q_rank)
            queries_of = on.run("rms_norm", queries_of, weights["q_norm"], eps=LATENT_EPS)
        q_nope = on.linear(queries_of, weights["q_nope"])
        q_nope = q_nope.reshape(t, config.n_heads, config.nope_dim)
        q_rope = on.linear(queries_of, weights["q_rope"])
        q_rope = on.run(
            "rope", q_rope.reshape(t, config.n_heads, config.rope_dim), positions, **rope
        )
        latents = on.linear(normed, weights["kv_down"])  # (t, kv_rank)
        latents = on.run("rms_norm", latents, weights["kv_norm"], eps=LATENT_EPS)
        k_rope = on.linear(normed, weights["k_rope"]).reshape(t, 1, config.rope_dim)
        rope_keys = on.run("rope", k_rope, positions, **rope).reshape(t, config.rope_dim)
        mixed = attend(
            on,
            "latent_attention",
            (q_nope, q_rope),
            (latents, rope_keys),
            (weights["up_keys"], weights["up_values"]),
            cache=cache,
            scale=config.score_scale,
            rope_gain=config.rope.turned_gain,
            softmax=self.attention or ("q16" if self.as_fpga else on.device.attention),
        )  # (t, heads * v)
        return on.linear(mixed, weights["o"])

    def _feed_forward(
        self, on: Placed, x: DeviceArray, weights: LayerWeights, role: str
    ) -> DeviceArray:
        """Return SwiGLU (t, dim) of x (t, dim) with the weights of a role."""
        on = on.beside(weights[f"{role}.gate"])
        gate = on.linear(x, weights[f"{role}.gate"])  # (t, width)
        up = on.linear(x, weights[f"{role}.up"])
        return on.linear(on.run("silu_mul", gate, up), weights[f"{role}.down"])

    def _experts(self, on: Placed, normed: DeviceArray) -> DeviceArray:
        """Return the shared experts' output plus the routed ones', each times its share."""
        config, weights = self.config, self._weights(on)
        if config.scoring == "sigmoid":
            bias: Weight = weights["router_bias"]
        else:
            bias = CiuicTensor.from_numpy(np.zeros(config.n_experts, np.float32))
        routed = on.run(
            "route_tokens",
            *(normed, weights["router"], bias),
            top_k=config.top_k,
            n_group=config.n_groups,
            topk_group=config.top_groups,
            normalize=config.normalize_shares,
            scale=config.share_scale,
            scoring=config.scoring,
        )
        total = self._feed_forward(
            on, normed, weights, "shared"
        )  # runs while the router is waited for
        shares: npt.NDArray[np.float32] = routed.numpy()  # (t, experts)
        outputs: list[tuple[int, npt.NDArray[np.int32], DeviceArray]] = []
        elsewhere = False
        with on.runtime.together():
            for expert in np.flatnonzero(shares.any(axis=0)).tolist():
                ids = np.flatnonzero(shares[:, expert]).astype(np.int32)  # (n,)
                rows = normed if len(ids) == normed.shape[0] else on.run("embedding", ids, normed)
                output = self._feed_forward(on, rows, weights, f"expert.{expert}")  # (n, dim)
                outputs.append((expert, ids, output))
                # From another device it is waited for: first all experts get their work.
                elsewhere = elsewhere or output.device is not normed.device
                if not elsewhere:
                    total = self._add(on, total, outputs, shares)
        return self._add(on, total, outputs, shares)

    def _add(
        self,
        on: Placed,
        total: DeviceArray,  # (t, dim)
        outputs: list[tuple[int, npt.NDArray[np.int32], DeviceArray]],
        shares: npt.NDArray[np.float32],  # (t, experts)
    ) -> DeviceArray:
        """Return the total with experts' outputs added, in order; none is left of them."""
        for expert, ids, output in outputs:
            total = on.run("add_rows", total, output, ids, shares[ids, expert])
        outputs.clear()
        return total


def deepseek_network(
    source: HuggingFaceFolder | GgufFile, *, quantize: Quantize | None, runtime: Runtime
) -> Network:
    """Return the network in a folder or GGUF file of this family; its weights are read later.

    Raises
    ------
    ModelFormatError
        If anything that the model needs is missing or does not fit.
    """
    config = deepseek_config(source)
    if isinstance(source, GgufFile):
        checkpoint = gguf_checkpoint(
            source, config.n_layers, DeepseekTensors(source, config.n_experts)
        )
    else:
        checkpoint = folder_checkpoint(source)
    layers = []
    for index in range(config.n_layers):
        parts = _layer_parts(index, config)
        weights = checkpoint.weights(parts, quantize, rows=_rows(config), exact=EXACT)
        layers.append(DeepseekLayer(index, config, weights, runtime))
    return checkpoint.network(config, layers, tied=config.tied, quantize=quantize)


def _layer_parts(index: int, config: DeepseekConfig) -> Iterator[Part]:
    """Yield role, name and shape in the folder of each weight of a layer."""
    prefix = f"model.layers.{index}."
    dim, heads = config.dim, config.n_heads
    queries_of = dim
    yield "attn_norm", f"{prefix}input_layernorm.weight", (dim,)
    yield "ffn_norm", f"{prefix}post_attention_layernorm.weight", (dim,)
    attention, queries = f"{prefix}self_attn.", f"{prefix}self_attn.q_proj.weight"
    if config.q_rank is not None:
        queries_of, queries = config.q_rank, f"{attention}q_b_proj.weight"
        yield "q_down", f"{attention}q_a_proj.weight", (config.q_rank, dim)
        yield "q_norm", f"{attention}q_a_layernorm.weight", (config.q_rank,)
    for role in ("q_nope", "q_rope"):
        yield role, queries, (heads * (config.nope_dim + config.rope_dim), queries_of)
    down = f"{attention}kv_a_proj_with_mqa.weight"
    for role in ("kv_down", "k_rope"):
        yield role, down, (config.kv_rank + config.rope_dim, dim)
    yield "kv_norm", f"{attention}kv_a_layernorm.weight", (config.kv_rank,)
    for role in ("up_keys", "up_values"):
        shape = (heads * (config.nope_dim + config.v_dim), config.kv_rank)
        yield role, f"{attention}kv_b_proj.weight", shape
    yield "o", f"{attention}o_proj.weight", (dim, heads * config.v_dim)
    mlp = f"{prefix}mlp."
    if index < config.n_dense_layers:
        yield from _feed_forward_parts("ffn", mlp, dim, config.hidden_dim)
        return
    yield "router", f"{mlp}gate.weight", (config.n_experts, dim)
    if config.scoring == "sigmoid":
        yield "router_bias", f"{mlp}gate.e_score_correction_bias", (config.n_experts,)
    shared = config.n_shared_experts * config.expert_dim
    yield from _feed_forward_parts("shared", f"{mlp}shared_experts.", dim, shared)
    for expert in range(config.n_experts):
        yield from _feed_forward_parts(
            f"expert.{expert}", f"{mlp}experts.{expert}.", dim, config.expert_dim
        )


def _feed_forward_parts(role: str, prefix: str, dim: int, width: int) -> Iterator[Part]:
    yield f"{role}.gate", f"{prefix}gate_proj.weight", (width, dim)
    yield f"{role}.up", f"{prefix}up_proj.weight", (width, dim)
    yield f"{role}.down", f"{prefix}down_proj.weight", (dim, width)


def _rows(config: DeepseekConfig) -> dict[str, npt.NDArray[np.intp]]:
    """Return which rows of a stored matrix each role has, where several share one."""

    def of_heads(first: int, count: int, stride: int) -> npt.NDArray[np.intp]:
        starts = np.arange(config.n_heads)[:, None] * stride + first
        return (starts + np.arange(count)).ravel()

    query, pair = config.nope_dim + config.rope_dim, config.nope_dim + config.v_dim
    return {
        "q_nope": of_heads(0, config.nope_dim, query),
        "q_rope": of_heads(config.nope_dim, config.rope_dim, query),
        "kv_down": np.arange(config.kv_rank),
        "k_rope": np.arange(config.kv_rank, config.kv_rank + config.rope_dim),
        "up_keys": of_heads(0, config.nope_dim, pair),
        "up_values": of_heads(config.nope_dim, config.v_dim, pair),
    }
