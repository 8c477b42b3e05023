"""Controlled systems: the layers of a network as time steps, and small systems given as functions."""

from deltatheory.control.systems.analytic import AnalyticSystem, Derivatives
from deltatheory.control.systems.constrained import ConstrainedSystem
from deltatheory.control.systems.examples import attention_head, cart_pole, linear_quadratic, pendulum
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.control.systems.system import Linearization, LinearMap, System, Trajectory

__all__ = [
    "AnalyticSystem",
    "ConstrainedSystem",
    "Derivatives",
    "LayeredSystem",
    "LinearMap",
    "Linearization",
    "System",
    "Trajectory",
    "attention_head",
    "cart_pole",
    "linear_quadratic",
    "pendulum",
]
