"""Measured d90 along the pretraining of a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from experiments.page import Findings, Table, Verdict
from experiments.scope import Scope, TaskInfo
from experiments.studies import dimension
from experiments.studies.methods import joint, with_interval
from experiments.trial import Known, Trial

CLAIM = "d90 falls as a backbone is pretrained for longer"
SOURCE = "Aghajanyan et al. 2021, on checkpoints of RoBERTa-base"
# Steps of the snapshots that lie beside a backbone of `experiments/pretrain.py`.
SNAPSHOTS = {"gpt-0.3M": (150, 300, 600, 1200)}


def stages(model: str) -> dict[str, str]:
    """Return a backbone and its snapshots, the earliest first, by what the page calls them."""
    early = {f"{steps:,} steps": f"{model}/snapshots/step-{steps:06d}" for steps in SNAPSHOTS[model]}
    return {**early, "the end": model}


def _here(scope: Scope) -> Scope:
    return replace(scope, models=tuple(m for m in scope.models if m in SNAPSHOTS))


def _searches(scope: Scope, model: str, known: Known) -> Iterator[tuple[TaskInfo, list[Trial]]]:
    """Yield each task with a search a stage, all to the level of the last one."""
    for task in scope.tasks:
        if last := dimension.trial(scope, model, task, known):
            yield task, [replace(last, model=stage) for stage in stages(model).values()]


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield fine-tuning of the whole backbone where it is missing, then one search a task and stage."""
    yield from dimension.searches(_here(scope), known)
    for model in _here(scope).models:
        for _, searches in _searches(scope, model, known):
            yield from searches


def findings(scope: Scope, known: Known) -> Findings:
    """Compare d90 of the first stage and the last, task by task."""
    verdicts: list[Verdict] = []
    found, numbers, tables = [], {}, []
    for model in _here(scope).models:
        rows = [(task, [known.get(t) for t in ts]) for task, ts in _searches(scope, model, known)]
        whole = [(task, [r for r in row if r]) for task, row in rows if all(row)]
        if not whole:
            found.append(f"{model}: no task is complete.")
            continue
        names = list(stages(model))
        values = [[r["d90"]["measured"]["value"] for r in row] for _, row in whole]
        d90 = dimension.with_unreached(values)
        fall = dimension.fall(d90[:, 0], d90[:, -1])
        verdicts.append(fall.verdict)
        found.append(f"{model}, {len(whole)} tasks: from {names[0]} to {names[-1]} {fall}.")
        numbers[model] = {"tasks": len(whole), "fell": fall.fell, "rose": fall.rose, "p": fall.p}
        frozen = np.array([[r["frozen"] for r in row] for _, row in whole])
        medians = np.median(d90, axis=0)
        cells = [
            [
                name,
                with_interval(frozen[:, i]),
                int((d90[:, i] == 0).sum()),
                int(np.isinf(d90[:, i]).sum()),
                float(medians[i]) if np.isfinite(medians[i]) else None,
            ]
            for i, name in enumerate(names)
        ]
        heads = [
            "pretrained for",
            "accuracy of the frozen model",
            "d90 = 0 on",
            "not reached on",
            "median d90",
        ]
        tables.append(Table(f"{model}: {len(whole)} tasks", heads, cells))
        every = [[task.name, *row] for (task, _), row in zip(whole, values, strict=True)]
        tables.append(Table(f"{model}: d90 of every task", ["task", *names], every))
    if not found:
        found.append(f"No backbone with snapshots is among {', '.join(scope.models)}.")
    ran = (
        "The search of `dimension` on snapshots of one pretraining run, all before its learning rate falls, "
        "and on the backbone at its end. The level is the same for all: 90 % of the test accuracy of tuned "
        "fine-tuning at the end. A level that no d reaches counts as above all d. The claim is taken to hold "
        "where d90 falls from the first snapshot to the end on more tasks than it rises on, beyond chance."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)
