"""Linearized training by convex fits: kernel-ridge logistic regression, judged on held-out folds.

With a kernel K of one output at δ = 0 (`tangent.py`) the linearized logits of class c are z_c = z⁰_c + ½Kα_c:
those of margins, as (0, m), where m = m₀ + Kα_1, or those of all classes with the kernel of a contrast. The
best ridge stands for the best learning rate and number of steps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory._threads import one_thread
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.problems.folds import folds

__all__ = ["FOLDS", "RIDGES", "cross_fitted_logits", "fit_path"]

FOLDS = 4
RIDGES = 10.0 ** np.arange(2, -5, -1)  # λ in units of the kernel's mean diagonal
_CURVATURE = 0.03  # of the loss in a logit, about: p (1 - p) of an example that is fitted
_UNTIL = {"gtol": 1e-6, "ftol": 1e-15, "maxiter": 1000}


@one_thread()
def cross_fitted_logits(kernel: Float[Tensor, "n n"], start: LinearizationStart) -> Float[Tensor, "r n C"]:
    """Return the logits that each of `RIDGES` gives to each example when it is held out.

    Args:
        kernel: K.
        start: z⁰, the labels and ℓ, in float64 on the CPU.
    """
    logits = start.logits.repeat(len(RIDGES), 1, 1)
    for kept, held in folds(len(start), FOLDS):
        alphas = fit_path(kernel[kept][:, kept], start.subset(kept))
        logits[:, held] += kernel[held][:, kept] @ alphas / 2
    return logits


@one_thread()
def fit_path(kernel: Float[Tensor, "n n"], start: LinearizationStart) -> Float[Tensor, "r n C"]:
    """Return α of min Σ ℓ(z⁰ + ½Kα) + λ/4 Σ_c α_cᵀKα_c for each of `RIDGES`, by L-BFGS from the last.

    At the minimum λα = -∂ℓ/∂z, which is y - softmax(z⁰ + ½Kα) for cross-entropy.

    Args:
        kernel: K.
        start: z⁰, the labels and ℓ, in float64 on the CPU.

    >>> zeros = torch.zeros(3, 2, dtype=torch.float64)
    >>> start = LinearizationStart(zeros, torch.tensor([0, 1, 1]), zeros)
    >>> alphas = fit_path(torch.zeros(3, 3, dtype=torch.float64), start)  # K = 0: α = (y - softmax(z⁰))/λ
    >>> torch.allclose(alphas * torch.from_numpy(RIDGES)[:, None, None], start.residual())
    True
    """
    n, loss, labels = len(start), start.loss, start.labels
    scale = float(kernel.trace()) / n or 1.0  # a delta that does nothing has K = 0
    values, vectors = torch.linalg.eigh(kernel / scale)
    values = values.clamp(min=0) / 2
    w, path = torch.zeros(start.logits.shape[1], n, dtype=values.dtype), []
    for ridge in RIDGES:
        unit = (ridge + _CURVATURE * values).rsqrt()  # of w, in which curvature is about the same everywhere
        weights = ridge * unit.square()
        # z = z⁰ + (u rowsᵀ)ᵀ: a few long rows on the left of a product take a third of the time of columns.
        rows = (vectors * (values.sqrt() * unit)).contiguous()
        columns = rows.T.contiguous()

        def logits_at(u: Tensor, columns: Tensor = columns) -> Tensor:
            return start.logits + (u @ columns).T

        def objective(
            x: np.ndarray, rows: Tensor = rows, weights: Tensor = weights
        ) -> tuple[float, np.ndarray]:
            u = torch.from_numpy(x).view(-1, n)
            logits, pull = logits_at(u), weights * u
            gradient = pull - loss.residual(logits, labels).T @ rows
            return float(loss.total(logits, labels) + (pull * u).sum() / 2), gradient.flatten().numpy()

        found = minimize(objective, (w / unit).flatten().numpy(), method="L-BFGS-B", jac=True, options=_UNTIL)
        u = torch.from_numpy(found.x).view(-1, n)
        w = u * unit
        path.append(loss.residual(logits_at(u), labels) / (ridge * scale))  # wᵀ = rowsᵀα there
    return torch.stack(path)
