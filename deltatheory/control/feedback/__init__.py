"""Feedback through forward hooks: setpoints, controllers, disturbances, and what is given back."""

from deltatheory.control.feedback.controllers import PID, Controller, LQRFeedback, lqr_gains, steered
from deltatheory.control.feedback.disturbances import DISTURBANCES, Disturbance, make_disturbance
from deltatheory.control.feedback.policies import GRIDS, POLICIES, Policy, make_policy
from deltatheory.control.feedback.robust_prefix import RobustPrefix
from deltatheory.control.feedback.setpoints import (
    SETPOINTS,
    NominalStates,
    Setpoint,
    make_setpoint,
    nominal_states,
)
from deltatheory.control.feedback.steering import (
    SteeringProtocol,
    SteeringResult,
    steer,
    tune_policy,
    tuned_delta,
)

__all__ = [
    "DISTURBANCES",
    "GRIDS",
    "PID",
    "POLICIES",
    "SETPOINTS",
    "Controller",
    "Disturbance",
    "LQRFeedback",
    "NominalStates",
    "Policy",
    "RobustPrefix",
    "Setpoint",
    "SteeringProtocol",
    "SteeringResult",
    "lqr_gains",
    "make_disturbance",
    "make_policy",
    "make_setpoint",
    "nominal_states",
    "steer",
    "steered",
    "tune_policy",
    "tuned_delta",
]
