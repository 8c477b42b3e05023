"""The network linearized at δ = 0: rows of its Jacobian, kernels, ridge fits and runs in subspaces."""

from deltatheory.linearization.error import linearization_error, relative_error
from deltatheory.linearization.factors import TangentKernel, tangent_kernels
from deltatheory.linearization.outputs import (
    LinearizationStart,
    Outputs,
    differences,
    random_contrast,
)
from deltatheory.linearization.ridge import RIDGES, cross_fitted_logits, fit_path
from deltatheory.linearization.selection import Selection, greedy_log_det, log_det_gain
from deltatheory.linearization.subspace_training import (
    LinearizedRuns,
    kernel_root,
    random_subspaces,
    train_linearized,
)
from deltatheory.linearization.tangent import TangentRows, joint_tangent_rows, tangent_rows

__all__ = [
    "RIDGES",
    "LinearizationStart",
    "LinearizedRuns",
    "Outputs",
    "Selection",
    "TangentKernel",
    "TangentRows",
    "cross_fitted_logits",
    "differences",
    "fit_path",
    "greedy_log_det",
    "joint_tangent_rows",
    "kernel_root",
    "linearization_error",
    "log_det_gain",
    "random_contrast",
    "random_subspaces",
    "relative_error",
    "tangent_kernels",
    "tangent_rows",
    "train_linearized",
]
