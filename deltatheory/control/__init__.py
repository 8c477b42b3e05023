"""The frozen layers as a dynamical system, and a delta as its control."""

from deltatheory.control.solution import Solution, Status
from deltatheory.control.system import Linearization, LinearMap, System, Trajectory

__all__ = ["LinearMap", "Linearization", "Solution", "Status", "System", "Trajectory"]
