"""What the configurations of all families tell."""

from __future__ import annotations

from typing import Protocol

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
        """What it would hold if keys and values of every head were stored."""
