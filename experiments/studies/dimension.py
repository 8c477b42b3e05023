"""Measured d90 of every task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, Verdict, drawing, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import METHODS, budget, examples, spearman, training, tuned
from experiments.trial import Known, Trial

CLAIM = (
    "A few hundred dimensions of a random subspace suffice for 90 % of the score of fine-tuning a "
    "pretrained model"
)
SOURCE = "Aghajanyan et al. 2021"
ABOUT = (
    "Two measurements of a task differ most where the level hardly lies above the frozen model, where no run "
    "has reached it, and where few points of accuracy lie between many d."
)
FULL = next(m for m in METHODS if m.label == "fine-tuning")
_RUNS = 6.0
_LEAST = 10  # tasks with a d90 above 0 that a verdict needs


def trial(scope: Scope, model: str, task: TaskInfo, known: Known) -> Trial | None:
    """Return the trial of d90 against tuned fine-tuning; `None` before that has run.

    The level is that of the first seed: more seeds leave the trial what it is.
    """
    rate, _ = tuned(scope, model, FULL, known)
    tuning = rate and known.get(training(model, FULL, task, rate, scope.seeds[0]))
    if not tuning or not tuning["test"]:
        return None
    kept = {key: budget(model)[key] for key in ("steps", "batch_size")}
    return Trial(
        "dimension",
        model,
        task.name,
        settings={**examples(model, task), **kept, "runs": _RUNS, "baseline": tuning["test"]},
    )


def repeated(scope: Scope, model: str, task: TaskInfo, known: Known) -> list[Trial]:
    """Return the trials of d90 to the same level with the other seeds.

    They begin in the middle of all d, not at the prediction, which they can therefore judge.
    """
    first = trial(scope, model, task, known)
    return [replace(first, kind="measurement", seed=seed) for seed in scope.seeds[1:]] if first else []


def searches(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield fine-tuning where it is missing, then one search a task."""
    for model in scope.models:
        rate, missing = tuned(scope, model, FULL, known)
        yield from missing
        for task in () if rate is None else scope.tasks:
            yield training(model, FULL, task, rate, scope.seeds[0])
            if one := trial(scope, model, task, known):
                yield one


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield one search a task, and what measures d90 again with the other seeds."""
    yield from searches(scope, known)
    for model in scope.models:
        for task in scope.tasks:
            yield from repeated(scope, model, task, known)


def measured(scope: Scope, model: str, known: Known) -> list[tuple[TaskInfo, dict]]:
    """Return the tasks whose search has run, with its result."""
    rows = []
    for task in scope.tasks:
        one = trial(scope, model, task, known)
        if one and (result := known.get(one)):
            rows.append((task, result))
    return rows


def remeasured(scope: Scope, model: str, task: TaskInfo, known: Known) -> list[float | None]:
    """Return the d90 that the other seeds have found; `None` where no d that was tried reaches the level."""
    results = [known.get(one) for one in repeated(scope, model, task, known)]
    return [result["d90"]["measured"]["value"] for result in results if result]


def agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return how well pairs of d90, all above 0, agree: in rank, and by their factors."""
    misses = [abs(math.log2(x / y)) for x, y in pairs]
    return {
        "spearman": spearman([x for x, _ in pairs], [y for _, y in pairs]),
        "within_factor_two": float(np.mean(np.less_equal(misses, 1))),
        "median_factor": float(2 ** np.median(misses)),
    }


def in_words(found: dict[str, Any]) -> str:
    """Say what `agreement` found."""
    return (
        f"rank correlation {number(found['spearman'])}, median miss a factor of "
        f"{found['median_factor']:.1f}, within a factor of two {found['within_factor_two']:.0%}"
    )


@dataclass(frozen=True)
class Fall:
    """On how many tasks d90 fell and rose, with the p-value of the sign test."""

    fell: int
    rose: int
    p: float

    @property
    def verdict(self) -> Verdict:
        """Say whether d90 fell on more tasks than it rose on, beyond chance."""
        return "undecided" if self.p >= 0.05 else "agrees" if self.fell > self.rose else "disagrees"

    def __str__(self) -> str:
        return f"d90 falls on {self.fell} and rises on {self.rose} (sign test p = {self.p:.2g})"


def with_unreached(values: Any) -> np.ndarray:
    """Return measured d90 as an array, infinite where no d that was tried reaches the level."""
    return np.nan_to_num(np.array(values, float), nan=math.inf)


def fall(before: np.ndarray, after: np.ndarray) -> Fall:
    """Compare d90 of the same tasks, as `with_unreached` has them."""
    fell, rose = int((before > after).sum()), int((before < after).sum())
    return Fall(fell, rose, float(stats.binomtest(fell, fell + rose).pvalue) if fell + rose else 1.0)


def findings(scope: Scope, known: Known) -> Findings:
    """The distribution of d90."""
    found, numbers, tables, figures, small = [], {}, [], {}, []
    for model in scope.models:
        rows = measured(scope, model, known)
        values = [r["d90"]["measured"]["value"] for _, r in rows]
        positive = [v for v in values if v]
        if not positive:
            found.append(f"{model}: no d90 is measured.")
            continue
        zero, missed = values.count(0), values.count(None)
        if len(positive) >= _LEAST:
            small.append(np.median(positive) <= 1000)
        found.append(
            f"{model}, {len(rows)} tasks: the median d90 is {np.median(positive):.0f} of D = "
            f"{rows[0][1]['D']:,} (quartiles {np.quantile(positive, 0.25):.0f} and "
            f"{np.quantile(positive, 0.75):.0f}); on {zero} tasks the frozen model is already at the level, "
            f"on {missed} no d up to the largest tried reaches it."
        )
        numbers[model] = {
            "tasks": len(rows),
            "median": float(np.median(positive)),
            "zero": zero,
            "not_reached": missed,
        }
        again = [remeasured(scope, model, t, known) for t, _ in rows]
        pairs = [(v, other) for v, others in zip(values, again, strict=True) for other in others]
        if both := [(v, other) for v, other in pairs if v and other]:
            once = sum((v is None) != (other is None) for v, other in pairs)
            twice = agreement(both)
            numbers[f"{model}, measured again"] = {"pairs": len(both), "once": once, **twice}
            found.append(
                f"{model}: measured again with another seed, from the middle of all d and without a "
                f"prediction: {in_words(twice)}, {len(both)} pairs above 0; on {once} more of {len(pairs)} "
                "only one of the two reaches the level."
            )
        cells = [
            [
                t.name,
                t.category,
                r["frozen"],
                r["baseline"]["measured"],
                *(cell for way in ("predicted", "measured") for cell in _cells(r["d90"][way])),
                ", ".join("not reached" if x is None else f"{x:.0f}" for x in others) or None,
                r["full_runs"],
            ]
            for (t, r), others in zip(rows, again, strict=True)
        ]
        columns = ["task", "category", "frozen", "fine-tuning", "predicted d90", "its 90 % interval"]
        columns += ["d90", "90 % interval", "again", "full runs"]
        tables.append(Table(f"{model}: d90 of every task", columns, cells))
        with drawing(6, 3) as (figure, axes):
            axes.step(
                sorted(positive), np.arange(1, len(positive) + 1) / len(rows), color=COLOURS["measured"]
            )
            axes.set(xscale="log", xlabel="d", ylabel="share of tasks with 0 < d90 ≤ d", ylim=(0, 1))
        figures[f"{model}: distribution of measured d90"] = figure
    verdict = "undecided" if not small else "agrees" if all(small) else "disagrees"
    steps = budget(scope.models[0])
    ran = (
        "The budgeted search of `deltatheory dimension` (six training runs a task, hashed subspaces of all "
        f"blocks, {steps['steps']} steps of {steps['batch_size']}) "
        "against 90 % of the test accuracy of tuned fine-tuning in the same steps. "
        "The prediction is the one that the search began with; `prediction` judges today's. Further seeds "
        "measure d90 to the same level again. "
        "The claim is taken to hold where the median of the d90 above 0 is at most 1,000, on at least "
        f"{_LEAST} tasks."
    )
    return Findings(verdict, ran, found, numbers, tables, figures)


def _cells(value: dict[str, Any] | None) -> tuple[float | None, str | None]:
    """Return a d90 and its interval."""
    if value is None:
        return None, None
    low, high = (number(x, ".0f") for x in (value["low"], value["high"]))
    return value["value"], f"{low} to {high}"
