"""What a score on the test split stands beside: a constant, the frozen model, its own interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatheory.problems import ClassificationProblem, Problem
from deltatheory.results import wilson

__all__ = ["ClassScore", "HeldOutScores", "held_out_scores"]

_LEVEL = 0.9  # of the interval


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found.

    Attributes:
        name: of the class.
        precision: share of the texts answered with it that are of it; 0 where there is none.
        recall: share of its texts that are answered with it; 0 where there is none.
        f1: their harmonic mean.
        texts: of it in the test split.
    """

    name: str
    precision: float
    recall: float
    f1: float
    texts: int


@dataclass(frozen=True)
class HeldOutScores:
    """A score on the test split, and what it stands beside; `None` where a kind of task has no such thing.

    Attributes:
        metric: what is counted.
        value: of the trained delta.
        low: lower end of the 90 % interval (Wilson 1927).
        high: its upper end.
        frozen: the same metric at δ = 0.
        constant: of the constant that is right most often.
        answer: which one that is.
        texts: in the test split.
        macro_f1: mean of F1 over classes.
        classes: one entry each.
        trainings: how many the texts were held out from; each from one.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    frozen: float
    constant: float | None
    answer: str | None
    texts: int
    macro_f1: float | None
    classes: list[ClassScore]
    trainings: int = 1


def held_out_scores(
    problem: Problem,
    test: Mapping[str, float],
    answers: Sequence[int] | None,
    elsewhere: Sequence[tuple[ClassificationProblem, Sequence[int]]] = (),
) -> HeldOutScores:
    """Set scores on the test split beside those of the frozen model, at one pass over it, and of a constant.

    With the answers of trainings that held out other texts all of these count: cross-validation.

    Args:
        problem: whose scores they are.
        test: what `problem.evaluate` says of the trained δ, as in a result's `test`.
        answers: the class that it gives to each text, as in a result's `answers`.
        elsewhere: of other trainings, each on a task of its own (`Task.held_out_elsewhere`).

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    metric = problem.metric
    if answers is None or not isinstance(problem, ClassificationProblem):
        value, frozen, texts = float(test[metric]), _frozen(problem), len(problem.test)
        return HeldOutScores(metric, value, None, None, frozen, None, None, texts, None, [])
    from sklearn.metrics import classification_report

    held = [(problem, answers), *elsewhere]
    given = [answer for _, own in held for answer in own]
    labels = [label for one, _ in held for label in one.test.labels.tolist()]
    names, texts = problem.task.label_names, len(labels)
    right = sum(a == b for a, b in zip(given, labels, strict=True))
    low, high = wilson(right, texts, _LEVEL)
    kinds = range(len(names))
    report: Any = classification_report(labels, given, labels=kinds, output_dict=True, zero_division=0)  # type: ignore
    rows = [report[str(kind)] for kind in kinds]
    classes = [
        ClassScore(name, row["precision"], row["recall"], row["f1-score"], int(row["support"]))
        for name, row in zip(names, rows, strict=True)
    ]
    commonest = max(classes, key=lambda one: one.texts)
    return HeldOutScores(
        metric,
        right / texts,
        low,
        high,
        sum(_frozen(one) * len(one.test) for one, _ in held) / texts,
        commonest.texts / texts,
        commonest.name,
        texts,
        report["macro avg"]["f1-score"],
        classes,
        len(held),
    )


def _frozen(problem: Problem) -> float:
    """Return the score at δ = 0."""
    try:
        return float(problem.evaluate(problem.delta.zero(), problem.test)[problem.metric])
    finally:
        problem.restore()
