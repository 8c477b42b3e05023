"""The same methods on backbones of several sizes of one recipe."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from experiments.page import Findings, Table, Verdict
from experiments.scope import Scope
from experiments.studies import dimension
from experiments.studies.convergence import steps_of_loss
from experiments.studies.methods import (
    FAMILY,
    METHODS,
    Method,
    grid,
    interval,
    joint,
    table_of,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = (
    "With size all deltas score better and converge faster, even last-layer tuning and random modules; d90 "
    "falls"
)
SOURCE = "Ding et al. 2023, section 4.4; Aghajanyan et al. 2021"
ABOUT = (
    "By as many tokens the largest backbone is not pretrained better than the one before it, of a quarter of "
    "its size (the cards of both say how well)."
)
METHODS_HERE = (
    *(m for m in METHODS if m.label in ("fine-tuning", "LoRA", "adapter", "prefix")),
    Method("last layer", "last-layers:1"),
    Method("random modules", "random-modules", {"share": 0.1}),
)
LABELS = [method.label for method in METHODS_HERE]


def family(scope: Scope) -> Scope:
    """Return the scope on backbones that name their size, as gpt-0.3M, the smallest first."""
    sizes = {m: float(found[1]) for m in scope.models if (found := re.fullmatch(rf"{FAMILY}([\d.]+)M", m))}
    return replace(scope, models=tuple(sorted(sizes, key=lambda m: sizes[m])))


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all methods on all sizes, and d90."""
    yield from grid(family(scope), lambda _: METHODS_HERE, known)
    yield from dimension.searches(family(scope), known)


def findings(scope: Scope, known: Known) -> Findings:
    """Scores, steps and d90 by size."""
    here = family(scope)
    of: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}  # by size and task: scores, steps
    d90: dict[str, dict[str, float | None]] = {}
    found, numbers = [], {}
    for model in here.models:
        tasks, scores = table_of(here, model, METHODS_HERE, known, lambda r, _: r["test"] or 0.0)
        _, steps = table_of(here, model, METHODS_HERE, known, lambda r, _: steps_of_loss(r["losses"]))
        d90[model] = {
            t.name: r["d90"]["measured"]["value"] for t, r in dimension.measured(here, model, known)
        }
        if not tasks:
            found.append(f"{model}: no task is complete.")
            continue
        of[model] = {t.name: row for t, *row in zip(tasks, scores, steps, strict=True)}
    shared = [t.name for t in here.tasks if of and all(t.name in rows for rows in of.values())]
    tables = []
    if shared:
        means = {model: np.array([rows[name][0] for name in shared]) for model, rows in of.items()}
        numbers = {
            model: {"tasks": len(shared), "mean": dict(zip(LABELS, scores.mean(0).tolist(), strict=True))}
            for model, scores in means.items()
        }
        cells = [
            [m, *(with_interval(scores[:, i]) for i in range(len(LABELS)))] for m, scores in means.items()
        ]
        tables.append(
            Table(f"Mean accuracy on the {len(shared)} tasks of all sizes", ["backbone", *LABELS], cells)
        )
    cells = []
    for model in of:
        values = list(d90[model].values())
        above = [d for d in values if d]
        zero, never = values.count(0), values.count(None)
        cells.append([model, len(values), zero, never, float(np.median(above)) if above else None])
    columns = ["backbone", "tasks measured", "0 on", "not reached on", "median of the others"]
    tables.append(Table("d90 by size", columns, cells))
    verdict: Verdict = "undecided"
    if len(of) >= 2 and shared:
        small, large = next(iter(of)), list(of)[-1]
        gain, later = (
            np.array([np.subtract(of[large][name][i], of[small][name][i]) for name in shared]) for i in (0, 1)
        )
        checks: dict[str, list[Verdict]] = {"accuracy": [], "steps": []}
        for i, label in enumerate(LABELS):
            saved = -later[np.isfinite(later[:, i]), i]
            checks["accuracy"].append(_sign(gain[:, i]))
            checks["steps"].append(_sign(saved))
            found.append(
                f"{label}: from {small} to {large} accuracy {with_interval(gain[:, i])}, steps to 90 % of "
                f"the fall of the loss saved {with_interval(saved)} ({len(shared)} tasks)."
            )
        both = [name for name, d in d90[small].items() if d != 0 and d90[large].get(name, 0) != 0]
        fall = dimension.fall(
            *(dimension.with_unreached([d90[m][name] for name in both]) for m in (small, large))
        )
        found.append(f"From {small} to {large}, on {len(both)} tasks where neither is 0, {fall}.")
        parts = {**{part: _whole(of_part) for part, of_part in checks.items()}, "d90": fall.verdict}
        verdict = _whole(parts.values())
        found.insert(0, f"{small} to {large}: {', '.join(f'{part} {v}' for part, v in parts.items())}.")
    else:
        found.append(f"{len(of)} sizes share {len(shared)} tasks; two sizes are needed, four are meant.")
    ran = (
        "Backbones of one recipe (`experiments/pretrain.py`), as in `performance`; random modules are a "
        "tenth of the weight matrices of the blocks. d90 is to 90 % of each size's own fine-tuning; where it "
        "is 0 fine-tuning gains too little to speak of it. The verdict is on accuracy, steps and d90, the "
        "largest size against the smallest, and all methods: one that is beyond chance against the claim "
        "refutes it."
    )
    return Findings(verdict, ran, found, numbers, tables)


def _sign(gains: np.ndarray) -> Verdict:
    """Say whether gains over tasks are above 0, or below, beyond chance."""
    low, high = interval(gains) if len(gains) else (0.0, 0.0)
    return "agrees" if low > 0 else "disagrees" if high < 0 else "undecided"


def _whole(parts: Collection[Verdict]) -> Verdict:
    """Return the verdict on a claim of which every part must hold."""
    return "disagrees" if "disagrees" in parts else joint(parts)
