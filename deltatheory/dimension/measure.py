"""d90 by training in random subspaces, with few runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from deltatheory.deltas import Delta
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.predict import LEARNING_RATES
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.search import DimensionSearch, log_grid
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem
from deltatheory.results import ResultLog
from deltatheory.training.trainer import Training, train

__all__ = ["BASELINE_RATES", "MeasuredDimension", "measure"]

BASELINE_RATES = (1e-4, 2e-4)  # of full fine-tuning: the better one makes the baseline
_MAX_DIMENSION = 2**16
_LEAST_TRIALS = 3
# Run-to-run noise of accuracy on one test set, in units of its binomial error: most examples fall the same
# way in every run.
_PAIRED = 0.6


@dataclass(frozen=True)
class MeasuredDimension:
    """What training in subspaces says of d90.

    Attributes:
        d90: the estimate, its interval and status.
        level: the accuracy to reach.
        baseline: accuracy of full fine-tuning (the best learning rate), or the given one.
        frozen: accuracy at δ = 0.
        learning_rate: of δ, the better of `LEARNING_RATES` at the first dimension tried.
        curve: one row a run.
        passes: forward-equivalents.
        full_runs: the same in units of one full fine-tuning run with its evaluation.
        seconds: time taken by the runs, repeated ones not counted twice.
    """

    d90: DimensionEstimate
    level: float
    baseline: float
    frozen: float
    learning_rate: float
    curve: list[CurvePoint]
    passes: float
    full_runs: float
    seconds: float


class _Runner:
    """Runs trials, or finds them finished in the log, and adds up what they cost."""

    def __init__(
        self,
        make: Callable[[Delta], ClassificationProblem],
        training: Training,
        log: ResultLog,
        identity: dict,
        on_run: Callable[[str, dict | None], Callable[[int, float], None] | None],
    ) -> None:
        self.make, self.training, self.log, self.identity, self.on_run = make, training, log, identity, on_run
        self.passes = self.seconds = 0.0
        self.runs = 0
        self.curve: list[CurvePoint] = []

    def score(self, delta: Delta, method: str, d: int, seed: int, rate: float) -> float:
        """Return the test accuracy of one run; 0 for one that diverged."""
        training = replace(self.training, learning_rate=rate, seed=seed)
        config = {**self.identity, **delta.specification(), "training": training.to_dict()}
        row = self.log.find(config)
        result = row["result"] if row else self._run(delta, training, config, f"{method} d={d} lr={rate:g}")
        self.runs += 1
        self.passes += result["passes"]
        self.seconds += result["seconds"]
        self.curve.append(
            CurvePoint(
                d, method, seed, result["train_loss"], result["train_accuracy"], result["test_accuracy"]
            )
        )
        return result["test_accuracy"] or 0.0

    def _run(self, delta: Delta, training: Training, config: dict, title: str) -> dict:
        problem = self.make(delta)
        outcome = train(problem, training, on_step=self.on_run(title, None))
        result = {
            "status": outcome.status,
            "train_loss": outcome.train_loss,
            "train_accuracy": outcome.train_accuracy,
            "test_accuracy": outcome.test["accuracy"] if outcome.test else None,
            "test_loss": outcome.test["loss"] if outcome.test else None,
            "movement": outcome.movement if math.isfinite(outcome.movement) else None,
            "passes": outcome.passes,
            "seconds": outcome.seconds,
        }
        self.log.append(config, result)
        self.on_run(title, result)
        return result


def measure(
    make: Callable[[Delta], ClassificationProblem],
    full: Delta,
    subspace: Callable[[int, int], Delta],
    criterion: Criterion,
    training: Training,
    *,
    log: ResultLog,
    identity: dict,
    guess: float | None,
    learning_rate: float | None,
    runs: float,
    precision: float,
    on_run: Callable[[str, dict | None], Callable[[int, float], None] | None],
) -> MeasuredDimension:
    """Search for d90 by training: baseline, learning rate, then the dimensions that decide.

    Every run has the same step budget. The baseline is full fine-tuning at each of `BASELINE_RATES`. The
    first dimension is run at both `LEARNING_RATES`; the better rate is carried to the others, as the isometry
    of P allows. Every dimension tried has a seed of its own for the subspace and the data order.

    Args:
        make: delta ↦ problem, on one backbone, task and head.
        full: full fine-tuning.
        subspace: (d, seed) ↦ subspace delta.
        criterion: what counts as solved.
        training: step budget and batch size.
        log: where finished runs are, and go.
        identity: what, beside delta and training, makes a run the same: model, task, head.
        guess: where to start (the prediction).
        learning_rate: of δ, to try first.
        runs: budget, in training runs.
        precision: stop when the 90 % interval is within ± this.
        on_run: called before a run with (title, None), it returns the run's `on_step`; called after it with
            (title, result).

    Raises:
        ValueError: if the budget is too small for the baseline and three runs.
    """
    problem = make(full)
    test, chance = len(problem.test), problem.task.chance
    full_run = training.steps * training.batch_size * (FORWARD + BACKWARD) + FORWARD * test
    baselines = BASELINE_RATES if criterion.baseline is None else ()
    least = len(baselines) + _LEAST_TRIALS
    if runs < least:
        raise ValueError(
            f"runs={runs}: must be at least {least} training runs: {len(baselines)} for the baseline, "
            f"{_LEAST_TRIALS} for subspaces."
        )
    began = time.perf_counter()
    frozen = problem.evaluate(full.initial(), problem.test)["accuracy"]
    problem.restore()
    runner = _Runner(make, training, log, identity, on_run)
    runner.passes += FORWARD * test
    runner.seconds += time.perf_counter() - began
    runner.curve.append(CurvePoint(0, "frozen", training.seed, None, None, frozen))
    seed = training.seed
    scores = [runner.score(full, "baseline", full.size, seed + i, rate) for i, rate in enumerate(baselines)]
    baseline = max(scores, default=criterion.baseline or 0.0)
    level = criterion.level(baseline, chance)

    def finish(d90: DimensionEstimate, rate: float) -> MeasuredDimension:
        return MeasuredDimension(
            d90,
            level,
            baseline,
            frozen,
            rate,
            runner.curve,
            runner.passes,
            runner.passes / full_run,
            runner.seconds,
        )

    rates = sorted(LEARNING_RATES, key=lambda r: r != learning_rate)
    if frozen >= level:
        status = f"the frozen model reaches {frozen:.3f} already, the level is {level:.3f}"
        return finish(DimensionEstimate(0.0, 0.0, 0.0, status), rates[0])
    noise = _PAIRED * math.sqrt(max(level * (1 - level), 0.01) / test)
    search = DimensionSearch(
        log_grid(1, min(full.size, _MAX_DIMENSION), ratio=2**0.125),
        level,
        floor=min(frozen, level - 1e-3),
        ceiling=max(baseline, level + 1e-3),
        noise=noise,
        level_noise=criterion.fraction if baselines else 0.0,
        guess=guess,
    )
    d = search.propose()
    tried = {rate: runner.score(subspace(d, seed), "measure", d, seed, rate) for rate in rates}
    rate = max(tried, key=lambda r: tried[r])
    search.tell(d, tried[rate])
    d90 = search.estimate()
    while runner.runs + 1 <= runs:  # every run has the same step budget: one is one full-run equivalent
        if len(search.trials) >= _LEAST_TRIALS and d90.width <= precision:
            break
        d, trial = search.propose(), len(search.trials)
        search.tell(d, runner.score(subspace(d, seed + trial), "measure", d, seed + trial, rate))
        d90 = search.estimate()
    if d90.value is not None and d90.width > precision:
        d90 = replace(
            d90, status=f"{d90.status}; ±{precision:.0%} not met within {runs:g} full runs: raise `runs`"
        )
    return finish(d90, rate)
