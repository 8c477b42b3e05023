"""Linearized training by convex fits: kernel-ridge logistic regression on margins, judged on held-out folds.

With the kernel K of the margins m at δ = 0 (`kernel.py`, outputs="margin") the linearized margins are
m₀ + Kα, and the loss of an example is softplus(-m). The best ridge stands for the best learning rate and
number of steps. With more than two classes held-out scores are optimistic, as `kernel.py` says: they serve to
compare deltas on the same examples.
"""

from __future__ import annotations

import numpy as np

from deltatheory._shapes import Float

__all__ = ["FOLDS", "RIDGES", "cross_fit", "fit_path", "folds"]

FOLDS = 4
RIDGES = 10.0 ** np.arange(2, -5, -1)  # λ in units of the kernel's mean diagonal


def folds(examples: int) -> list[np.ndarray]:
    """Return the indices of each fold: every FOLDS-th example."""
    return [np.arange(k, examples, FOLDS) for k in range(min(FOLDS, examples))]


def cross_fit(kernel: Float[np.ndarray, "n n"], start: Float[np.ndarray, " n"]) -> Float[np.ndarray, "r n"]:
    """Return the margins that each ridge gives to each example when it is held out.

    Args:
        kernel: K.
        start: m₀.
    """
    margins = np.empty((len(RIDGES), len(start)))
    for held in folds(len(start)):
        kept = np.setdiff1d(np.arange(len(start)), held)
        for k, alpha in enumerate(fit_path(kernel[np.ix_(kept, kept)], start[kept])):
            margins[k, held] = start[held] + kernel[np.ix_(held, kept)] @ alpha
    return margins


def fit_path(kernel: Float[np.ndarray, "n n"], start: Float[np.ndarray, " n"]) -> list[np.ndarray]:
    """Return α of min Σ softplus(-(m₀ + Kα)) + nλ/2 αᵀKα for each ridge, by Newton's method from the last.

    Args:
        kernel: K.
        start: m₀.
    """
    n, scale = len(start), float(np.trace(kernel)) / len(start) or 1.0  # a delta that does nothing has K = 0
    alpha, path = np.zeros(n), []
    for weight in RIDGES * scale:

        def objective(alpha: np.ndarray, weight: float = weight) -> float:
            change = kernel @ alpha
            return float(np.logaddexp(0, -(start + change)).sum() + weight / 2 * alpha @ change)

        value = objective(alpha)
        for _ in range(50):
            p = 1 / (1 + np.exp(np.clip(start + kernel @ alpha, -50, 50)))
            curvature = weight * np.eye(n) + (p * (1 - p))[:, None] * kernel
            step = np.linalg.solve(curvature, p - weight * alpha)
            size = 1.0
            while (new := objective(alpha + size * step)) > value and size > 1e-6:
                size /= 2
            alpha, gain, value = alpha + size * step, value - new, new
            if gain < 1e-6 * n:
                break
        path.append(alpha)
    return path
