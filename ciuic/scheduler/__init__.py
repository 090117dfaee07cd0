"""The scheduler: `cost`, `placement` and `plan` decide, `executor` does, `trace` keeps count."""

from .placement import Placement, chain_with_room, cheapest_chain, parse_placement
from .plan import Plan, Step

__all__ = ["Placement", "Plan", "Step", "chain_with_room", "cheapest_chain", "parse_placement"]
