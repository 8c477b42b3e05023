"""d90 before any training: from the tangent kernel at δ = 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from deltatheory.deltas import Delta
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.search import log_grid
from deltatheory.linearization.error import relative_error
from deltatheory.linearization.subspace_training import kernel_root, random_subspaces, train_linearized
from deltatheory.linearization.tangent import TangentRows, tangent_rows
from deltatheory.problems import FORWARD, ClassificationProblem, Split, epochs, folds
from deltatheory.training.trainer import Training

__all__ = ["LEARNING_RATES", "Prediction", "level_crossing", "predict"]

# Rates for δ under an isometric P: with unit-norm columns one serves all d near d90.
LEARNING_RATES = (0.3, 1.0)
FOLDS = 8
_BURN_IN_RATE = 2e-4
_SKETCH = 4096
_BOOTSTRAP = 1000
# Spread of ln(measured/predicted) that linearization itself leaves, beside sampling: a factor of 2 at 90 %.
_MODEL_SPREAD = 0.42
_TRUSTED_ERROR = 0.5  # relative error of the linearized margins above which the interval is widened
_TRUSTED_MOVEMENT = 0.5  # ‖Δθ‖/‖θ₀‖ above which it is


@dataclass(frozen=True)
class Prediction:
    """What the kernel says of d90.

    Attributes:
        d90: the estimate, its interval and status.
        level: the accuracy to reach, 0.9 of the predicted baseline by default.
        baseline: the predicted accuracy without a limit on d.
        frozen: accuracy of the frozen model on the kernel's examples, which a fitted head has not seen.
        learning_rate: the one of `LEARNING_RATES` with the better held-out accuracy near d90.
        curve: one row for each d and fold.
        diagnostics: rank, movement, linearization error, and sentences in "missed" and "checked".
        passes: forward-equivalents.
        seconds: time taken.
    """

    d90: DimensionEstimate
    level: float
    baseline: float
    frozen: float
    learning_rate: float
    curve: list[CurvePoint]
    diagnostics: dict[str, Any]
    passes: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a result log."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Prediction:
        """Return the prediction that `to_dict` was called on."""
        curve = [CurvePoint(**point) for point in values["curve"]]
        return cls(**{**values, "d90": DimensionEstimate(**values["d90"]), "curve": curve})


@dataclass(frozen=True, eq=False)
class _Curves:
    """Cross-fitted runs: solved[i, e] for dimension i and example e, held out in the run that judged it."""

    grid: list[int]
    solved: np.ndarray
    movement: np.ndarray
    points: list[CurvePoint]


def predict(
    problem: ClassificationProblem,
    alternatives: Callable[[int, int], Delta],
    criterion: Criterion,
    training: Training,
    *,
    examples: int,
    chance: float,
    burn_in: int = 0,
    on_example: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict d90 by training the linearized network in random subspaces of every dimension.

    Kernel rows of `examples` training examples are computed once. They are split into eight folds; each fold
    is held out once, from runs in a random subspace of their own, at each of `LEARNING_RATES`. The curve is
    the mean over the rates: choosing one by its accuracy would favour whichever noise flatters. No test
    example and no label outside the training split is used.

    Args:
        problem: with `FullFineTuning` as its delta.
        alternatives: (d, seed) ↦ the subspace delta whose linearization is checked against the network.
        criterion: what counts as solved.
        training: the step budget and batch size to predict for; its learning rate is not used.
        examples: training examples to compute kernel rows of, a backward pass for each class but one.
        chance: majority rate, for a corrected criterion.
        burn_in: linearize after so many steps of full fine-tuning instead of at θ₀; the linearized network
            still starts at the frozen model's outputs. The kernel has then seen labels of held-out
            examples, so a few steps, well under an epoch, are the most that stays a prediction.
        on_example: called with (done, total).
    """
    began, before = time.perf_counter(), problem.passes
    if burn_in and burn_in * training.batch_size > len(problem.train):
        raise ValueError(
            f"burn_in={burn_in}: with batches of {training.batch_size} that is more than one epoch of "
            f"{len(problem.train)} examples; at most {len(problem.train) // training.batch_size} steps."
        )
    features = tangent_rows(
        problem,
        train=examples,
        test=0,
        sketch=_SKETCH,
        seed=training.seed,
        at=_burnt_in(problem, training, burn_in) if burn_in else None,
        on_example=on_example,
    )
    logits = features.start.logits
    if burn_in:
        logits = problem.predict(problem.delta.initial(), _part(problem.train, list(range(examples))))
        problem.restore()
    start = replace(features.start, logits=logits, judging_offset=problem.unseen(logits, examples) - logits)
    features = replace(features, start=start)
    rank, frozen = features.rank(), float(start.solved(logits).double().mean())
    differences, columns = features.rows.shape[:2].numel(), features.rows.shape[2]
    full = min(differences, columns)
    diagnostics: dict[str, Any] = {
        "rank": rank,
        "examples": examples,
        "logit_differences": differences,
        "missed": [],
    }
    if rank < full // 2:
        status = (
            f"refused: the Jacobian of {differences} logit differences has rank {rank}; a head that is zero, "
            "or the same for all classes, does that: take head='label-words', 'prototypes' or 'probe'"
        )
        nothing = DimensionEstimate(None, None, None, status)
        seconds = time.perf_counter() - began
        return Prediction(
            nothing, 0.0, 0.0, frozen, LEARNING_RATES[0], [], diagnostics, problem.passes - before, seconds
        )

    grid = log_grid(1, min(features.size, _SKETCH), ratio=2.0)
    curves = _cross_fit(features, grid, training)
    solved = np.mean([curve.solved for curve in curves.values()], axis=0)
    crossing, level, baseline = level_crossing(solved, grid, criterion, chance)
    rate = max(curves, key=lambda r: float(np.interp(crossing, np.log(grid), curves[r].solved.mean(1))))
    curve = curves[rate]

    rng = np.random.default_rng(training.seed)
    draws = (rng.integers(0, examples, examples) for _ in range(_BOOTSTRAP))
    replicates = np.array([level_crossing(solved[:, draw], grid, criterion, chance)[0] for draw in draws])
    nearest = grid[int(np.argmin(np.abs(np.log(grid) - crossing)))]
    movement = float(np.interp(crossing, np.log(grid), curve.movement)) / _origin_norm(problem)
    error = _linearization_error(
        problem, alternatives(nearest, training.seed), features, replace(training, learning_rate=rate)
    )
    spread = _MODEL_SPREAD * max(1.0, error / _TRUSTED_ERROR) * max(1.0, movement / _TRUSTED_MOVEMENT)
    replicates += spread * rng.standard_normal(_BOOTSTRAP)
    low, high = (math.exp(max(0.0, x)) for x in np.quantile(replicates, (0.05, 0.95)))
    diagnostics |= {
        "movement": movement,
        "linearization_error": error,
        "model_spread": spread,
        **_verdicts(full, rank, error, movement),
    }
    if frozen >= level:
        # The level then says nothing of d; where the linearized accuracy stops rising bounds what it needs.
        saturated = level_crossing(solved, grid, replace(criterion, fraction=1.0), chance)[0]
        high = math.exp(saturated + 1.645 * spread)
        d90 = DimensionEstimate(0.0, 0.0, high, "the frozen model is predicted to reach the level already")
        diagnostics["missed"].append(
            f"Gain: linearized training lifts held-out accuracy only from {frozen:.3f} to {baseline:.3f}, so "
            f"the frozen model lies above the level of {level:.3f}. Features that move may lift that: "
            "0 is a lower bound of d90; the interval reaches to where the linearized accuracy saturates."
        )
    elif (best := float(isotonic_regression(solved.mean(1)).x[-1])) < level:
        d90 = DimensionEstimate(math.exp(crossing), low, None, f"at least: the largest d tried is {grid[-1]}")
        diagnostics["missed"].append(
            f"Level: linearized training reaches {best:.3f} at most, below the level of {level:.3f} that the "
            "given baseline sets. Features that move may lift that: no upper bound follows."
        )
    else:
        d90 = DimensionEstimate(math.exp(crossing), low, high, "predicted")
    return Prediction(
        d90=d90,
        level=level,
        baseline=baseline,
        frozen=frozen,
        learning_rate=rate,
        curve=curve.points,
        diagnostics=diagnostics,
        passes=problem.passes - before,
        seconds=time.perf_counter() - began,
    )


def _burnt_in(problem: ClassificationProblem, training: Training, steps: int) -> torch.Tensor:
    """Return δ after the first steps of a full fine-tuning run at the rate that predictions burn in with."""
    schedule = replace(training, learning_rate=_BURN_IN_RATE)
    delta = problem.delta.initial()
    optimizer = torch.optim.AdamW([delta], weight_decay=0.0)
    order = epochs(problem.train.lengths, training.batch_size, training.seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        batch, labels = problem.batch(problem.train, next(order))
        *_, delta.grad = problem.loss_and_gradient(delta, batch, labels)
        optimizer.step()
    delta.grad = None
    return delta


def _part(split: Split, indices: list[int]) -> Split:
    return Split(split.examples.subset(indices), split.lengths[indices], split.labels[indices])


def _cross_fit(features: TangentRows, grid: list[int], training: Training) -> dict[float, _Curves]:
    """Return the cross-fitted runs of each of `LEARNING_RATES`, in the same subspaces."""
    examples, square_root = len(features.start), kernel_root(features)
    parts = folds(examples, FOLDS)
    curves = {
        rate: _Curves(grid, np.zeros((len(grid), examples)), np.zeros(len(grid)), [])
        for rate in LEARNING_RATES
    }
    for k, (kept, held) in enumerate(parts):
        order = kept + held
        start = features.start.subset(order)
        for i, d in enumerate(grid):
            seed = training.seed + 1000 * k + i
            jacobian = random_subspaces(square_root[order], features.size, d, 1, seed=seed)
            for rate, curve in curves.items():
                schedule = replace(training, seed=training.seed + k, learning_rate=rate)
                run = train_linearized(start, jacobian, schedule, train=len(kept))
                right = start.solved(run.logits)[0].double().cpu().numpy()
                curve.solved[i, held] = right[len(kept) :]
                curve.movement[i] += float(run.delta.norm()) / len(parts)
                curve.points.append(
                    CurvePoint(
                        d=d,
                        method="predict",
                        seed=training.seed + k,
                        train_loss=float(run.train_loss[0]),
                        train_metric=float(right[: len(kept)].mean()),
                        test_metric=float(right[len(kept) :].mean()),
                    )
                )
    return curves


def level_crossing(
    solved: np.ndarray, grid: list[int], criterion: Criterion, chance: float
) -> tuple[float, float, float]:
    """Return (ln d90, level, baseline) of one set of held-out judgements, by a monotone fit.

    Args:
        solved: shape (len(grid), n): what counts as solved at each dimension, or scores of n folds.
        grid: dimensions, increasing.
        criterion: with the score at the last dimension for its baseline, where it has none.
        chance: majority rate, for a corrected criterion.
    """
    score = isotonic_regression(solved.mean(1)).x
    baseline = criterion.baseline or float(score[-1])
    level = criterion.level(baseline, min(chance, baseline))
    above = np.flatnonzero(score >= level)
    if not len(above):  # a given baseline may lie out of reach
        return math.log(grid[-1]), level, baseline
    i = int(above[0])
    if i == 0:
        return 0.0, level, baseline
    share = (level - score[i - 1]) / (score[i] - score[i - 1])
    return float(np.log(grid[i - 1]) + share * np.log(grid[i] / grid[i - 1])), level, baseline


def _origin_norm(problem: ClassificationProblem) -> float:
    origin = problem.delta.parameters(problem.delta.initial())
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in origin.values()))


def _linearization_error(
    problem: ClassificationProblem, delta: Delta, features: TangentRows, training: Training
) -> float:
    """Return `relative_error` of held-out logits at the linearized optimum, from rows that are there.

    The subspace is the one that the sketch contains, so the δ that solves the linearized problem can be put
    into the network: one forward pass over one fold.
    """
    if features.sketch is None:
        return 0.0
    kept, held = folds(len(features.start), FOLDS)[0]
    order = kept + held
    rows, _ = features.restricted(delta.size)
    start = features.start.subset(order)
    run = train_linearized(start, rows[order][None], training, train=len(kept))
    tuned = ClassificationProblem(
        problem.backbone, problem.task, delta, problem.head, max_length=problem.max_length, check=False
    )
    network = tuned.predict(run.delta[0], _part(problem.train, held))
    tuned.restore()
    problem.passes += FORWARD * len(held)
    linear = run.logits[0, len(kept) :]
    return relative_error(network - linear, linear - features.start.logits[held])


def _verdicts(full: int, rank: int, error: float, movement: float) -> dict[str, list[str]]:
    """Return what the prediction rests on, in sentences: what missed, and what was checked and held."""
    findings = [
        (rank == full, f"Rank: the Jacobian of the logits has rank {rank}, of {full} at most.", 1.0),
        (
            error <= _TRUSTED_ERROR,
            f"Linearization: at the predicted d90 the network's logits differ from the linearized ones by "
            f"{error:.0%} of their change (trusted up to {_TRUSTED_ERROR:.0%}).",
            error / _TRUSTED_ERROR,
        ),
        (
            movement <= _TRUSTED_MOVEMENT,
            f"Movement: ‖Δθ‖/‖θ₀‖ = {movement:.2f} at the predicted d90 (trusted up to "
            f"{_TRUSTED_MOVEMENT:g}).",
            movement / _TRUSTED_MOVEMENT,
        ),
    ]
    missed = [
        sentence + (f" The interval is {factor:.1f} times as wide for it, in ln d." if factor > 1 else "")
        for held, sentence, factor in findings
        if not held
    ]
    return {"missed": missed, "checked": [sentence for held, sentence, _ in findings if held]}
