"""Short real runs: of the candidate whose result is likeliest to change what is taken, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deltatheory._shapes import Bool
from deltatheory.advice.posterior import TrainedScores
from deltatheory.deltas import Delta
from deltatheory.problems import Setup
from deltatheory.tasks import Examples, Task
from deltatheory.training import Training, train

__all__ = ["JUDGED", "ShortRuns", "race"]

JUDGED = 1000  # examples at most


def race(
    prior: TrainedScores, ladder: Sequence[int], run: Callable[[int], Bool[np.ndarray, " n"]], examples: int
) -> Iterator[TrainedScores]:
    """Yield the posterior after each run, until none would change what is taken.

    Args:
        prior: before any run.
        ladder: candidates within the budget, the smallest first; at least one.
        run: trains a candidate, and says whether it solves each example, the same ones for all.
        examples: that a run is judged on.
    """
    scores, solved = prior, {}
    while (one := scores.most_decisive(ladder, solved, examples)) is not None:
        solved[one] = run(one)
        scores = prior.observed(solved)
        yield scores


@dataclass(eq=False)
class ShortRuns:
    """Trains candidates, and judges all of them on the same examples that none has seen.

    Attributes:
        setup: whose training examples they are trained on.
        task: with all training examples: those left over, and the dev split, judge.
        deltas: the candidates.
        rates: of each, the peak of the learning rate.
        training: the plan.
        solved: candidate ↦ whether its run solves each of these examples, in the order of the runs.
        examples: how many they are.
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
        self.examples = len(judging)

    def run(self, one: int) -> Bool[np.ndarray, " n"]:
        """Train a candidate, and return whether it solves each example."""
        problem = self._setup.classification(self.deltas[one], check=False)
        outcome = train(problem, replace(self.training, learning_rate=self.rates[one]))
        try:
            logits = problem.predict(outcome.delta, problem.dev)
            self.solved[one] = (logits.argmax(1) == problem.dev.labels).cpu().numpy()
        except FloatingPointError:  # a run that blew up solves nothing
            self.solved[one] = np.zeros(self.examples, bool)
        problem.restore()
        self.passes += problem.passes
        return self.solved[one]


def judging_examples(trained: Task, whole: Task) -> Examples:
    """Return the dev split and the training examples that are left over.

    Args:
        trained: has some of the training examples.
        whole: has all of them.
    """
    seen = set(trained.train.input_keys())
    left = [i for i, key in enumerate(whole.train.input_keys()) if key not in seen]
    dev = whole.dev.subset(range(min(JUDGED, len(whole.dev))))
    more = whole.train.subset(left[: JUDGED - len(dev)])
    columns = {name: column + getattr(more, name) for name, column in vars(dev).items() if column is not None}
    return Examples(**columns)
