"""What a control can reach: output Gramians, prompts of k tokens, and where to act."""

from deltatheory.control.reach.actuators import (
    Ranking,
    rank_actuators,
    rank_layers,
)
from deltatheory.control.reach.controllability import ReachResult, reach
from deltatheory.control.reach.gramian import (
    Gramian,
    LeastEnergy,
    ReachabilityBall,
    estimate_lipschitz,
    minimum_energy,
    output_gramian,
    reachability_ball,
)
from deltatheory.control.reach.parts import coordinate_groups, part_tangent_rows
from deltatheory.control.reach.prefix_bound import PrefixBound, prefix_reach_bound
from deltatheory.control.reach.prompts import PromptSearch

__all__ = [
    "Gramian",
    "LeastEnergy",
    "PrefixBound",
    "PromptSearch",
    "Ranking",
    "ReachResult",
    "ReachabilityBall",
    "coordinate_groups",
    "estimate_lipschitz",
    "minimum_energy",
    "output_gramian",
    "part_tangent_rows",
    "prefix_reach_bound",
    "rank_actuators",
    "rank_layers",
    "reach",
    "reachability_ball",
]
