"""Several deltas at once or one after the other, and the generalization gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import numpy as np

from experiments.page import Findings, Table
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import (
    BUDGET,
    METHODS,
    Method,
    check_order,
    data,
    grid,
    interval,
    joint,
    seeds_run,
    table_of,
    tuned,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = (
    "Adding an adapter to BitFit or a prompt helps, adding these to an adapter does not; the "
    "generalization gap of single deltas is smaller than fine-tuning's and grows in combination"
)
SOURCE = "Ding et al. 2023, sections 4.2 and 4.3"
TASKS = ("classification", "generation")
SINGLE = {m.label: m for m in METHODS if m.label in ("adapter", "BitFit", "prompt")}
FULL = next(m for m in METHODS if m.label == "fine-tuning")


def _part(method: Method) -> list:
    name, _, size = method.delta.partition(":")
    options = {"adapter": "bottleneck", "prompt": "length"}
    return [name, {options[name]: int(size)} if size else {}]


def _joined(methods: Sequence[Method], sign: str) -> Method:
    return Method(sign.join(m.label for m in methods), "combined", {"deltas": [_part(m) for m in methods]})


TOGETHER = [_joined(some, " + ") for n in (2, 3) for some in combinations(SINGLE.values(), n)]
PAIRS = list(permutations(SINGLE.values(), 2))  # one after the other, in both orders
METHODS_HERE = [FULL, *SINGLE.values(), *TOGETHER]
LABELS = [m.label for m in METHODS_HERE]


def _sequence(
    scope: Scope, model: str, pair: Sequence[Method], task: TaskInfo, seed: int, known: Known
) -> Trial | None:
    rates = [tuned(scope, model, method, known)[0] for method in pair]
    if None in rates:
        return None
    settings = {**data(model, task), **BUDGET, "learning_rates": rates}
    return Trial("sequence", model, task.name, "combined", _joined(pair, " then ").options, seed, settings)


def _sequences(
    scope: Scope, model: str, pair: Sequence[Method], tasks: list[TaskInfo], seed: int, known: Known
) -> list[dict]:
    """Return the results on all tasks, or none where one is missing."""
    sequences = [_sequence(scope, model, pair, task, seed, known) for task in tasks]
    found = [result for one in sequences if one and (result := known.get(one))]
    return found if len(found) == len(tasks) else []


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield single deltas, all combinations of them, and pairs in sequence."""
    yield from grid(scope, METHODS_HERE, known)
    for model in scope.models:
        for pair in PAIRS:
            for task in scope.tasks:
                for seed in scope.seeds:
                    if trial := _sequence(scope, model, pair, task, seed, known):
                        yield trial


def findings(scope: Scope, known: Known) -> Findings:
    """Scores and gaps of single deltas, combinations and sequences."""
    verdicts, found, numbers, tables = [], [], {}, []
    for model in scope.models:
        tasks, scores = table_of(scope, model, METHODS_HERE, known, lambda r, _: r["test"] or 0.0)
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        _, fitted = table_of(scope, model, METHODS_HERE, known, lambda r, _: r["train"] or 0.0)
        gaps = fitted - scores
        helped = [
            ("BitFit", "adapter + BitFit"),
            ("prompt", "adapter + prompt"),
            ("adapter", "adapter + BitFit"),
            ("adapter", "adapter + prompt"),
        ]
        gains = {f"{b} - {a}": scores[:, LABELS.index(b)] - scores[:, LABELS.index(a)] for a, b in helped}
        checks = [check_order(scores, LABELS, (b, a)).verdict for a, b in helped[:2]]
        checks += ["disagrees" if interval(gains[f"{b} - {a}"])[0] > 0 else "agrees" for a, b in helped[2:]]
        single = check_order(-gaps, LABELS, ("adapter", "fine-tuning"))
        every = check_order(-gaps, LABELS, ("adapter", LABELS[-1]))
        verdicts.append(
            "disagrees"
            if "disagrees" in (*checks, single.verdict, every.verdict)
            else joint([*checks, single.verdict, every.verdict])
        )
        said = "; ".join(f"{name} {with_interval(gain)}" for name, gain in gains.items())
        seeds = seeds_run(scope, model, METHODS_HERE, tasks, known)
        found.append(f"{model}, {len(tasks)} tasks, {seeds}, test score: {said}.")
        found.append(
            f"{model}: generalization gap (training - test score): "
            + ", ".join(f"{label} {gaps[:, i].mean():.3f}" for i, label in enumerate(LABELS))
            + "."
        )
        rows = [[x, with_interval(scores[:, i]), with_interval(gaps[:, i])] for i, x in enumerate(LABELS)]
        behind = []
        for pair in PAIRS:
            label = " then ".join(m.label for m in pair)
            runs = [_sequences(scope, model, pair, tasks, seed, known) for seed in scope.seeds]
            if whole := [run for run in runs if run]:
                tests, trains = (
                    np.mean([[r[key] or 0.0 for r in run] for run in whole], axis=0)
                    for key in ("test", "train")
                )
                rows.append([label, with_interval(tests), with_interval(trains - tests)])
                better = max((scores[:, LABELS.index(m.label)] for m in pair), key=np.mean)
                behind.append(f"{label} {with_interval(tests - better)}")
        if behind:
            found.append(
                f"{model}, one after the other, less the part with the better mean alone: "
                f"{'; '.join(behind)}."
            )
        numbers[model] = {
            "tasks": len(tasks),
            "scores": dict(zip(LABELS, scores.mean(0).tolist(), strict=True)),
            "gaps": dict(zip(LABELS, gaps.mean(0).tolist(), strict=True)),
        }
        tables.append(
            Table(
                f"{model}: means over tasks with their 95 % intervals",
                ["deltas", "test score", "generalization gap"],
                rows,
            )
        )
    ran = (
        "As in `performance`; a combination has a learning rate of its own, a sequence gives each part half "
        "of the steps and the rate it has alone. The gap is the score on the training examples less that on "
        "the test split."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)
