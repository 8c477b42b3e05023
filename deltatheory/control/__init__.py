"""The frozen layers as a dynamical system, and a delta as its control."""

from deltatheory.control.design import ControlResult, design_controller
from deltatheory.control.diagnosis import Diagnosis, diagnose, diagnose_task
from deltatheory.control.feedback.robustness import steer_task
from deltatheory.control.feedback.steering import SteeringResult, steer
from deltatheory.control.pontryagin import (
    MaximumPrinciple,
    costates,
    hamiltonian,
    maximum_principle,
    stationarity,
)
from deltatheory.control.reach.actuators import rank_actuators, rank_layers
from deltatheory.control.reach.gramian import (
    Gramian,
    estimate_lipschitz,
    minimum_energy,
    output_gramian,
    reachability_ball,
)
from deltatheory.control.reach.prompts import prefix_reach_bound
from deltatheory.control.solvers.riccati import lqr
from deltatheory.control.solvers.solution import Solution, Status
from deltatheory.control.solvers.solve import SOLVERS, solve
from deltatheory.control.systems.analytic import AnalyticSystem
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.control.systems.system import Linearization, LinearMap, System, Trajectory

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
