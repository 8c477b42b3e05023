"""The frozen layers as a dynamical system, and a delta as its control."""

from deltatheory.control.design import ControlResult, design_controller
from deltatheory.control.diagnosis import Diagnosis, diagnose
from deltatheory.control.feedback import SteeringResult, steer
from deltatheory.control.pontryagin import (
    MaximumPrinciple,
    costates,
    hamiltonian,
    maximum_principle,
    stationarity,
)
from deltatheory.control.reach import (
    Gramian,
    estimate_lipschitz,
    minimum_energy,
    output_gramian,
    prefix_reach_bound,
    rank_actuators,
    rank_layers,
    reachability_ball,
)
from deltatheory.control.solvers import SOLVERS, Solution, Status, lqr, solve
from deltatheory.control.systems import (
    AnalyticSystem,
    ConstrainedSystem,
    LayeredSystem,
    Linearization,
    LinearMap,
    System,
    Trajectory,
)

__all__ = [
    "SOLVERS",
    "AnalyticSystem",
    "ConstrainedSystem",
    "ControlResult",
    "Diagnosis",
    "Gramian",
    "LayeredSystem",
    "LinearMap",
    "Linearization",
    "MaximumPrinciple",
    "Solution",
    "Status",
    "SteeringResult",
    "System",
    "Trajectory",
    "costates",
    "design_controller",
    "diagnose",
    "estimate_lipschitz",
    "hamiltonian",
    "lqr",
    "maximum_principle",
    "minimum_energy",
    "output_gramian",
    "prefix_reach_bound",
    "rank_actuators",
    "rank_layers",
    "reachability_ball",
    "solve",
    "stationarity",
    "steer",
]
