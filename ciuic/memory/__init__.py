"""Memory: tensors that are used again, and which weights lie where."""

from .pool import TensorPool
from .tiers import MemoryHierarchy, Tier, TierUsage

__all__ = ["MemoryHierarchy", "TensorPool", "Tier", "TierUsage"]
