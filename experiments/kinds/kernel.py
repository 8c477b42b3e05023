"""Predict score, speed and rank from the kernels of several deltas, and sketch one for angles of tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.environment import Environment
from experiments.trial import Trial

if TYPE_CHECKING:
    from deltatheory.linearization import TangentKernel, TangentRows

EXAMPLE = Trial(
    "kernel",
    "",
    "",
    settings={
        "max_length": 12,
        "deltas": ["lora:2", "bitfit", "prefix:2"],
        "options": {},
        "sketched": "lora:2",
    },
)
# Sizes of the sketches of JᵀJ and of the gradient.
_TANGENT, _GRADIENT = 48, 256
_SKETCH = 2048
_CHUNK = 32  # examples of a batch of the gradient


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Predict from the kernels of several deltas at δ = 0: score, speed, rank; and sketch one by its rows.

    The kernels are those of a contrast of the logits, by factors. The speed is that of gradient flow on the
    squared loss: with eigenpairs (λ_i, u_i) of K and the residuals r_c it is the least t with
    Σ (u_i·r_c)² exp(-2λ_i t) ≤ Σ (u_i·r_c)²/10, in units of n/tr K.
    """
    from deltatheory.linearization import tangent_kernels, tangent_rows

    deltas = deltas_of(trial, trial.settings["deltas"], place)
    problem = place.problem(trial, deltas[trial.settings["sketched"]])
    of = {"train": len(problem.train), "test": 0, "outputs": "contrast", "sketch": _SKETCH}
    kernels = tangent_kernels(problem, list(deltas.values()), **of)
    rows = tangent_rows(problem, seed=trial.seed, **of)
    sketches = _sketches(rows, _gradient(problem))
    start = kernels[0].start.double()
    return {
        "frozen": float(start.solved(start.logits).double().mean()),
        "predicted": {label: _predicted(kernel) for label, kernel in zip(deltas, kernels, strict=True)},
        "passes": kernels[0].passes + problem.passes,
        "seconds": kernels[0].seconds + rows.seconds,
        **sketches,
    }


def deltas_of(trial: Trial, labels: Iterable[str], place: Environment) -> dict[str, Any]:
    """Return the deltas of these labels, with the trial's options of their methods."""
    options, setup = trial.settings["options"], place.setup(trial)
    return {label: setup.delta(label, **options.get(label.partition(":")[0], {})) for label in labels}


def _predicted(kernel: TangentKernel) -> dict[str, Any]:
    from deltatheory.linearization.ridge import cross_fitted_logits

    gram, start = kernel.kernel(), kernel.start.double()
    solved = start.solved(cross_fitted_logits(gram, start)).double()
    values, vectors = np.linalg.eigh(gram.numpy())
    values = np.clip(values, 0, None)
    mean = float(values.mean()) or 1.0
    return {
        "score": float(solved.mean(1).max()),
        "trace": mean,
        "effective_rank": float(values.sum() ** 2 / max((values**2).sum(), 1e-30)),
        "time": _time(values / mean, ((vectors.T @ start.residual().numpy()) ** 2).sum(1)),
    }


def _gradient(problem: Any) -> Any:
    """Return -∇L at δ = 0, L being the total loss of the training examples."""
    count = len(problem.train)
    parts = (range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK))
    batches = (problem.batch(problem.train, part) for part in parts)
    found = problem.sum_with_gradient(problem.delta.initial(), batches)
    problem.restore()
    return -found.gradient


def _sketches(features: TangentRows, gradient: Any) -> dict[str, list[float]]:
    """Return sketches of JᵀJ and of the gradient, of norm 1: their inner products are those of two tasks."""
    rows = features.rows[:, 0].double().cpu().numpy()
    lot = np.random.default_rng(0)
    tangent = rows @ lot.standard_normal((rows.shape[1], _TANGENT))
    fisher = tangent.T @ tangent
    if features.sketch:
        gradient = features.sketch.adjoint(gradient)
    gradient = gradient.double().cpu().numpy() @ lot.standard_normal((rows.shape[1], _GRADIENT))
    upper = np.triu_indices(_TANGENT)
    weights = np.where(upper[0] == upper[1], 1.0, math.sqrt(2.0))
    return {
        "tangent": _rounded(weights * fisher[upper] / np.linalg.norm(fisher)),
        "gradient": _rounded(gradient / np.linalg.norm(gradient)),
    }


def _time(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return when a tenth of Σ weights is left; `None` where the kernel cannot move so much of it."""
    from scipy.optimize import brentq

    def left(log_time: float) -> float:
        return float(weights @ np.exp(-2 * values * math.exp(log_time)) / weights.sum()) - 0.1

    return None if left(20.0) > 0 else math.exp(brentq(left, -20.0, 20.0))


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{x:.4g}") for x in values]
