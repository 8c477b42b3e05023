"""One plain trainer for every delta."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import mean

import torch
from torch import Tensor

from deltatheory.problem import Problem, epochs

__all__ = ["Training", "TrainingResult", "train"]


@dataclass(frozen=True)
class Training:
    """How to train: AdamW with linear warm-up and linear decay to zero.

    Attributes:
        steps: the step budget; it is part of every result.
        batch_size: examples a step.
        learning_rate: the peak.
        warmup: share of the steps before the peak.
        seed: of the data order.
    """

    steps: int = 60
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: must be above 0.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup}: must lie in [0, 1).")

    def rate(self, step: int) -> float:
        """Return the learning rate of step 0 .. steps - 1."""
        rise = self.warmup * self.steps
        fall = (self.steps - step) / (self.steps - rise)
        return self.learning_rate * min((step + 1) / rise if rise else 1.0, fall, 1.0)

    def to_dict(self) -> dict:
        """Return plain values, for configuration hashes."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run came to.

    Attributes:
        delta: where it ended.
        train_loss: mean loss over the last tenth of the steps.
        train_accuracy: mean accuracy on the batches of those steps, as they were met.
        test: accuracy and loss on the test split.
        movement: ‖δ‖.
        passes: forward-equivalents, in passes over single examples.
        seconds: wall-clock time.
        status: "finished", or "diverged: ..." with the remedy.
    """

    delta: Tensor
    train_loss: float | None
    train_accuracy: float | None
    test: dict[str, float] | None
    movement: float
    passes: float
    seconds: float
    status: str


def train(
    problem: Problem,
    training: Training,
    *,
    start: Tensor | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Train δ and evaluate it on the test split; the backbone is θ₀ again afterwards.

    Args:
        problem: what to train.
        training: how.
        start: δ to start from; 0, the frozen backbone, by default.
        on_step: called with the step's number and loss, for progress bars.
    """
    began, before = time.perf_counter(), problem.passes
    delta = (problem.delta.initial() if start is None else start.clone()).requires_grad_(False)
    optimizer = torch.optim.AdamW([delta], weight_decay=0.0)
    order = epochs(problem.train.lengths, training.batch_size, training.seed)
    losses: list[float] = []
    accuracies: list[float] = []
    test, status = None, "finished"
    try:
        for step in range(training.steps):
            for group in optimizer.param_groups:
                group["lr"] = training.rate(step)
            batch, labels = problem.batch(problem.train, next(order))
            loss, accuracy, delta.grad = problem.loss_and_gradient(delta, batch, labels)
            optimizer.step()
            losses.append(loss)
            accuracies.append(accuracy)
            if on_step:
                on_step(step, loss)
        test = problem.evaluate(delta, problem.test)
    except FloatingPointError as error:
        status = f"diverged: {error}"
    finally:
        problem.restore()
    tail = max(1, training.steps // 10)
    delta.grad = None
    return TrainingResult(
        delta=delta,
        train_loss=mean(losses[-tail:]) if test else None,
        train_accuracy=mean(accuracies[-tail:]) if test else None,
        test=test,
        movement=float(delta.norm()),
        passes=problem.passes - before,
        seconds=time.perf_counter() - began,
        status=status,
    )
