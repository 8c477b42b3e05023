"""What the studies share: the methods, their budget, and how a learning rate is chosen for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
from scipy import stats

from experiments.page import Verdict
from experiments.scope import Scope, TaskInfo
from experiments.trial import Known, Trial

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_FIRST = 5  # where the climb over the rates begins
_TUNING_TASKS = 4
_LEAST_FAMILIES = 6  # for a verdict
DATA = {"train": 512, "dev": 100, "test": 400, "max_length": 48}
ANSWERS = {**DATA, "dev": 50, "test": 200, "max_new_tokens": 12}  # each of its tokens costs a pass
LANGUAGE_MODEL = "smollm2"  # on board, with a head of its own and a core for minutes a training
FAMILY = "gpt-"  # backbones of `experiments/pretrain.py`, named by their size
BUDGET = {"steps": 60, "batch_size": 16, "evaluate_every": 6}
_LANGUAGE_BUDGET = {"steps": 40, "batch_size": 8, "evaluate_every": 10}
_FEWER = {  # examples of the language model: its trainings are cut to a minute of a core
    "classification": {"train": 320, "dev": 50, "test": 200},
    "generation": {"train": 160, "dev": 25, "test": 100, "max_length": 32, "max_new_tokens": 8},
}


@dataclass(frozen=True)
class Method:
    """A delta as the studies train it.

    Attributes:
        label: what pages call it.
        delta: name and size.
        options: further arguments of its class.
    """

    label: str
    delta: str
    options: Mapping[str, Any] = field(default_factory=dict)


METHODS = (
    Method("fine-tuning", "full"),
    Method("LoRA", "lora:8"),
    Method("adapter", "adapter:8"),
    Method("prefix", "prefix:8", {"gate": "values"}),
    Method("prompt", "prompt:8"),
    Method("BitFit", "bitfit"),
    Method("(IA)³", "ia3"),
)


def data(model: str, task: TaskInfo) -> dict[str, Any]:
    """Return the settings of data and head on a backbone.

    The head of a sentence encoder is the embeddings of the label words. Backbones of our own recipe are too
    small for that, their label words fall into pieces: they have a linear probe, fitted at θ₀ and frozen.
    The language model on board reads the rows of its head that belong to the label words, calibrated.
    Generation has the head of the language model.
    """
    if task.kind == "generation":
        return ANSWERS
    if model == LANGUAGE_MODEL:
        return {**DATA, "max_length": 32, "head": "calibrated-verbalizer"}
    return {**DATA, "head": "probe" if model.startswith(FAMILY) else "label-words"}


def methods(model: str) -> tuple[Method, ...]:
    """Return the main methods that a backbone can have: the language model on board has no biases."""
    return tuple(m for m in METHODS if (model, m.label) != (LANGUAGE_MODEL, "BitFit"))


def budget(model: str) -> dict[str, int]:
    """Return the steps of a training and their batches."""
    return _LANGUAGE_BUDGET if model == LANGUAGE_MODEL else BUDGET


def examples(model: str, task: TaskInfo) -> dict[str, Any]:
    """Return the `data` that the main methods are trained and judged on."""
    return {**data(model, task), **(_FEWER[task.kind] if model == LANGUAGE_MODEL else {})}


def training(model: str, method: Method, task: TaskInfo, rate: float, seed: int) -> Trial:
    """Return the trial that trains a method once."""
    settings = {**examples(model, task), **budget(model), "learning_rate": rate}
    return Trial("train", model, task.name, method.delta, dict(method.options), seed, settings)


def frozen(model: str, task: TaskInfo) -> Trial:
    """Return the trial that evaluates the frozen backbone."""
    return Trial("frozen", model, task.name, settings=examples(model, task))


def tuned(scope: Scope, model: str, method: Method, known: Known) -> tuple[float | None, list[Trial]]:
    """Return the method's learning rate on a backbone, or `None` and the trials it still needs.

    The rate is that with the best mean dev score on the first calibration tasks of the draw, with the first
    seed: a `climb` from the middle of `RATES`. All methods alike.
    """
    key = "rate", scope, model, method.label
    if key in known.derived:
        return known.derived[key]
    half = [task for task in scope.tasks if task.half == "calibration"] or list(scope.tasks)
    tasks, seed = half[:_TUNING_TASKS], scope.seeds[0]

    def at(rate: float) -> list[Trial]:
        return [training(model, method, task, rate, seed) for task in tasks]

    known.derived[key] = climb(RATES, _FIRST, at, known)
    return known.derived[key]


def climb(
    rates: Sequence[float], first: int, trials_at: Callable[[float], list[Trial]], known: Known
) -> tuple[float | None, list[Trial]]:
    """Return the rate at which the mean of the best dev scores stops rising, or `None` and what must run.

    Args:
        rates: in their order.
        first: where the climb begins: down as long as the score rises, or else up.
        trials_at: rate ↦ the trainings whose scores are averaged; one that has failed counts as 0.
        known: results.
    """

    def needed(i: int) -> list[Trial]:
        return [t for t in trials_at(rates[i]) if known.get(t) is None and known.error(t) is None]

    def score(i: int) -> float:
        results = [known.get(trial) for trial in trials_at(rates[i])]
        return mean(max((row[1] for row in r["dev"]), default=0.0) if r else 0.0 for r in results)

    at = first
    for step in (-1, 1):
        while 0 <= at + step < len(rates):
            if missing := needed(at) + needed(at + step):
                return None, missing
            if score(at + step) <= score(at):
                break
            at += step
    return rates[at], []


def grid(scope: Scope, methods_of: Callable[[str], Iterable[Method]], known: Known) -> Iterator[Trial]:
    """Yield the trials of each backbone's methods on all tasks: first those that tune, then all seeds."""
    for model in scope.models:
        yield from (frozen(model, task) for task in scope.tasks)
        for method in methods_of(model):
            rate, missing = tuned(scope, model, method, known)
            yield from missing
            if rate is not None:
                yield from (
                    training(model, method, task, rate, seed) for task in scope.tasks for seed in scope.seeds
                )


def results(
    scope: Scope, model: str, methods: Sequence[Method], task: TaskInfo, known: Known
) -> list[list[dict[str, Any]]]:
    """Return what tuned methods came to on a task: a list for each seed with which all of them have run."""
    rates = [tuned(scope, model, method, known)[0] for method in methods]
    found = [
        [
            rate and known.get(training(model, m, task, rate, seed))
            for m, rate in zip(methods, rates, strict=True)
        ]
        for seed in scope.seeds
    ]
    return [[r for r in row if r] for row in found if all(row)]


def table_of(
    scope: Scope, model: str, methods: Sequence[Method], known: Known, value: Any
) -> tuple[list[TaskInfo], np.ndarray]:
    """Return the tasks on which all methods ran, and the mean of `value(result, task)` over `results`.

    The array has a row a task and a column a method; NaN where `value` is `None`.
    """
    tasks, rows = [], []
    for task in scope.tasks:
        if runs := results(scope, model, methods, task, known):
            tasks.append(task)
            values = [[value(r, task) for r in one] for one in zip(*runs, strict=True)]
            rows.append([np.nan if None in v else mean(v) for v in values])
    return tasks, np.array(rows).reshape(len(tasks), len(methods))


def by_family(tasks: Sequence[TaskInfo], values: np.ndarray) -> np.ndarray:
    """Return a row a family of tasks: the mean of theirs that are not NaN.

    Means, intervals and verdicts are taken over these: siblings are not independent of each other.
    """
    families: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        families.setdefault(task.family, []).append(i)
    rows = [np.ma.filled(np.ma.masked_invalid(values[at]).mean(0), np.nan) for at in families.values()]
    return np.array(rows).reshape(len(families), -1)


def counted(tasks: Sequence[TaskInfo]) -> str:
    """Write how many tasks there are, and of how many families."""
    families = len({task.family for task in tasks})
    return f"{len(tasks)} tasks of {families} families"


def seeds_run(
    scope: Scope, model: str, methods: Sequence[Method], tasks: list[TaskInfo], known: Known
) -> str:
    """Say with how many seeds all methods have run on the tasks."""
    runs = [len(results(scope, model, methods, task, known)) for task in tasks]
    return f"{min(runs)} to {max(runs)} seeds" if min(runs) < max(runs) else f"seeds: {min(runs)}"


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean, NaN where fewer than three values have none."""
    values = np.asarray(values, float)
    if len(values) < 3:
        return np.nan, np.nan
    if np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    found = stats.bootstrap((values,), np.mean, n_resamples=2000, rng=0).confidence_interval
    return float(found.low), float(found.high)


def with_interval(values: np.ndarray) -> str:
    """Write a mean and its 95 % interval; a dash where there are no values."""
    if not len(values):
        return "–"
    low, high = interval(values)
    return f"{np.mean(values):.3f}" + ("" if np.isnan(low) else f" ({low:.3f} to {high:.3f})")


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the rank correlation, or `None` where one side is constant."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y)[0])


@dataclass(frozen=True)
class Order:
    """How a claimed order of methods, best first, stands after paired comparisons over families of tasks.

    Attributes:
        verdict: "agrees" where every neighbour is ahead beyond chance, "disagrees" where one is behind beyond
            chance, else "undecided", as on fewer than six families, whose signs agree by chance too often.
        rows: first, second, mean difference, low and high of its 95 % interval.
    """

    verdict: Verdict
    rows: list[tuple[str, str, float, float, float]]


def check_order(values: np.ndarray, labels: Sequence[str], claimed: Sequence[str]) -> Order:
    """Compare each method of a claimed order with the next.

    Args:
        values: a row a family, a column a method; more is better.
        labels: of the columns.
        claimed: labels, best first.
    """
    rows, judged = [], []
    for first, second in pairwise(claimed):
        gain = values[:, labels.index(first)] - values[:, labels.index(second)]
        gain = gain[np.isfinite(gain)]
        rows.append(
            (first, second, float(gain.mean()), *interval(gain))
            if len(gain)
            else (first, second, 0.0, -1.0, 1.0)
        )
        judged += rows[-1:] if len(gain) >= _LEAST_FAMILIES else []
    if any(high < 0 for *_, high in judged):
        return Order("disagrees", rows)
    ahead = len(judged) == len(rows) and all(low > 0 for *_, low, _ in rows)
    return Order("agrees" if ahead else "undecided", rows)


def joint(verdicts: Iterable[Verdict]) -> Verdict:
    """Return one verdict for several backbones: where they differ it is undecided."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else "undecided"


def order_sentences(model: str, order: Order) -> list[str]:
    """Say how each pair of a claimed order came out."""
    said = [
        f"{a} - {b}: {d:+.3f}" + ("" if np.isnan(low) else f" ({low:+.3f} to {high:+.3f})")
        for a, b, d, low, high in order.rows
    ]
    return [f"{model}, {order.verdict}: {'; '.join(said)} (mean over families, 95 % interval)."]
