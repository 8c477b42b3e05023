"""Linearized training by convex fits: kernel-ridge logistic regression, judged on held-out folds.

With a kernel K of one output at δ = 0 (`tangent.py`) the linearized logits of class c are z_c = z⁰_c + ½Kα_c:
those of margins, as (0, m), where m = m₀ + Kα_1, or those of all classes with the kernel of a contrast. The
best ridge stands for the best learning rate and number of steps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.problems.folds import folds

__all__ = ["FOLDS", "RIDGES", "cross_fitted_logits", "fit_path"]

FOLDS = 4
RIDGES = 10.0 ** np.arange(2, -5, -1)  # λ in units of the kernel's mean diagonal
_UNTIL = {"gtol": 1e-6, "ftol": 1e-15, "maxiter": 1000}


def cross_fitted_logits(kernel: Float[Tensor, "n n"], start: LinearizationStart) -> Float[Tensor, "r n C"]:
    """Return the logits that each of `RIDGES` gives to each example when it is held out.

    Args:
        kernel: K.
        start: z⁰ and the labels, in float64 on the CPU.
    """
    logits = start.logits.repeat(len(RIDGES), 1, 1)
    for kept, held in folds(len(start), FOLDS):
        alphas = fit_path(kernel[kept][:, kept], start.subset(kept))
        logits[:, held] += kernel[held][:, kept] @ alphas / 2
    return logits


def fit_path(kernel: Float[Tensor, "n n"], start: LinearizationStart) -> Float[Tensor, "r n C"]:
    """Return α of min Σ CE(z⁰ + ½Kα) + λ/4 Σ_c α_cᵀKα_c for each of `RIDGES`, by L-BFGS from the last.

    At the minimum λα = y - softmax(z⁰ + ½Kα).

    Args:
        kernel: K.
        start: z⁰ and the labels, in float64 on the CPU.

    >>> zeros = torch.zeros(3, 2, dtype=torch.float64)
    >>> start = LinearizationStart(zeros, torch.tensor([0, 1, 1]), zeros)
    >>> alphas = fit_path(torch.zeros(3, 3, dtype=torch.float64), start)  # K = 0: α = (y - softmax(z⁰))/λ
    >>> torch.allclose(alphas * torch.from_numpy(RIDGES)[:, None, None], start.residual())
    True
    """
    n, labels = len(start), start.labels.numpy()
    # A delta that does nothing has K = 0.
    scale = float(kernel.trace()) / n or 1.0
    values, vectors = np.linalg.eigh(kernel.numpy() / scale)
    rows = vectors * np.sqrt(np.clip(values, 0, None) / 2)  # z = z⁰ + rows @ w
    at_zero = start.logits.numpy()
    right = np.eye(at_zero.shape[1])[labels]

    def residual(logits: np.ndarray) -> np.ndarray:
        return right - np.exp(log_softmax(logits, axis=1))

    def objective(w: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        w = w.reshape(n, -1)
        logits = at_zero + rows @ w
        loss = -log_softmax(logits, axis=1)[np.arange(n), labels].sum() + ridge / 2 * np.square(w).sum()
        return float(loss), (ridge * w - rows.T @ residual(logits)).ravel()

    w, path = np.zeros(at_zero.size), []
    for ridge in RIDGES:
        w = minimize(objective, w, (ridge,), "L-BFGS-B", jac=True, options=_UNTIL).x
        path.append(residual(at_zero + rows @ w.reshape(n, -1)) / (ridge * scale))  # w = rowsᵀα there
    return torch.from_numpy(np.stack(path))
