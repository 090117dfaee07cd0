"""What a model of the Llama family is built with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ciuic.errors import ModelFormatError

from .gguf_file import GgufFile
from .huggingface import HuggingFaceFolder
from .kv_cache import SlotShapes
from .rope_config import RopeConfig, folder_rope, gguf_rope


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Parameters of a model of the Llama family, or of one that differs from it in biases alone.

    Parameters
    ----------
    name
        Name of the model, for people.
    dim
        Width of the hidden state.
    hidden_dim
        Width inside the feed-forward part.
    n_layers, n_heads, n_kv_heads
        Counts of layers, of query heads and of key and value heads.
    head_dim
        Width of one head.
    vocab_size
        Number of tokens.
    max_seq_len
        Longest context in tokens.
    rope, rope_interleaved
        What turns queries and keys, and whether their pairs are neighbours (as GGUF stores Llama's
        weights) or half a head apart.
    norm_eps
        Added to the mean square in RMSNorm.
    qkv_bias, o_bias, ffn_bias
        Whether queries, keys and values have biases, attention's output, the feed-forward part.
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
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int
    rope: RopeConfig
    rope_interleaved: bool
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    ffn_bias: bool
    tied: bool

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if type(value) in (int, float) and not 0 < value < math.inf:
                raise ValueError(f"{field} must be positive, not {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads must be a multiple of n_kv_heads ({self.n_kv_heads}), not {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, not {self.head_dim}")

    @property
    def score_scale(self) -> float:
        """What multiplies a query times a key before the softmax."""
        return self.rope.turned_gain / math.sqrt(self.head_dim)

    @property
    def slot_shapes(self) -> SlotShapes:
        """Keys and values of one token, (kv_heads, head_dim) each."""
        return ((self.n_kv_heads, self.head_dim),) * 2

    @property
    def expanded_slot_shapes(self) -> SlotShapes:
        """The same: keys and values are stored."""
        return self.slot_shapes


def llama_config(source: HuggingFaceFolder | GgufFile) -> LlamaConfig:
    """Return the configuration of a folder of type ``llama`` or a GGUF file of that architecture.

    Raises
    ------
    ModelFormatError
        If a key is missing, has the wrong type, or asks for something that is not supported.
    """
    if isinstance(source, GgufFile):
        # The pairs of queries and keys are neighbours: llama.cpp reorders Llama's rows.
        return gguf_config(source, rope_interleaved=True)
    bias = source.keys.boolean("attention_bias", False)
    return folder_config(source, qkv_bias=bias, o_bias=bias)


def folder_config(folder: HuggingFaceFolder, *, qkv_bias: bool, o_bias: bool) -> LlamaConfig:
    """Return what config.json says of a model of this shape."""
    keys = folder.keys
    keys.require("hidden_act", "silu")
    n_heads, dim = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    try:
        return LlamaConfig(
            name=folder.name,
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            n_layers=keys.integer("num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=keys.integer("num_key_value_heads", n_heads),
            head_dim=keys.integer("head_dim", 0) or _head_dim(folder, dim, n_heads),
            vocab_size=keys.integer("vocab_size"),
            max_seq_len=keys.integer("max_position_embeddings"),
            rope=folder_rope(keys),
            rope_interleaved=False,
            norm_eps=keys.number("rms_norm_eps", 1e-6),
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            ffn_bias=keys.boolean("mlp_bias", False),
            tied=keys.boolean("tie_word_embeddings", False),
        )
    except ValueError as error:
        raise ModelFormatError(keys.path, str(error)) from error


def gguf_config(file: GgufFile, *, rope_interleaved: bool) -> LlamaConfig:
    """Return what the metadata of a GGUF file says of a model of this shape.

    The file's tensors tell which biases there are, and whether the head is tied.
    """
    keys = file.keys
    n_heads, dim = keys.integer("attention.head_count"), keys.integer("embedding_length")
    head_dim = keys.integer("attention.key_length", 0) or _head_dim(file, dim, n_heads)
    _refuse_unsupported(file, head_dim)
    try:
        return LlamaConfig(
            name=file.name,
            dim=dim,
            hidden_dim=keys.integer("feed_forward_length"),
            n_layers=keys.integer("block_count"),
            n_heads=n_heads,
            n_kv_heads=keys.integer("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab_size=file.vocab_size,
            max_seq_len=keys.integer("context_length"),
            rope=gguf_rope(keys, file, head_dim // 2),
            rope_interleaved=rope_interleaved,
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            qkv_bias="blk.0.attn_q.bias" in file.tensors,
            o_bias="blk.0.attn_output.bias" in file.tensors,
            ffn_bias="blk.0.ffn_gate.bias" in file.tensors,
            tied="output.weight" not in file.tensors,
        )
    except ValueError as error:
        raise ModelFormatError(file.path, str(error)) from error


def _head_dim(source: HuggingFaceFolder | GgufFile, dim: int, n_heads: int) -> int:
    """Return the width of a head where it is not said: the heads share the channels."""
    if n_heads == 0 or dim % n_heads:
        raise ModelFormatError(source.path, f"{dim} channels do not divide among {n_heads} heads")
    return dim // n_heads


def _refuse_unsupported(file: GgufFile, head_dim: int) -> None:
    """Refuse what would give wrong numbers without a word."""
    rotated = file.keys.integer("rope.dimension_count", head_dim)
    value_dim = file.keys.integer("attention.value_length", head_dim)
    if rotated != head_dim or value_dim != head_dim:
        raise ModelFormatError(
            file.path,
            f"rotary and value widths must be the head's width {head_dim}, "
            f"not {rotated} and {value_dim}",
        )
    if file.keys.integer("expert_count", 0):
        raise ModelFormatError(
            file.path, f"experts are not supported in architecture {file.architecture}"
        )
