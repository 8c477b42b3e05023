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
    # z = z⁰ + (w rowsᵀ)ᵀ: a few long rows on the left of a product take a third of the time of columns.
    rows = (vectors * (values.clamp(min=0) / 2).sqrt()).contiguous()
    columns = rows.T.contiguous()

    def logits_at(w: np.ndarray) -> Tensor:
        return start.logits + (torch.from_numpy(w).view(-1, n) @ columns).T

    def objective(w: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        logits = logits_at(w)
        downhill = (loss.residual(logits, labels).T @ rows).flatten().numpy()
        return float(loss.total(logits, labels)) + ridge / 2 * float(w @ w), ridge * w - downhill

    w, path = np.zeros(start.logits.numel()), []
    for ridge in RIDGES:
        w = minimize(objective, w, (ridge,), "L-BFGS-B", jac=True, options=_UNTIL).x
        path.append(loss.residual(logits_at(w), labels) / (ridge * scale))  # wᵀ = rowsᵀα there
    return torch.stack(path)
