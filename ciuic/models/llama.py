"""The Llama family: RMSNorm, rotary grouped-query attention, SwiGLU, no biases.

Every operator goes through the runtime to the layer's device. Shapes in comments: t tokens,
dim, hidden_dim, heads, kv_heads and head_dim as in `LlamaConfig`.
"""

from __future__ import annotations

from ciuic.devices import Device, DeviceArray
from ciuic.errors import ShapeError
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .config import LlamaConfig, llama_config
from .gguf_file import GgufFile
from .kv_cache import LayerCache
from .model import Hidden, Model, token_positions
from .placed import HOST, Placed, Value
from .tokenizer import gguf_tokenizer
from .weights import LayerWeights, Quantize

_LAYER_NAMES = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
"""Role of a weight -> its name in a GGUF file, between ``blk.N.`` and ``.weight``."""


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
        cache: LayerCache | None = None,
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
            Of the tokens; made from the cache's length if None.
        """
        if positions is None:
            positions = token_positions(0 if cache is None else cache.length, hidden.shape[0])
        on = Placed(runtime or self.runtime, self.device if device is None else device)
        weights, eps = self._weights(on), self.config.norm_eps
        normed = on.run("rms_norm", hidden, weights["attn_norm"], eps=eps)  # (t, dim)
        attended = self._attention(on, normed, positions, cache)  # (t, dim)
        hidden = on.run("add", hidden, attended)
        normed = on.run("rms_norm", hidden, weights["ffn_norm"], eps=eps)
        gate = on.linear(normed, weights["gate"])  # (t, hidden_dim)
        up = on.linear(normed, weights["up"])  # (t, hidden_dim)
        down = on.linear(on.run("silu_mul", gate, up), weights["down"])  # (t, dim)
        return on.run("add", hidden, down)

    def _weights(self, on: Placed) -> LayerWeights:
        return self.weights.on("FPGA" if self.as_fpga else on.device.kind)

    def _attention(
        self,
        on: Placed,
        normed: DeviceArray,  # (t, dim)
        positions: CiuicTensor,  # int32 (t,)
        cache: LayerCache | None,
    ) -> DeviceArray:
        config, weights, t = self.config, self._weights(on), normed.shape[0]
        offset = 0 if cache is None else cache.length
        rope = {"theta": config.rope_theta, "interleaved": config.rope_interleaved}
        q = on.linear(normed, weights["q"]).reshape(t, config.n_heads, config.head_dim)
        k = on.linear(normed, weights["k"]).reshape(t, config.n_kv_heads, config.head_dim)
        values = on.linear(normed, weights["v"]).reshape(t, config.n_kv_heads, config.head_dim)
        q = on.run("rope", q, positions, **rope)
        keys = on.run("rope", k, positions, **rope)
        softmax = "q16" if self.as_fpga or on.device.kind == "FPGA" else "exact"
        if cache is not None:
            keys, values = cache.append(keys, values, on)
        mixed = on.run(
            "attention",
            *(q, keys, values),
            offset=offset,
            scale=config.head_dim**-0.5,
            softmax=softmax,
        )  # (t, heads * head_dim)
        return on.linear(mixed, weights["o"])


def llama_model(file: GgufFile, *, quantize: Quantize | None, runtime: Runtime) -> Model:
    """Return the model in a GGUF file of architecture ``llama``; its weights are read later.

    Raises
    ------
    ModelFormatError
        If anything that the model needs is missing or does not fit.
    """
    config = llama_config(file)
    dim, kv_dim = config.dim, config.n_kv_heads * config.head_dim
    matrix, heads_dim = (config.vocab_size, dim), config.n_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (dim,),
        "q": (heads_dim, dim),
        "k": (kv_dim, dim),
        "v": (kv_dim, dim),
        "o": (dim, heads_dim),
        "ffn_norm": (dim,),
        "gate": (config.hidden_dim, dim),
        "up": (config.hidden_dim, dim),
        "down": (dim, config.hidden_dim),
    }
    layers = []
    for index in range(config.n_layers):
        names = {role: f"blk.{index}.{name}.weight" for role, name in _LAYER_NAMES.items()}
        layers.append(
            LlamaLayer(index, config, LayerWeights(file, names, shapes, quantize), runtime)
        )
    tied = "output.weight" not in file.tensors
    output = "token_embd.weight" if tied else "output.weight"
    template = file.metadata.get("tokenizer.chat_template")
    return Model(
        source=file,
        config=config,
        tokenizer=gguf_tokenizer(file),
        template=None if template is None else str(template),
        layers=layers,
        embedding=LayerWeights(
            file, {"table": "token_embd.weight"}, {"table": matrix}, None, transpose=False
        ),
        head=LayerWeights(
            file,
            {"norm": "output_norm.weight", "output": output},
            {"norm": (dim,), "output": matrix},
            quantize,
        ),
        runtime=runtime,
    )
