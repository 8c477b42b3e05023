"""d90 before any training: from the tangent kernel at δ = 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from deltatheory.deltas import Delta
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.curves import LEARNING_RATES, cross_fit, level_crossing
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.search import log_grid
from deltatheory.dimension.settings import DimensionSettings
from deltatheory.linearization.error import relative_error
from deltatheory.linearization.subspace_training import train_linearized
from deltatheory.linearization.tangent import TangentRows, tangent_rows
from deltatheory.problems import ClassificationProblem, Setup, Split, epochs, folds
from deltatheory.tasks import Task
from deltatheory.training.trainer import Training

__all__ = ["Prediction", "kernel_examples", "kernel_grid", "kernel_rows", "predict"]

FOLDS = 8
_KERNEL_EXAMPLES = 448  # of the kernel: more barely move the prediction and cost as much again
_KERNEL_ROWS = 6 * _KERNEL_EXAMPLES  # of J, a backward pass each: over seven classes get fewer examples
_BURN_IN_RATE = 2e-4
_SKETCH = 4096
_BOOTSTRAP = 1000
# Spread of ln(measured/predicted) that linearization itself leaves, beside sampling: a factor of 2 at 90 %.
_MODEL_SPREAD = 0.42
_MOST_SPREAD = 100.0  # says as little as any more, and e to it is a number
_TRUSTED_ERROR = 0.5  # relative error of the linearized logits above which the interval is widened
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
        diagnostics: "rank" of J, "examples", "logit_differences" (its rows), "movement" (‖Δθ‖/‖θ₀‖ near d90),
            "linearization_error" there, "model_spread" (of ln d90 beside sampling), and sentences in "missed"
            and "checked".
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


def kernel_examples(task: Task) -> int:
    """Return of how many training examples the kernel is: each costs a backward pass a class but one."""
    return min(_KERNEL_EXAMPLES, max(2, _KERNEL_ROWS // (task.num_classes - 1)), len(task.train))


def predict(
    setup: Setup,
    criterion: Criterion,
    settings: DimensionSettings,
    *,
    on_example: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict d90 by training the linearized network in random subspaces of every dimension.

    Kernel rows of the first training examples are computed once. They are split into eight folds; each fold
    is held out once, from runs in a random subspace of their own, at each of `LEARNING_RATES`. The curve is
    the mean over the rates: choosing one by its accuracy would favour whichever noise flatters. No test
    example and no label outside the training split is used.

    With a burn-in the kernel is that after so many steps of full fine-tuning; the linearized network still
    starts at the frozen model's outputs. The kernel has then seen labels of held-out examples, so a few
    steps, well under an epoch, are the most that stays a prediction.

    Args:
        setup: of a classification task, in stratified order.
        criterion: what counts as solved.
        settings: the step budget and batch size to predict for, the scope and the burn-in.
        on_example: called with (done, total) examples of the kernel.

    Raises:
        ValueError: for a burn-in of more than one epoch.
    """
    began = time.perf_counter()
    training, chance = settings.training(setup.seed), setup.task.chance
    problem = setup.classification("full", {"scope": settings.scope}, check=False)
    features = kernel_rows(problem, training, settings.burn_in, on_example)
    examples, start = len(features.start), features.start
    rank, frozen = features.rank(), float(start.solved(start.logits).double().mean())
    differences = features.rows.shape[:2].numel()
    full = min(differences, features.rows.shape[2])
    diagnostics = {"rank": rank, "examples": examples, "logit_differences": differences, "missed": []}

    def prediction(d90: DimensionEstimate, rate: float, **found: Any) -> Prediction:
        whole: dict[str, Any] = {"level": 0.0, "baseline": 0.0, "curve": [], "diagnostics": diagnostics}
        return Prediction(
            d90=d90,
            frozen=frozen,
            learning_rate=rate,
            passes=problem.passes,
            seconds=time.perf_counter() - began,
            **(whole | found),
        )

    if rank < full // 2:
        status = (
            f"refused: the Jacobian of {differences} logit differences has rank {rank}; a head that is zero, "
            "or the same for all classes, does that: take head='label-words', 'prototypes' or 'probe'"
        )
        return prediction(DimensionEstimate(None, None, None, status), LEARNING_RATES[0])

    grid = kernel_grid(features)
    runs = cross_fit(features, folds(examples, FOLDS), grid, training)
    solved = np.mean([run.solved for run in runs.values()], axis=0)
    crossing = level_crossing(solved, grid, criterion, chance)
    rate = max(runs, key=lambda r: float(np.interp(crossing.log_d, np.log(grid), runs[r].solved.mean(1))))

    movement = float(np.interp(crossing.log_d, np.log(grid), runs[rate].movement)) / _origin_norm(problem)
    nearest = grid[int(np.argmin(np.abs(np.log(grid) - crossing.log_d)))]
    subspace = setup.delta("subspace", d=nearest, scope=settings.scope)
    error = _linearization_error(setup, problem, subspace, features, replace(training, learning_rate=rate))
    spread = _MODEL_SPREAD * max(1.0, error / _TRUSTED_ERROR) * max(1.0, movement / _TRUSTED_MOVEMENT)
    spread = min(spread, _MOST_SPREAD)
    diagnostics |= {
        "movement": movement,
        "linearization_error": error,
        "model_spread": spread,
        **_verdicts(full, rank, error, movement),
    }
    d90, missed = _estimate(solved, grid, criterion, chance, frozen=frozen, spread=spread, seed=training.seed)
    diagnostics["missed"] += missed
    return prediction(d90, rate, level=crossing.level, baseline=crossing.baseline, curve=runs[rate].points)


def kernel_grid(features: TangentRows) -> list[int]:
    """Return the dimensions of the predicted curve: powers of two up to what the rows can tell apart."""
    return log_grid(1, min(features.size, _SKETCH), ratio=2.0)


def kernel_rows(
    problem: ClassificationProblem,
    training: Training,
    burn_in: int = 0,
    on_example: Callable[[int, int], None] | None = None,
) -> TangentRows:
    """Return rows of J after the burn-in, judged by a head that has not seen the examples.

    Args:
        problem: full fine-tuning, of a setup in stratified order.
        training: seed and batch size of the burn-in, and seed of the sketch.
        burn_in: steps of full fine-tuning before the network is linearized.
        on_example: called with (done, total) examples.

    Raises:
        ValueError: for a burn-in of more than one epoch.
    """
    examples = kernel_examples(problem.task)
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
        logits = problem.predict(problem.delta.initial(), _part(problem.train, range(examples)))
        problem.restore()
    offset = problem.unseen(logits, examples) - logits
    return replace(features, start=replace(features.start, logits=logits, judging_offset=offset))


def _burnt_in(problem: ClassificationProblem, training: Training, steps: int) -> torch.Tensor:
    """Return δ after the first steps of a full fine-tuning run at the rate that predictions burn in with."""
    most = len(problem.train) // training.batch_size
    if steps * training.batch_size > len(problem.train):
        raise ValueError(
            f"burn_in={steps}: with batches of {training.batch_size} that is more than one epoch of "
            f"{len(problem.train)} examples; at most {most} steps."
        )
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


def _part(split: Split, indices: Sequence[int]) -> Split:
    chosen = list(indices)
    return Split(split.examples.subset(chosen), split.lengths[chosen], split.labels[chosen])


def _origin_norm(problem: ClassificationProblem) -> float:
    origin = problem.delta.parameters(problem.delta.initial())
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in origin.values()))


def _linearization_error(
    setup: Setup, problem: ClassificationProblem, delta: Delta, features: TangentRows, training: Training
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
    tuned = setup.classification(delta, check=False)
    network = tuned.predict(run.delta[0], _part(problem.train, held))
    tuned.restore()
    problem.passes += tuned.passes
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


def _estimate(
    solved: np.ndarray,
    grid: Sequence[int],
    criterion: Criterion,
    chance: float,
    *,
    frozen: float,
    spread: float,
    seed: int,
) -> tuple[DimensionEstimate, list[str]]:
    """Return d90 with its interval, by a bootstrap over examples, and what it does not say."""
    examples, rng = solved.shape[1], np.random.default_rng(seed)
    log_d, level, baseline = level_crossing(solved, grid, criterion, chance)
    draws = (rng.integers(0, examples, examples) for _ in range(_BOOTSTRAP))
    replicates = np.array([level_crossing(solved[:, x], grid, criterion, chance).log_d for x in draws])
    replicates += spread * rng.standard_normal(_BOOTSTRAP)
    low, high = (math.exp(max(0.0, x)) for x in np.quantile(replicates, (0.05, 0.95)))
    if frozen >= level:
        # The level then says nothing of d; where the linearized accuracy stops rising bounds what it needs.
        saturated = level_crossing(solved, grid, replace(criterion, fraction=1.0), chance).log_d
        high = math.exp(saturated + 1.645 * spread)
        d90 = DimensionEstimate(0.0, 0.0, high, "the frozen model is predicted to reach the level already")
        return d90, [
            f"Gain: linearized training lifts held-out accuracy only from {frozen:.3f} to {baseline:.3f}, so "
            f"the frozen model lies above the level of {level:.3f}. Features that move may lift that: "
            "0 is a lower bound of d90; the interval reaches to where the linearized accuracy saturates."
        ]
    if (best := float(isotonic_regression(solved.mean(1)).x[-1])) < level:
        d90 = DimensionEstimate(math.exp(log_d), low, None, f"at least: the largest d tried is {grid[-1]}")
        return d90, [
            f"Level: linearized training reaches {best:.3f} at most, below the level of {level:.3f} that the "
            "given baseline sets. Features that move may lift that: no upper bound follows."
        ]
    return DimensionEstimate(math.exp(log_d), low, high, "predicted"), []
