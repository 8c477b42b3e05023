"""Final scores of the main methods on many tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, drawing
from experiments.scope import Scope
from experiments.studies.methods import (
    ANSWERS,
    DATA,
    METHODS,
    check_order,
    frozen,
    grid,
    joint,
    order_sentences,
    seeds_run,
    table_of,
    tuned,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = "On average fine-tuning > LoRA > adapter > prefix > prompt; single tasks differ"
SOURCE = "Ding et al. 2023, section 4.1"
TASKS = ("classification", "generation")
ORDER = ("fine-tuning", "LoRA", "adapter", "prefix", "prompt")
LABELS = [method.label for method in METHODS]


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all methods on all tasks."""
    yield from grid(scope, METHODS, known)


def findings(scope: Scope, known: Known) -> Findings:
    """Average scores and the claimed order."""
    verdicts, found, numbers, tables, figures = [], [], {}, [], {}
    for model in scope.models:
        tasks, scores = table_of(scope, model, METHODS, known, lambda result, _: result["test"] or 0.0)
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        order = check_order(scores, LABELS, ORDER)
        verdicts.append(order.verdict)
        means = scores.mean(0)
        start = np.array([(known.get(frozen(model, task)) or {}).get("test", np.nan) for task in tasks])
        said = ", ".join(f"{LABELS[i]} {means[i]:.3f}" for i in np.argsort(-means))
        best = [LABELS[i] for i in scores.argmax(1)]
        wins = {label: best.count(label) for label in LABELS if label in best}
        seeds = seeds_run(scope, model, METHODS, tasks, known)
        found.append(f"{model}, {len(tasks)} tasks, {seeds}: {said}; frozen {np.nanmean(start):.3f}.")
        found += order_sentences(model, order)
        found.append(f"{model}: best on {', '.join(f'{n} tasks {label}' for label, n in wins.items())}.")
        rates = {m.label: tuned(scope, model, m, known)[0] for m in METHODS}
        numbers[model] = {
            "tasks": len(tasks),
            "mean": dict(zip(LABELS, means.tolist(), strict=True)),
            "wins": wins,
        }
        tables.append(
            Table(
                f"{model}: mean test score with its 95 % interval over tasks",
                ["method", "learning rate", "score", "best on"],
                [[x, rates[x], with_interval(scores[:, i]), wins.get(x, 0)] for i, x in enumerate(LABELS)],
            )
        )
        tables.append(_categories(model, tasks, scores))
        rows = [
            [t.name, t.category, f, *row]
            for t, f, row in zip(tasks, start.tolist(), scores.tolist(), strict=True)
        ]
        tables.append(Table(f"{model}: every task", ["task", "category", "frozen", *LABELS], rows))
        with drawing(7, 3) as (figure, axes):
            axes.plot(
                np.repeat(range(len(LABELS)), len(tasks)),
                (scores - start[:, None]).T.ravel(),
                ".",
                color=COLOURS["faint"],
            )
            axes.plot(
                range(len(LABELS)),
                (scores - start[:, None]).mean(0),
                "_",
                ms=24,
                mew=3,
                color=COLOURS["measured"],
            )
            axes.set_xticks(range(len(LABELS)), LABELS)
            axes.set_ylabel("score gained over the frozen model")
        figures[f"{model}: what each method gains on each task, and its mean"] = figure
    ran = RAN.format(**(DATA if scope.tasks[0].kind == "classification" else ANSWERS))
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


RAN = (
    "Every method has the same 60 steps of 16 examples (at most {train} training examples, {max_length} "
    "tokens, AdamW, dev score on {dev} examples every 6 steps, the best δ there is tested on at most "
    "{test}). Scores are accuracies, or ROUGE-L of greedy answers where a task asks for text. The learning "
    "rate is tuned by dev score on four calibration tasks for each backbone, all methods over the same "
    "rates. Tasks are drawn by lot, families in turn."
)


def _categories(model: str, tasks: list, scores: np.ndarray) -> Table:
    groups: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        groups.setdefault(task.category, []).append(i)
    rows: list[list[Any]] = []
    for category, at in sorted(groups.items()):
        means = scores[at].mean(0)
        order = " > ".join(LABELS[i] for i in np.argsort(-means))
        rows.append([category, len(at), order, float(means.max()), float(means.min())])
    return Table(f"{model}: by category", ["category", "tasks", "order", "best mean", "worst mean"], rows)
