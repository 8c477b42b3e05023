"""The same methods on backbones of several sizes of one recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from experiments.page import Findings, Table, Verdict
from experiments.scope import Scope
from experiments.studies import dimension
from experiments.studies.convergence import steps_of_loss
from experiments.studies.methods import FAMILY, METHODS, Method, grid, interval, table_of, with_interval
from experiments.trial import Known, Trial

CLAIM = (
    "With size all deltas score better and converge faster, even last-layer tuning and random modules; d90 "
    "falls"
)
SOURCE = "Ding et al. 2023, section 4.4; Aghajanyan et al. 2021"
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
    yield from grid(family(scope), METHODS_HERE, known)
    yield from dimension.trials(family(scope), known)


def findings(scope: Scope, known: Known) -> Findings:
    """Scores, steps and d90 by size."""
    here = family(scope)
    scores, steps, cells, found = {}, {}, [], []
    for model in here.models:
        tasks, values = table_of(here, model, METHODS_HERE, known, lambda r, _: r["test"] or 0.0)
        _, times = table_of(here, model, METHODS_HERE, known, lambda r, _: steps_of_loss(r["losses"]))
        if tasks:
            scores[model] = dict(zip([t.name for t in tasks], values, strict=True))
            steps[model] = dict(zip([t.name for t in tasks], times, strict=True))
        d90 = [r["d90"]["measured"]["value"] for _, r in dimension.measured(here, model, known)]
        reached = [d for d in d90 if d]
        cells.append(
            [
                model,
                len(tasks),
                *(with_interval(values[:, i]) if tasks else None for i in range(len(LABELS))),
                float(np.median(reached)) if reached else None,
            ]
        )
    tables = [Table("Mean accuracy by size", ["backbone", "tasks", *LABELS, "median d90"], cells)]
    verdict: Verdict = "undecided"
    if len(scores) >= 2:
        small, large = next(iter(scores)), list(scores)[-1]
        common = [t for t in scores[small] if t in scores[large]]
        gain = np.array([scores[large][t] - scores[small][t] for t in common])
        faster = np.array([steps[small][t] - steps[large][t] for t in common])
        checks = []
        for i, label in enumerate(LABELS):
            low, high = interval(gain[:, i])
            quick = faster[np.isfinite(faster[:, i]), i]
            checks.append("agrees" if low > 0 else "disagrees" if high < 0 else "undecided")
            found.append(
                f"{label}: from {small} to {large} accuracy {with_interval(gain[:, i])}, steps to 90 % of "
                f"the fall of the loss saved {quick.mean():.1f} ({len(common)} tasks)."
            )
        verdict = "disagrees" if "disagrees" in checks else "agrees" if set(checks) == {"agrees"} else verdict
    else:
        found.append(f"{len(scores)} sizes are complete; two are needed, four are meant.")
    ran = (
        "Backbones of one recipe (`experiments/pretrain.py`), as in `performance`; random modules are a "
        "tenth of the weight matrices of the blocks. The verdict is on accuracy, the largest size against "
        "the smallest."
    )
    return Findings(verdict, ran, found, {"models": list(here.models)}, tables)
