"""Several deltas at once or one after the other, and the generalization gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import numpy as np

from experiments.page import Findings, Table
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import (
    METHODS,
    Method,
    budget,
    by_family,
    check_order,
    counted,
    examples,
    grid,
    joint,
    methods,
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
FULL = next(m for m in METHODS if m.label == "fine-tuning")
_SINGLE = [m for m in METHODS if m.label in ("adapter", "BitFit", "prompt")]
_SCALES = Method("LayerNorm", "layernorm")  # in the place of BitFit where a backbone has no biases


def _part(method: Method) -> list:
    name, _, size = method.delta.partition(":")
    options = {"adapter": "bottleneck", "prompt": "length"}
    return [name, {options[name]: int(size)} if size else {}]


def _joined(parts: Sequence[Method], sign: str) -> Method:
    return Method(sign.join(m.label for m in parts), "combined", {"deltas": [_part(m) for m in parts]})


def single(model: str) -> list[Method]:
    """Return the three deltas that are combined, in the order of the names of their combinations."""
    return [m if m in methods(model) else _SCALES for m in _SINGLE]


def chosen(model: str) -> list[Method]:
    """Return fine-tuning, the single deltas and all their combinations."""
    together = [_joined(some, " + ") for n in (2, 3) for some in combinations(single(model), n)]
    return [FULL, *single(model), *together]


def _pairs(model: str) -> list[tuple[Method, ...]]:
    """Return what is trained one after the other, in both orders."""
    return list(permutations(single(model), 2))


def _sequence(
    scope: Scope, model: str, pair: Sequence[Method], task: TaskInfo, seed: int, known: Known
) -> Trial | None:
    rates = [tuned(scope, model, method, known)[0] for method in pair]
    if None in rates:
        return None
    settings = {**examples(model, task), **budget(model), "learning_rates": rates}
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
    yield from grid(scope, chosen, known)
    for model in scope.models:
        for pair in _pairs(model):
            for task in scope.tasks:
                for seed in scope.seeds:
                    if trial := _sequence(scope, model, pair, task, seed, known):
                        yield trial


def findings(scope: Scope, known: Known) -> Findings:
    """Scores and gaps of single deltas, combinations and sequences."""
    verdicts, found, numbers, tables = [], [], {}, []
    for model in scope.models:
        labels = [m.label for m in chosen(model)]
        tasks, scores = table_of(scope, model, chosen(model), known, lambda r, _: r["test"] or 0.0)
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        _, fitted = table_of(scope, model, chosen(model), known, lambda r, _: r["train"] or 0.0)
        gaps, scores = (by_family(tasks, x) for x in (fitted - scores, scores))
        small = single(model)[-1].label
        helped = [
            (small, f"adapter + {small}"),
            ("prompt", "adapter + prompt"),
            ("adapter", f"adapter + {small}"),
            ("adapter", "adapter + prompt"),
        ]
        gains = {f"{b} - {a}": scores[:, labels.index(b)] - scores[:, labels.index(a)] for a, b in helped}
        checks = [check_order(scores, labels, (b, a)).verdict for a, b in helped[:2]]
        helps = [check_order(scores, labels, (b, a)).verdict == "agrees" for a, b in helped[2:]]
        checks += ["disagrees" if one else "agrees" for one in helps]
        alone = check_order(-gaps, labels, ("adapter", "fine-tuning"))
        every = check_order(-gaps, labels, ("adapter", labels[-1]))
        verdicts.append(
            "disagrees"
            if "disagrees" in (*checks, alone.verdict, every.verdict)
            else joint([*checks, alone.verdict, every.verdict])
        )
        said = "; ".join(f"{name} {with_interval(gain)}" for name, gain in gains.items())
        seeds = seeds_run(scope, model, chosen(model), tasks, known)
        found.append(f"{model}, {counted(tasks)}, {seeds}, test score: {said}.")
        found.append(
            f"{model}: generalization gap (training - test score): "
            + ", ".join(f"{label} {gaps[:, i].mean():.3f}" for i, label in enumerate(labels))
            + "."
        )
        rows = [[x, with_interval(scores[:, i]), with_interval(gaps[:, i])] for i, x in enumerate(labels)]
        behind = []
        for pair in _pairs(model):
            label = " then ".join(m.label for m in pair)
            runs = [_sequences(scope, model, pair, tasks, seed, known) for seed in scope.seeds]
            if whole := [run for run in runs if run]:
                tests, trains = (
                    by_family(tasks, np.mean([[r[key] or 0.0 for r in run] for run in whole], axis=0))[:, 0]
                    for key in ("test", "train")
                )
                rows.append([label, with_interval(tests), with_interval(trains - tests)])
                better = max((scores[:, labels.index(m.label)] for m in pair), key=np.mean)
                behind.append(f"{label} {with_interval(tests - better)}")
        if behind:
            found.append(
                f"{model}, one after the other, less the part with the better mean alone: "
                f"{'; '.join(behind)}."
            )
        numbers[model] = {
            "tasks": len(tasks),
            "scores": dict(zip(labels, scores.mean(0).tolist(), strict=True)),
            "gaps": dict(zip(labels, gaps.mean(0).tolist(), strict=True)),
        }
        tables.append(
            Table(
                f"{model}: means over families with their 95 % intervals",
                ["deltas", "test score", "generalization gap"],
                rows,
            )
        )
    ran = (
        "As in `performance`; a combination has a learning rate of its own, a sequence gives each part half "
        "of the steps and the rate it has alone. Where a backbone has no biases the scales of its norms "
        "stand in the place of BitFit. The gap is the score on the training examples less that on the test "
        "split."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)
