"""The network linearized at δ = 0: rows of its Jacobian, kernels, ridge fits and runs in subspaces."""

from deltatheory.linearization.tangent import TangentRows, joint_tangent_rows, tangent_rows

__all__ = ["TangentRows", "joint_tangent_rows", "tangent_rows"]
