"""How fast the methods reach what they reach."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.page import Findings, Table, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import (
    budget,
    by_family,
    check_order,
    counted,
    frozen,
    grid,
    joint,
    methods,
    order_sentences,
    seeds_run,
    spearman,
    table_of,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = (
    "Convergence is fastest for fine-tuning, then adapter and LoRA, then prefix, then prompt; structure "
    "decides it, not the number of parameters"
)
SOURCE = "Ding et al. 2023, section 4.1"
TASKS = ("classification", "generation")
ORDER = ("fine-tuning", "LoRA", "prefix", "prompt")
_GAIN = 0.03  # least gain of the dev score of which a share is looked for


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all methods on all tasks: the trials of the study `performance`."""
    yield from grid(scope, methods, known)


def steps_to_90(result: dict, start: float) -> float | None:
    """Return the steps to 90 % of the gain of the dev score, or `None` where there is hardly any."""
    scores = [row[1] for row in result["dev"]]
    if not scores or max(scores) - start < _GAIN:
        return None
    level = start + 0.9 * (max(scores) - start)
    return next(row[0] for row in result["dev"] if row[1] >= level)


def findings(scope: Scope, known: Known) -> Findings:
    """Steps and passes to 90 % of the gain, by method."""
    verdicts, found, numbers, tables = [], [], {}, []
    for model in scope.models:
        chosen = methods(model)
        labels = [method.label for method in chosen]

        def steps(result: dict, task: TaskInfo, model: str = model) -> float | None:
            return steps_to_90(result, (known.get(frozen(model, task)) or {"dev": 1.0})["dev"])

        tasks, values = table_of(scope, model, chosen, known, steps)
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        _, loss = table_of(scope, model, chosen, known, lambda result, _: steps_of_loss(result["losses"]))
        _, passes = table_of(scope, model, chosen, known, lambda result, _: result["passes"])
        passes /= budget(model)["steps"]
        values, loss, work = (by_family(tasks, x) for x in (values, loss, loss * passes))
        _, sizes = table_of(scope, model, chosen, known, lambda result, _: result["parameters"])
        order = check_order(-loss, labels, ORDER)
        verdicts.append(order.verdict)
        means, slowness, work = (  # nan where no task has a gain
            np.ma.masked_invalid(x).mean(0).filled(np.nan) for x in (values, loss, work)
        )
        rho = spearman(np.log(sizes[0]).tolist(), slowness.tolist())
        said = ", ".join(f"{labels[i]} {means[i]:.0f}".replace("nan", "–") for i in np.argsort(means))
        seeds = seeds_run(scope, model, chosen, tasks, known)
        found.append(
            f"{model}, {counted(tasks)}, {seeds}: mean steps to 90 % of the gain of the dev score: {said}."
        )
        found += [
            x.replace("(mean over", "(fewer steps to 90 % of the fall of training loss; mean over")
            for x in order_sentences(model, order)
        ]
        found.append(
            f"{model}: rank correlation of log parameters with the steps, over methods: {number(rho)}."
        )
        numbers[model] = {"steps": dict(zip(labels, means.tolist(), strict=True)), "parameters_rho": rho}
        rows = [
            [
                label,
                int(sizes[0, i]),
                with_interval(values[np.isfinite(values[:, i]), i]),
                with_interval(loss[np.isfinite(loss[:, i]), i]),
                float(work[i]),
                int(np.isfinite(values[:, i]).sum()),
            ]
            for i, label in enumerate(labels)
        ]
        columns = [
            "method",
            "parameters",
            "steps to 90 % of the gain",
            "steps to 90 % of the fall of the loss",
            "the latter in passes",
            "families with a gain",
        ]
        tables.append(Table(f"{model}: convergence", columns, rows))
    ran = (
        "The runs of the study `performance`. Steps to 90 % of the gain of the dev score over the frozen "
        f"model are looked for every {budget(scope.models[0])['evaluate_every']} steps, where the gain is at "
        f"least {_GAIN}; since few dev examples are "
        "noisy, the order is judged by the training loss, smoothed over 10 steps: the steps to 90 % of its "
        "fall."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)


def steps_of_loss(losses: list[float], width: int = 10) -> float | None:
    """Return the step at which the smoothed loss has made 90 % of its fall, `None` if it does not fall."""
    if len(losses) < 2 * width:
        return None
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    low, start = smooth.min(), smooth[0]
    if start <= low:
        return None
    return float(np.argmax(smooth <= start - 0.9 * (start - low)))
