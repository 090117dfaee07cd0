"""The scheduler: what runs where. It decides by values alone; only `executor` touches devices.

In reading order: `problem` (what placement decides on); `chain`, `split` with `milp`, `dag` and
`stages` (how it decides); `cost` (the seconds that it decides by), `plan` (what was decided),
`placement` (what a user asks for instead), `executor` (does it), `trace` (keeps count).
`exhaustive` is for measuring how good the decisions are.
"""

from .chain import place_chain
from .dag import place_dag
from .milp import place_split
from .placement import Placement, parse_placement
from .plan import Plan, Step
from .problem import Assignment, ChainProblem, DagProblem
from .split import Part, Split, SplitProblem

__all__ = [
    "Assignment",
    "ChainProblem",
    "DagProblem",
    "Part",
    "Placement",
    "Plan",
    "Split",
    "SplitProblem",
    "Step",
    "parse_placement",
    "place_chain",
    "place_dag",
    "place_split",
]
