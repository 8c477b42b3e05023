"""Linearized training by convex fits: kernel-ridge logistic regression, judged on held-out folds.

With a kernel K of one output at δ = 0 (`tangent.py`) the linearized logits of class c are z_c = z⁰_c + ½Kα_c:
those of margins, as (0, m), where m = m₀ + Kα_1, or those of all classes with the kernel of a contrast. The
best ridge stands for the best learning rate and number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from deltatheory._shapes import Bool, Float, Int
from deltatheory.linearization.tangent import TangentRows

__all__ = ["FOLDS", "RIDGES", "LinearizationStart", "cross_fitted_logits", "fit_path", "folds", "residual"]

FOLDS = 4
_UNTIL = {"gtol": 1e-6, "ftol": 1e-15, "maxiter": 1000}
RIDGES = 10.0 ** np.arange(2, -5, -1)  # λ in units of the kernel's mean diagonal


@dataclass(frozen=True, eq=False)
class LinearizationStart:
    """Where fits begin, and when they solve an example.

    Attributes:
        logits: z⁰, those at δ = 0, shape (n, C); (0, m₀) for margins.
        judging_offset: what is added to logits before they are judged, shape (n, C).
        labels: the classes, shape (n,); 1 for margins.
    """

    logits: Float[np.ndarray, "n C"]
    judging_offset: Float[np.ndarray, "n C"]
    labels: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, features: TangentRows) -> LinearizationStart:
        """Take them from the training examples of features."""
        used = slice(features.train)
        logits, offset = (x[used].double().cpu().numpy() for x in (features.logits, features.judging_offset))
        return cls(logits, offset, features.labels[used].cpu().numpy())

    def solved(self, logits: Float[np.ndarray, "*r n C"]) -> Bool[np.ndarray, "*r n"]:
        """Return which examples some logits solve."""
        return (logits + self.judging_offset).argmax(-1) == self.labels

    def residual(self) -> Float[np.ndarray, "n C"]:
        """Return y - softmax(z⁰)."""
        return residual(self.logits, self.labels)


def folds(examples: int) -> list[np.ndarray]:
    """Return the indices of each fold: every FOLDS-th example."""
    return [np.arange(k, examples, FOLDS) for k in range(min(FOLDS, examples))]


def cross_fitted_logits(
    kernel: Float[np.ndarray, "n n"], start: Float[np.ndarray, "n C"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "r n C"]:
    """Return the logits that each ridge gives to each example when it is held out.

    Args:
        kernel: K.
        start: z⁰.
        labels: the classes.
    """
    logits = np.empty((len(RIDGES), *start.shape))
    for held in folds(len(start)):
        kept = np.setdiff1d(np.arange(len(start)), held)
        for k, alpha in enumerate(fit_path(kernel[np.ix_(kept, kept)], start[kept], labels[kept])):
            logits[k, held] = start[held] + kernel[np.ix_(held, kept)] @ alpha / 2
    return logits


def fit_path(
    kernel: Float[np.ndarray, "n n"], start: Float[np.ndarray, "n C"], labels: Int[np.ndarray, " n"]
) -> list[Float[np.ndarray, "n C"]]:
    """Return α of min Σ CE(z⁰ + ½Kα) + λ/4 Σ_c α_cᵀKα_c for each ridge, by L-BFGS from the last.

    Args:
        kernel: K.
        start: z⁰.
        labels: the classes.
    """
    n, scale = len(start), float(np.trace(kernel)) / len(start) or 1.0  # a delta that does nothing has K = 0
    values, vectors = np.linalg.eigh(kernel / scale)
    rows = vectors * np.sqrt(np.clip(values, 0, None) / 2)  # z = z⁰ + rows @ w

    def objective(w: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        w = w.reshape(n, -1)
        logits = start + rows @ w
        loss = -log_softmax(logits, axis=1)[np.arange(n), labels].sum() + ridge / 2 * np.square(w).sum()
        return float(loss), (ridge * w - rows.T @ residual(logits, labels)).ravel()

    w, path = np.zeros(start.size), []
    for ridge in RIDGES:
        w = minimize(objective, w, (ridge,), "L-BFGS-B", jac=True, options=_UNTIL).x
        path.append(residual(start + rows @ w.reshape(n, -1), labels) / (ridge * scale))  # w = rowsᵀα there
    return path


def residual(logits: Float[np.ndarray, "n C"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n C"]:
    """Return y - softmax(z), the loss's gradient downhill."""
    return np.eye(logits.shape[1])[labels] - np.exp(log_softmax(logits, axis=1))
