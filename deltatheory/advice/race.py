"""Short real runs: of the candidate whose result is likeliest to change what is taken, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deltatheory._shapes import Bool
from deltatheory.advice.posterior import TrainedScores
from deltatheory.deltas import Delta
from deltatheory.problems import Setup
from deltatheory.tasks import Examples, Task
from deltatheory.training import Training, train

__all__ = ["Race"]

_JUDGED = 1000  # examples at most


@dataclass(eq=False)
class Race:
    """Trains candidates, and judges all of them on the same examples that none has seen.

    Attributes:
        setup: whose training examples they are trained on.
        task: with all training examples: those left over, and the dev split, judge.
        deltas: the candidates.
        rates: of each, the peak of the learning rate.
        training: the plan.
        solved: candidate ↦ whether its run solves each of these examples, in the order of the runs.
        passes: forward-equivalents so far.
    """

    setup: Setup
    task: Task
    deltas: Sequence[Delta]
    rates: Sequence[float]
    training: Training
    solved: dict[int, Bool[np.ndarray, " n"]] = field(default_factory=dict)
    passes: float = 0.0

    def __post_init__(self) -> None:
        judging = judging_examples(self.setup.task, self.task)
        task = replace(self.setup.task, dev=judging)
        self._setup = self.setup.replace(task=task, head=self.setup.head, train_examples=None)
        self._examples = len(judging)

    def sharpened(self, scores: TrainedScores, ladder: Sequence[int], runs: int) -> TrainedScores:
        """Return the posterior after at most so many runs; they end where none would change what is taken.

        Args:
            scores: the prior.
            ladder: candidates within the budget, the smallest first.
            runs: at most.
        """
        found = scores
        while len(self.solved) < runs:
            one = found.most_decisive(ladder, self.solved, self._examples)
            if one is None:
                break
            self.solved[one] = self._run(one)
            found = scores.observed(self.solved)
        return found

    def _run(self, one: int) -> Bool[np.ndarray, " n"]:
        problem = self._setup.classification(self.deltas[one], check=False)
        outcome = train(problem, replace(self.training, learning_rate=self.rates[one]))
        try:
            logits = problem.predict(outcome.delta, problem.dev)
            solved = (logits.argmax(1) == problem.dev.labels).cpu().numpy()
        except FloatingPointError:  # a run that blew up solves nothing
            solved = np.zeros(self._examples, bool)
        problem.restore()
        self.passes += problem.passes
        return solved


def judging_examples(trained: Task, whole: Task) -> Examples:
    """Return the dev split and the training examples that are left over.

    Args:
        trained: has some of the training examples.
        whole: has all of them.
    """
    seen = set(trained.train.input_keys())
    left = [i for i, key in enumerate(whole.train.input_keys()) if key not in seen]
    dev = whole.dev.subset(range(min(_JUDGED, len(whole.dev))))
    more = whole.train.subset(left[: _JUDGED - len(dev)])
    columns = {name: column + getattr(more, name) for name, column in vars(dev).items() if column is not None}
    return Examples(**columns)
