"""What a model is built with: one frozen value, read from the metadata of its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ciuic.errors import ModelFormatError

from .gguf_file import GgufFile, Value
from .kv_cache import SlotShapes


class ModelConfig(Protocol):
    """What every family's configuration tells."""

    @property
    def name(self) -> str:
        """Name of the model, for people."""

    @property
    def dim(self) -> int:
        """Width of the hidden state."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    @property
    def max_seq_len(self) -> int:
        """Longest context in tokens."""

    @property
    def norm_eps(self) -> float:
        """Added to the mean square in RMSNorm."""

    @property
    def slot_shapes(self) -> SlotShapes:
        """What a layer's cache holds of one token."""

    @property
    def expanded_slot_shapes(self) -> SlotShapes:
        """Keys and values of one token for every head, as a cache without latents holds them."""


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Parameters of a model of the Llama family.

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
    rope_theta
        Base of the rotary frequencies.
    rope_interleaved
        Whether the rotary pairs are neighbours (as GGUF stores Llama's weights) or half a head
        apart.
    norm_eps
        Added to the mean square in RMSNorm.

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
    rope_theta: float
    rope_interleaved: bool
    norm_eps: float

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if type(value) in (int, float) and not value > 0:
                raise ValueError(f"{field} must be positive, not {value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads must be a multiple of n_kv_heads ({self.n_kv_heads}), not {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, not {self.head_dim}")

    @property
    def slot_shapes(self) -> SlotShapes:
        """Keys and values of one token, (kv_heads, head_dim) each."""
        return ((self.n_kv_heads, self.head_dim),) * 2

    @property
    def expanded_slot_shapes(self) -> SlotShapes:
        """Keys and values of one token: the cache holds no latents."""
        return self.slot_shapes


def llama_config(file: GgufFile) -> LlamaConfig:
    """Return the configuration in the metadata of a GGUF file of architecture ``llama``.

    Raises
    ------
    ModelFormatError
        If a key is missing, has the wrong type, or asks for something that is not supported.
    """
    keys = _Keys(file)
    n_heads = keys.integer("llama.attention.head_count")
    dim = keys.integer("llama.embedding_length")
    if "llama.attention.key_length" not in file.metadata and dim % n_heads:
        raise ModelFormatError(file.path, f"{dim} channels do not divide among {n_heads} heads")
    head_dim = keys.integer("llama.attention.key_length", dim // n_heads)
    _refuse_unsupported(file, keys, head_dim)
    try:
        return LlamaConfig(
            name=str(file.metadata.get("general.name", Path(file.path).stem)),
            dim=dim,
            hidden_dim=keys.integer("llama.feed_forward_length"),
            n_layers=keys.integer("llama.block_count"),
            n_heads=n_heads,
            n_kv_heads=keys.integer("llama.attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab_size=keys.length("tokenizer.ggml.tokens"),
            max_seq_len=keys.integer("llama.context_length"),
            rope_theta=keys.number("llama.rope.freq_base", 10000.0),
            rope_interleaved=True,
            norm_eps=keys.number("llama.attention.layer_norm_rms_epsilon"),
        )
    except ValueError as error:
        raise ModelFormatError(file.path, str(error)) from error


def _refuse_unsupported(file: GgufFile, keys: _Keys, head_dim: int) -> None:
    """Refuse what would give wrong numbers without a word."""
    rotated = keys.integer("llama.rope.dimension_count", head_dim)
    value_dim = keys.integer("llama.attention.value_length", head_dim)
    if rotated != head_dim or value_dim != head_dim:
        raise ModelFormatError(
            file.path,
            f"rotary and value widths must be the head's width {head_dim}, "
            f"not {rotated} and {value_dim}",
        )
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in file.tensors:
        raise ModelFormatError(file.path, f"rotary scaling ({scaling}) is not supported")
    if file.metadata.get("llama.expert_count", 0):
        raise ModelFormatError(file.path, "experts are not supported in architecture llama")


class _Keys:
    """Typed access to metadata."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file

    def _get(self, key: str, default: Value | None) -> Value:
        value = self._file.metadata.get(key, default)
        if value is None:
            raise ModelFormatError(self._file.path, f"key {key} is missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self._get(key, default)
        if type(value) is not int or value <= 0:
            raise ModelFormatError(
                self._file.path, f"key {key} must be a positive integer, not {value!r}"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._get(key, default)
        if type(value) not in (int, float):
            raise ModelFormatError(self._file.path, f"key {key} must be a number, not {value!r}")
        return float(value)  # type: ignore[arg-type]

    def length(self, key: str) -> int:
        """Return the length of a list."""
        value = self._get(key, None)
        if not isinstance(value, list):
            raise ModelFormatError(self._file.path, f"key {key} must be a list")
        return len(value)
