"""Memory and time of the methods in the runs of the study."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.page import Findings, Table
from experiments.scope import Scope
from experiments.studies.methods import (
    by_family,
    check_order,
    counted,
    grid,
    joint,
    methods,
    seeds_run,
    table_of,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = "Deltas save time and memory of training, most of it the optimizer's state and the weights' gradients"
SOURCE = "Ding et al. 2023, section 4.1"
ABOUT = (
    "The smallest backbones are so small that what every step costs beside the network hides what is saved, "
    "and single times are those of a busy machine."
)
TASKS = ("classification", "generation")


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all methods on all tasks: the trials of the study `performance`."""
    yield from grid(scope, methods, known)


def findings(scope: Scope, known: Known) -> Findings:
    """Seconds a step and bytes of optimizer state, against fine-tuning."""
    verdicts, found, numbers, tables = [], [], {}, []
    for model in scope.models:
        chosen = methods(model)
        labels = [method.label for method in chosen]
        tasks, seconds = table_of(scope, model, chosen, known, lambda result, _: result["seconds_per_step"])
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        _, state = table_of(scope, model, chosen, known, lambda result, _: result["optimizer_bytes"])
        _, sizes = table_of(scope, model, chosen, known, lambda result, _: result["parameters"])
        ratio = by_family(tasks, seconds / seconds[:, :1])
        others = [label for label in labels if label != "fine-tuning"]
        saves = [check_order(-ratio, labels, (label, "fine-tuning")).verdict for label in others]
        verdicts.append(joint(saves))
        means = ratio.mean(0)
        said = ", ".join(f"{label} {means[i]:.2f}" for i, label in enumerate(labels) if i)
        seeds = seeds_run(scope, model, chosen, tasks, known)
        found.append(
            f"{model}, {counted(tasks)}, {seeds}: seconds a step as a share of fine-tuning's (same "
            f"trainer): {said}."
        )
        numbers[model] = {"seconds_ratio": dict(zip(labels, means.tolist(), strict=True))}
        rows = [
            [label, int(sizes[0, i]), float(state[0, i] / 1e6), with_interval(ratio[:, i])]
            for i, label in enumerate(labels)
        ]
        tables.append(
            Table(
                f"{model}: cost of a step",
                ["method", "parameters", "optimizer MB", "time / fine-tuning"],
                rows,
            )
        )
    ran = (
        "The runs of the study `performance`; fine-tuning goes through the same trainer as a δ. Peak memory "
        "of a step, alone in its process, is in `experiments/results/benchmarks/efficiency-cpu.md`."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)
