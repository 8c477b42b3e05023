"""The frozen layers as a dynamical system, and a delta as its control."""

from deltatheory.control.actuators import greedy_log_det, rank_actuators, rank_layers
from deltatheory.control.analytic import AnalyticSystem
from deltatheory.control.design import ControlResult, design_controller
from deltatheory.control.diagnosis import Diagnosis, diagnose, diagnose_task
from deltatheory.control.layered import LayeredSystem
from deltatheory.control.pontryagin import (
    MaximumPrinciple,
    costates,
    hamiltonian,
    maximum_principle,
    stationarity,
)
from deltatheory.control.prompt_reachability import prefix_reach_bound
from deltatheory.control.reachability import (
    Gramian,
    estimate_lipschitz,
    minimum_energy,
    output_gramian,
    reachability_ball,
)
from deltatheory.control.riccati import lqr
from deltatheory.control.robustness import steer_task
from deltatheory.control.solution import Solution, Status
from deltatheory.control.solve import SOLVERS, solve
from deltatheory.control.steering import SteeringResult, steer
from deltatheory.control.system import Linearization, LinearMap, System, Trajectory

__all__ = [
    "SOLVERS",
    "AnalyticSystem",
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
    "diagnose_task",
    "estimate_lipschitz",
    "greedy_log_det",
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
    "steer_task",
]
