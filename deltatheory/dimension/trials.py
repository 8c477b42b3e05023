"""Training runs of one search: what a log has is not run again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from deltatheory.deltas import Delta
from deltatheory.dimension.criterion import Criterion
from deltatheory.dimension.result import CurvePoint
from deltatheory.problems import ClassificationProblem, Setup
from deltatheory.results import ResultLog
from deltatheory.training.learning_rate import predict_learning_rate
from deltatheory.training.trainer import Training, train

__all__ = ["OnRun", "PredictedRate", "Trials", "identity"]

OnRun = Callable[[str], Callable[[int, float], None] | None]


@dataclass(frozen=True)
class _Run:
    """What the log keeps of a run."""

    status: str
    train_loss: float | None
    train_accuracy: float | None
    test_accuracy: float | None
    test_loss: float | None
    movement: float | None
    passes: float
    seconds: float
    calibrated_loss: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it has all scores: a row of an older version lacks one."""
        return self.calibrated_loss is not None or self.test_accuracy is None


@dataclass(frozen=True)
class PredictedRate:
    """What the log keeps of a `RatePrediction`; `sure` is one that was found, with no caution."""

    rate: float
    low: float
    high: float
    sure: bool
    passes: float
    seconds: float


def identity(setup: Setup) -> dict[str, Any]:
    """Return what, beside delta and training, makes a run the same: model, task and head."""
    return {
        "model": setup.backbone.provenance,
        "task": {"name": setup.task.name, **setup.task.provenance},
        **setup.head.identity(),
        "max_length": setup.max_length,
    }


class Trials:
    """Runs trials, or finds them finished in the log, and adds up what they cost.

    Args:
        setup: backbone, task and head of all trials.
        training: step budget and batch size.
        criterion: which score counts.
        log: where finished runs are, and go.
        on_run: called before a run, or a predicted rate, with its title; it returns the run's `on_step`.
        on_point: called with each point of the curve.

    Attributes:
        curve: one row a run, the frozen model first.
        passes: forward-equivalents, of runs and predicted rates.
        seconds: time taken by them, repeated ones not counted twice.
        count: training runs.
    """

    def __init__(
        self,
        setup: Setup,
        training: Training,
        criterion: Criterion,
        *,
        log: ResultLog | None = None,
        on_run: OnRun | None = None,
        on_point: Callable[[CurvePoint], None] | None = None,
    ) -> None:
        self.setup, self.training, self.criterion, self.log = setup, training, criterion, log
        self.on_run, self.on_point = on_run, on_point
        self.curve: list[CurvePoint] = []
        self.passes = self.seconds = 0.0
        self.count = 0

    def frozen(self, problem: ClassificationProblem) -> float:
        """Return the score at δ = 0."""
        began, before = time.perf_counter(), problem.passes
        found = problem.evaluate(problem.delta.initial(), problem.test)
        accuracy, loss = found["accuracy"], found["calibrated_loss"]
        problem.restore()
        self.passes += problem.passes - before
        self.seconds += time.perf_counter() - began
        self._add(CurvePoint(0, "frozen", self.training.seed, None, None, accuracy, loss))
        return self.criterion.score(accuracy, loss)

    def score(self, delta: Delta, method: str, seed: int, rate: float) -> float:
        """Return the score of one run; of one that diverged, that of no answer, or of equal logits.

        Args:
            delta: what is trained.
            method: "measure" or "baseline".
            seed: of the data order.
            rate: the learning rate.
        """
        training = replace(self.training, learning_rate=rate, seed=seed)
        config = {**identity(self.setup), **delta.specification(), "training": training.to_dict()}
        run = None if self.log is None else self.log.result(config, _Run)
        if run is None or not (run.whole or self.criterion.metric == "accuracy"):
            on_step = self.on_run and self.on_run(f"{method} d={delta.size} lr={rate:g}")
            run = self._run(delta, training, on_step)
            if self.log is not None:
                self.log.append(config, asdict(run))
        self.count += 1
        self.passes += run.passes
        self.seconds += run.seconds
        accuracy, loss = run.test_accuracy, run.calibrated_loss
        self._add(CurvePoint(delta.size, method, seed, run.train_loss, run.train_accuracy, accuracy, loss))
        nothing = math.log(self.setup.task.num_classes)
        return self.criterion.score(accuracy or 0.0, nothing if loss is None else loss)

    def predicted_rate(self, delta: Delta, seed: int) -> PredictedRate:
        """Return the predicted learning rate of a run, for a tenth of its passes, or four looks if more."""
        training = replace(self.training, seed=seed)
        about = {"predicted_rate": delta.specification(), "training": training.to_dict()}
        config = {**identity(self.setup), **about}
        found = None if self.log is None else self.log.result(config, PredictedRate)
        if found is None:
            if self.on_run:
                self.on_run(f"learning rate d={delta.size}")
            said = predict_learning_rate(self.setup.classification(delta, check=False), training=training)
            sure = said.found and not said.caution
            found = PredictedRate(said.rate, said.low, said.high, sure, said.passes, said.seconds)
            if self.log is not None:
                self.log.append(config, asdict(found))
        self.passes += found.passes
        self.seconds += found.seconds
        return found

    def _add(self, point: CurvePoint) -> None:
        self.curve.append(point)
        if self.on_point:
            self.on_point(point)

    def _run(self, delta: Delta, training: Training, on_step: Callable[[int, float], None] | None) -> _Run:
        outcome = train(self.setup.classification(delta, check=False), training, on_step=on_step)
        return _Run(
            status=outcome.status,
            train_loss=outcome.train_loss,
            train_accuracy=outcome.train_accuracy,
            test_accuracy=outcome.test["accuracy"] if outcome.test else None,
            test_loss=outcome.test["loss"] if outcome.test else None,
            movement=outcome.movement if math.isfinite(outcome.movement) else None,
            passes=outcome.passes,
            seconds=outcome.seconds,
            calibrated_loss=outcome.test["calibrated_loss"] if outcome.test else None,
        )
