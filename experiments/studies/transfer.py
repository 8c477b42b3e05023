"""Deltas trained on one task and evaluated on another, beside the angle between the tasks' kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, Verdict, drawing, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import (
    BUDGET,
    METHODS,
    Method,
    data,
    frozen,
    interval,
    joint,
    spearman,
    tuned,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = (
    "A trained delta transfers within a category of tasks and poorly across; the angle between task "
    "kernels tells where"
)
SOURCE = "Ding et al. 2023, section 4.5"
LORA = next(m for m in METHODS if m.label == "LoRA")
RANKS = (*(Method(f"LoRA r = {r}", f"lora:{r}") for r in (1, 2, 4)), LORA)
GAIN = 0.05  # least gain of a task's own delta of which a share is counted


def trial(scope: Scope, model: str, task: TaskInfo, known: Known) -> Trial | None:
    """Return the trial that trains on one task and evaluates on its peers."""
    rate, _ = tuned(scope, model, LORA, known)
    if rate is None:
        return None
    targets = [other.name for other in scope.peers(task)]
    settings = {**data(model, task), **BUDGET, "learning_rate": rate, "targets": targets}
    return Trial("transfer", model, task.name, LORA.delta, {}, scope.seeds[0], settings)


def kernel(model: str, task: TaskInfo) -> Trial:
    """Return the trial that predicts from kernels, and sketches that of LoRA."""
    some = [m for m in METHODS if m.label != "prompt"]  # a prompt has a reference point of its own
    settings = {
        **data(model, task),
        "train": 256,
        "deltas": [*(m.delta for m in some), *(m.delta for m in RANKS[:-1])],
        "options": {m.delta.partition(":")[0]: dict(m.options) for m in some if m.options},
        "sketched": LORA.delta,
    }
    return Trial("kernel", model, task.name, settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield one training a task, and its kernel."""
    for model in scope.models:
        yield from tuned(scope, model, LORA, known)[1]
        for task in scope.tasks:
            yield frozen(model, task)
            yield kernel(model, task)
            if one := trial(scope, model, task, known):
                yield one


def findings(scope: Scope, known: Known) -> Findings:
    """Shares of the own gain, within and across categories, and their correlation with angles."""
    verdicts, found, numbers, tables, figures = [], [], {}, [], {}
    for model in scope.models:
        pairs = _pairs(scope, model, known)
        if len(pairs) < 10:
            found.append(f"{model}: {len(pairs)} pairs of tasks are complete.")
            continue
        share = np.array([p["share"] for p in pairs])
        near = np.array([p["same"] for p in pairs])
        rho = {key: spearman([p[key] for p in pairs], share.tolist()) for key in ("tangent", "gradient")}
        partial = spearman(_centred(pairs, "gradient"), _centred(pairs, "share"))
        within, across = share[near], share[~near]
        found.append(
            f"{model}: share of the own gain that another task's LoRA brings: {with_interval(within)} within "
            f"a category ({len(within)} pairs), {with_interval(across)} across categories ({len(across)})."
        )
        verdict: Verdict = "undecided"
        if min(len(within), len(across)) >= 3:
            inside, outside = interval(within), interval(across)
            if inside[0] > outside[1]:
                verdict = "agrees"
            elif inside[1] < outside[0]:
                verdict = "disagrees"
        verdicts.append(verdict)
        found.append(
            f"{model}: rank correlation of that share with the cosine of the tasks' kernels JᵀJ "
            f"{number(rho['tangent'])}, with the cosine of their gradients at δ = 0 "
            f"{number(rho['gradient'])}; gradients, within each target {number(partial)}."
        )
        numbers[model] = {"pairs": len(pairs), "rho": rho, "rho_within_target": partial}
        best = sorted(pairs, key=lambda p: -p["share"])
        rows = [
            [p["source"], p["target"], p["share"], p["gradient"], p["tangent"]]
            for p in (*best[:8], *best[-8:])
        ]
        tables.append(
            Table(
                f"{model}: the best and the worst pairs",
                ["trained on", "evaluated on", "share", "cosine of gradients", "cosine of kernels"],
                rows,
            )
        )
        with drawing(5, 3.5) as (figure, axes):
            for mask, colour, label in (
                (~near, COLOURS["faint"], "across"),
                (near, COLOURS["measured"], "within a category"),
            ):
                axes.plot(
                    np.array([p["gradient"] for p in pairs])[mask],
                    share[mask],
                    ".",
                    color=colour,
                    label=label,
                )
            axes.set(xlabel="cosine of gradients at δ = 0", ylabel="share of the own gain")
            axes.legend()
        figures[f"{model}: transfer against the angle between tasks"] = figure
    ran = (
        "LoRA r = 8, trained on each task as in `performance` with one seed, evaluated without more training "
        "on the test splits of the others of the same 24 of the draw with their own heads. Counted are "
        f"targets whose own LoRA gains at least {GAIN}; the share is (transferred - frozen)/(own - frozen). "
        "Angles are those of JᵀJ, J being that of a contrast of the logits, and of the gradient of the loss "
        "at δ = 0 over 256 examples, through one fixed sketch."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


def _pairs(scope: Scope, model: str, known: Known) -> list[dict]:
    trained, kernels, start = {}, {}, {}
    for task in scope.tasks:
        one = trial(scope, model, task, known)
        trained[task.name] = known.get(one) if one else None
        kernels[task.name] = known.get(kernel(model, task))
        start[task.name] = (known.get(frozen(model, task)) or {}).get("test")
    pairs = []
    for target in scope.tasks:
        own, first = trained[target.name], start[target.name]
        if not own or first is None or (gain := (own["test"] or 0.0) - first) < GAIN:
            continue
        for source in scope.tasks:
            other, a, b = trained[source.name], kernels[source.name], kernels[target.name]
            if source is target or not (other and a and b) or target.name not in other["targets"]:
                continue
            pairs.append(
                {
                    "source": source.name,
                    "target": target.name,
                    "share": (other["targets"][target.name] - first) / gain,
                    "same": source.category == target.category,
                    "tangent": float(np.dot(a["tangent"], b["tangent"])),
                    "gradient": float(np.dot(a["gradient"], b["gradient"])),
                }
            )
    return pairs


def _centred(pairs: list[dict], key: str) -> list[float]:
    """Return values less their mean over the pairs of the same target."""
    means: dict[str, list[float]] = {}
    for pair in pairs:
        means.setdefault(pair["target"], []).append(pair[key])
    return [pair[key] - float(np.mean(means[pair["target"]])) for pair in pairs]
