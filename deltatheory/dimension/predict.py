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

from deltatheory.backbones import Backbone
from deltatheory.deltas import Delta
from deltatheory.deltas.subspace import scope_names
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.curves import LEARNING_RATES, cross_fit, scaled_losses
from deltatheory.dimension.posterior import AS_PREDICTED, CurvePosterior, CurveShape, log_grid
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.settings import DimensionSettings
from deltatheory.linearization.error import relative_error
from deltatheory.linearization.factors import tangent_kernels
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.subspace_training import train_linearized
from deltatheory.linearization.tangent import TangentRows, tangent_rows
from deltatheory.problems import ClassificationProblem, Setup, epochs, folds
from deltatheory.tasks import Task
from deltatheory.training.trainer import Training

__all__ = ["Prediction", "kernel_examples", "kernel_grid", "kernel_rows", "predict"]

FOLDS = 8
_KERNEL_EXAMPLES = 448  # of the kernel: more barely move the prediction and cost as much again
_KERNEL_ROWS = 6 * _KERNEL_EXAMPLES  # of J, a backward pass each: over seven classes get fewer examples
_BURN_IN_RATE = 2e-4
_SKETCH = 4096
_BOOTSTRAP = 200
_LEAST_GAIN = 2.0  # of linearized training, in standard errors: a smaller one has no shape
LEAST_PART = 0.1  # of what is left to gain: with less, calibration tasks need up to 140 times the predicted d
# Relative error of the linearized logits, and ‖Δθ‖/‖θ₀‖, up to which nothing is said of them. The interval
# does not depend on them: on the tasks that its prior was fitted to, a spread that grows with them is less
# likely.
_TRUSTED_ERROR = 0.5
_TRUSTED_MOVEMENT = 0.5


@dataclass(frozen=True)
class Prediction:
    """What the kernel says of d90.

    Attributes:
        d90: the estimate, its interval and status.
        fractions: the same for other fractions of the same curve, as "d50".
        level: the accuracy or loss to reach, 0.9 of the predicted baseline by default.
        baseline: that predicted without a limit on d.
        frozen: that of the frozen model on the kernel's examples, which a fitted head has not seen.
        learning_rate: the one of `LEARNING_RATES` with the better held-out accuracy near d90.
        curve: one row for each d and fold.
        dimensions: of the predicted curve.
        shares: of the gain that linearized training reaches at each; none where there is no gain.
        spread: standard deviation of the curve's shift in ln d, from linearization and sampling.
        diagnostics: "rank" of J, "examples", "logit_differences" (its rows), "movement" (‖Δθ‖/‖θ₀‖ near d90),
            "linearization_error" there (none on several devices), and sentences in "missed" and "checked".
        passes: forward-equivalents.
        seconds: time taken.
    """

    d90: DimensionEstimate
    fractions: dict[str, DimensionEstimate]
    level: float
    baseline: float
    frozen: float
    learning_rate: float
    curve: list[CurvePoint]
    dimensions: list[int]
    shares: list[float]
    spread: float
    diagnostics: dict[str, Any]
    passes: float
    seconds: float

    def posterior(self, noise: float) -> CurvePosterior | None:
        """Return the posterior of the curve before any run; `None` where there is no curve.

        Args:
            noise: standard deviation of a run's share of the gain.
        """
        if not self.shares:
            return None
        return _posterior(self.dimensions, self.shares, self.spread, noise)

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
        ValueError: for a burn-in of more than one epoch, or of a model that is spread over devices.
    """
    began = time.perf_counter()
    training, chance = settings.training(setup.seed), setup.task.chance
    problem = setup.classification("full", {"scope": settings.scope}, check=False)
    at = _burnt_in(problem, training, settings.burn_in) if settings.burn_in else None
    features = kernel_rows(problem, training, at=at, on_example=on_example)
    examples, start = len(features.start), features.start
    rank, differences = features.rank(), features.rows.shape[:2].numel()
    full = min(differences, features.rows.shape[2])
    solved, losses = start.solved(start.logits).double().cpu().numpy(), _losses(start)
    at_start = _counted(criterion, solved, losses)
    diagnostics = {"rank": rank, "examples": examples, "logit_differences": differences, "missed": []}

    def prediction(d90: DimensionEstimate, rate: float, **found: Any) -> Prediction:
        whole: dict[str, Any] = {"level": 0.0, "baseline": 0.0, "curve": [], "fractions": {}}
        return Prediction(
            d90=d90,
            frozen=criterion.shown(float(at_start.mean())),
            learning_rate=rate,
            diagnostics=diagnostics,
            passes=problem.passes,
            seconds=time.perf_counter() - began,
            **({"dimensions": [], "shares": [], "spread": 0.0} | whole | found),
        )

    if rank < full // 2:
        status = (
            f"refused: the Jacobian of {differences} logit differences has rank {rank}; a head that is zero, "
            "or the same for all classes, does that: take head='label-words', 'prototypes' or 'probe'"
        )
        diagnostics["missed"] = [f"Prediction {status}."]
        return prediction(DimensionEstimate(None, None, None, status), LEARNING_RATES[0])

    grid = kernel_grid(features)
    runs = cross_fit(features, folds(examples, FOLDS), grid, training)
    scores = {rate: _counted(criterion, run.solved, run.losses) for rate, run in runs.items()}
    curve = _Curve(criterion, grid, np.mean(list(scores.values()), axis=0), at_start, chance)
    spread = math.hypot(AS_PREDICTED.shift[1], curve.sampling(training.seed))
    found = curve.estimates(spread, features.size)
    d90, log_d = found[criterion.name], math.log(found[criterion.name].value or 1)
    rate = max(runs, key=lambda r: float(np.interp(log_d, np.log(grid), scores[r].mean(1))))

    movement = float(np.interp(log_d, np.log(grid), runs[rate].movement))
    movement /= _origin_norm(setup.backbone, settings.scope)
    error = None
    if len(setup.backbone.devices) == 1:
        nearest = grid[int(np.argmin(np.abs(np.log(grid) - log_d)))]
        subspace = setup.delta("subspace", d=nearest, scope=settings.scope)
        schedule = replace(training, learning_rate=rate)
        error = _linearization_error(setup, problem, subspace, features, schedule)
    verdicts = _verdicts(full, rank, error, movement)
    diagnostics |= {"movement": movement, "linearization_error": error, "model_spread": spread, **verdicts}
    diagnostics["missed"] = curve.missed() + diagnostics["missed"]
    return prediction(
        d90,
        rate,
        fractions=found,
        level=criterion.shown(curve.level),
        baseline=criterion.shown(curve.baseline),
        curve=runs[rate].points,
        dimensions=grid,
        shares=curve.shares,
        spread=spread,
    )


def _losses(start: LinearizationStart) -> np.ndarray:
    """Return the loss of each example at δ = 0, at the best scale of the logits."""
    judged = (start.logits + start.judging_offset).cpu()
    return scaled_losses(start.loss, judged, start.labels.cpu())


def _counted(criterion: Criterion, solved: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return what the criterion counts of each example, larger the better."""
    return solved if criterion.metric == "accuracy" else -losses


class _Curve:
    """Held-out scores of linearized runs against d, and where they reach a level.

    Args:
        criterion: what counts as solved.
        grid: dimensions.
        scores: shape (dimensions, n), of each example.
        at_start: shape (n,), at δ = 0.
        chance: the score of a guess.

    Attributes:
        frozen: mean score at δ = 0.
        best: mean score at the largest d, by a monotone fit.
        baseline: that, or the given one.
        level: the score to reach.
        gained: at the largest d, of what is left to gain.
        shares: of the gain, at each d; none where it is noise or too small a part.
    """

    def __init__(
        self,
        criterion: Criterion,
        grid: list[int],
        scores: np.ndarray,
        at_start: np.ndarray,
        chance: float,
    ) -> None:
        self.criterion, self.grid, self._scores, self._at_start = criterion, grid, scores, at_start
        self._rising = isotonic_regression(scores.mean(1)).x
        self.frozen, self.best = float(at_start.mean()), float(self._rising[-1])
        self.baseline = criterion.baseline or self.best
        self._chance = min(chance, self.baseline)
        self.level = criterion.level(self.baseline, chance=self._chance, frozen=self.frozen)
        gains = scores[-1] - at_start
        error = float(gains.std()) / math.sqrt(len(gains))
        self.gained = (self.best - self.frozen) / max(criterion.score(1.0, 0.0) - self.frozen, 1e-9)
        has_shape = self.best - self.frozen > _LEAST_GAIN * error and self.gained >= LEAST_PART
        self.shares = self._shares(scores, at_start) if has_shape else []

    def _shares(self, scores: np.ndarray, at_start: np.ndarray) -> list[float]:
        rising, frozen = isotonic_regression(scores.mean(1)).x, at_start.mean()
        return ((rising - frozen) / max(rising[-1] - frozen, 1e-9)).tolist()

    def sampling(self, seed: int) -> float:
        """Return the standard deviation, over draws of the examples, of the ln d where the curve passes ¾."""
        if not self.shares:
            return 0.0
        rng, found = np.random.default_rng(seed), []
        for _ in range(_BOOTSTRAP):
            drawn = rng.integers(0, len(self._at_start), len(self._at_start))
            shares = self._shares(self._scores[:, drawn], self._at_start[drawn])
            found.append(CurveShape.of_shares(self.grid, shares).crossing(0.75))
        return float(np.std(found))

    def estimates(self, spread: float, size: int) -> dict[str, DimensionEstimate]:
        """Return d50, d75, d90 and the own fraction.

        Args:
            spread: standard deviation of the shift, in ln d.
            size: D.
        """
        own, top = self.criterion.name, self.grid[-1]
        if self.frozen >= self.level:
            # The level then says nothing of d; where the linearized score stops rising bounds what it needs.
            saturated = self.grid[int(np.argmax(self._rising >= self.best))]
            high = min(size, math.ceil(saturated * math.exp(1.645 * spread)))
            status = "the frozen model is predicted to reach the level already"
            return {own: DimensionEstimate(0, 0, high, status)}
        if self.best < self.level:
            low = max(1, math.floor(top * math.exp(-1.645 * spread)))
            return {own: DimensionEstimate(top, low, None, f"at least: the largest d tried is {top}")}
        if not self.shares:
            return {own: DimensionEstimate(None, None, None, f"refused: {self._too_little()}")}
        posterior = _posterior(self.grid, self.shares, spread, noise=1.0)
        shares = self.criterion.shares(self.baseline, chance=self._chance, frozen=self.frozen)
        return {name: posterior.estimate(share, size) for name, share in shares.items()}

    def missed(self) -> list[str]:
        """Return what the estimate does not say, in sentences."""
        frozen, best, level = (f"{self.criterion.shown(x):.3f}" for x in (self.frozen, self.best, self.level))
        if self.frozen >= self.level:
            return [
                f"Gain: linearized training takes the held-out {self.criterion.metric} only from {frozen} to "
                f"{best}, so the frozen model is past the level of {level}. Features that move may do more: "
                "0 is a lower bound of d90; the interval reaches to where the linearized curve saturates."
            ]
        if self.best < self.level:
            return [
                f"Level: linearized training reaches {best} at most, short of the level of {level} that the "
                "given baseline sets. Features that move may do more: no upper bound follows."
            ]
        if not self.shares:
            return [f"Prediction refused: {self._too_little()}."]
        return []

    def _too_little(self) -> str:
        return (
            f"linearized training gains {max(self.gained, 0.0):.1%} of what is left to gain held out, too "
            "little for a curve; features must move, so measure"
        )


def _posterior(dimensions: list[int], shares: list[float], spread: float, noise: float) -> CurvePosterior:
    """Return the posterior of a predicted curve before any run."""
    prior = replace(AS_PREDICTED, shift=(AS_PREDICTED.shift[0], spread))
    return CurvePosterior(CurveShape.of_shares(dimensions, shares), prior, noise)


def kernel_grid(features: TangentRows) -> list[int]:
    """Return the dimensions of the predicted curve: powers of two up to what the rows can tell apart."""
    return log_grid(1, min(features.size, _SKETCH), ratio=2.0)


def kernel_rows(
    problem: ClassificationProblem,
    training: Training,
    *,
    examples: int | None = None,
    at: torch.Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> TangentRows:
    """Return rows of J with where the linearized network starts: the frozen model's outputs.

    They are judged by a head that has not seen the examples.

    Args:
        problem: full fine-tuning, of a setup in stratified order.
        training: its seed is that of the sketch.
        examples: the first so many of the training split, by default `kernel_examples`.
        at: the δ to differentiate at; δ = 0 by default.
        on_example: called with (done, total) examples.
    """
    count = kernel_examples(problem.task) if examples is None else examples
    if len(problem.backbone.devices) > 1:  # rows as long as θ are not formed where θ does not fit one device
        about: dict[str, Any] = {"train": count, "test": 0, "on_example": on_example}
        (kernel,) = tangent_kernels(problem, [problem.delta], **about)
        problem.passes += kernel.passes
        features = kernel.rooted(problem.delta.size)
    else:
        features = tangent_rows(
            problem, train=count, test=0, sketch=_SKETCH, seed=training.seed, at=at, on_example=on_example
        )
    logits = features.start.logits
    if at is not None:
        logits = problem.predict(problem.delta.zero(), problem.train.subset(range(count)))
        problem.restore()
    offset = problem.unseen(logits, count) - logits
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
    optimizer = schedule.make_optimizer(delta)
    order = epochs(problem.train.lengths, training.batch_size, training.seed)
    for step in range(steps):
        batch, labels = problem.batch(problem.train, next(order))
        *_, gradient = problem.loss_and_gradient(delta, batch, labels)
        optimizer.step(gradient, schedule.rate(step))
    return delta


def _origin_norm(backbone: Backbone, scope: str) -> float:
    """Return ‖θ₀‖ of the scope, parameter by parameter."""
    origin = map(backbone.model.get_parameter, scope_names(backbone, scope))
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in origin))


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
    rows, _ = features.restricted(delta.size)
    run = train_linearized(features.start, rows[None], training, train=[kept])
    tuned = setup.classification(delta, check=False)
    network = tuned.predict(run.delta[0, 0], problem.train.subset(held))
    tuned.restore()
    problem.passes += tuned.passes
    linear = run.logits[0, 0, held]
    return relative_error(network - linear, linear - features.start.logits[held])


def _of_linearization(error: float | None) -> str:
    if error is None:
        return "Linearization: not tried, because no subspace moves a model that is spread over devices."
    return (
        "Linearization: at the predicted d90 the network's logits differ from the linearized ones by "
        f"{error:.0%} of their change (trusted up to {_TRUSTED_ERROR:.0%})."
    )


def _verdicts(full: int, rank: int, error: float | None, movement: float) -> dict[str, list[str]]:
    """Return what the prediction rests on, in sentences: what missed, and what was checked and held."""
    findings = [
        (rank == full, f"Rank: the Jacobian of the logits has rank {rank}, of {full} at most."),
        (error is not None and error <= _TRUSTED_ERROR, _of_linearization(error)),
        (
            movement <= _TRUSTED_MOVEMENT,
            f"Movement: ‖Δθ‖/‖θ₀‖ = {movement:.2f} at the predicted d90 (trusted up to "
            f"{_TRUSTED_MOVEMENT:g}).",
        ),
    ]
    missed = [sentence for held, sentence in findings if not held]
    return {"missed": missed, "checked": [sentence for held, sentence in findings if held]}
