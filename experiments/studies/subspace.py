"""Subspaces that several tasks, or several methods, share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.page import Findings, Table, Verdict
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import (
    BUDGET,
    METHODS,
    Method,
    data,
    frozen,
    interval,
    joint,
    training,
    tuned,
    with_interval,
)
from experiments.trial import Known, Trial

CLAIM = (
    "Prompts of many tasks share a subspace of few dimensions in which unseen tasks are tuned, and adapter, "
    "LoRA and prefix share one in which solutions move between methods"
)
SOURCE = "Qin et al. 2021; Yi et al. 2022"
PROMPT = next(m for m in METHODS if m.label == "prompt")
UNIFIED = [m for m in METHODS if m.label in ("adapter", "LoRA", "prefix")]
_GAIN = 0.03  # least gain of a task's own delta of which a share is counted


def _split(scope: Scope) -> tuple[list[TaskInfo], list[TaskInfo]]:
    first = scope.peers(scope.tasks[0])
    halves = [[t for t in first if t.half == half] for half in ("calibration", "held-out")]
    return halves[0], halves[1]


def trial(scope: Scope, model: str, known: Known) -> Trial | None:
    """Return the one trial of a backbone; `None` before the rates are tuned."""
    sources, targets = _split(scope)
    used: list[Method] = [PROMPT, *UNIFIED]
    rates = {m.label: tuned(scope, model, m, known)[0] for m in used}
    if len(sources) < 3 or not targets or None in rates.values():
        return None
    settings = {
        **data(model, sources[0]),
        **BUDGET,
        "sources": [t.name for t in sources],
        "targets": [t.name for t in targets],
        "methods": {m.label: [m.delta, rates[m.label]] for m in used},
        "options": {m.delta.partition(":")[0]: dict(m.options) for m in used if m.options},
        "prompt": PROMPT.label,
        "d": min(10, len(sources) - 1),
        "rates": [0.1, 1.0],
        "unified_rates": [0.3, 3.0],
    }
    return Trial("subspaces", model, sources[0].name, seed=scope.seeds[0], settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield what tunes the rates, then one trial a backbone."""
    for model in scope.models:
        for method in (PROMPT, *UNIFIED):
            yield from tuned(scope, model, method, known)[1]
        yield from (frozen(model, task) for task in _split(scope)[1])
        if one := trial(scope, model, known):
            yield one
            rate = one.settings["methods"][PROMPT.label][1]
            yield from (training(model, PROMPT, t, rate, scope.seeds[0]) for t in _split(scope)[1])


def findings(scope: Scope, known: Known) -> Findings:
    """Shares of the own gain that training within the subspaces keeps."""
    verdicts: list[Verdict] = []
    found, numbers, tables = [], {}, []
    for model in scope.models:
        one = trial(scope, model, known)
        result = known.get(one) if one else None
        if result is None or one is None:
            found.append(f"{model}: not run.")
            continue
        rows = []
        for task, row in result["targets"].items():
            info = next(t for t in scope.tasks if t.name == task)
            start = (known.get(frozen(model, info)) or {}).get("test")
            if start is None:
                continue
            for label, score in row["prompt"].items():
                rows.append(("prompt", f"{label} subspace", start, row["own"]["prompt"], score))
            for pair, score in row["unified"].items():
                first, _, second = pair.partition(" in ")
                name = "the same method" if first == second else "another method"
                rows.append((second, f"unified, δ of {name}", start, row["own"][second], score))
        gains: dict[tuple[str, str], list[float]] = {}
        for method, where, start, own, score in rows:
            if own - start >= _GAIN:
                gains.setdefault((method, where), []).append((score - start) / (own - start))
        cells = [[m, w, len(v), with_interval(np.array(v))] for (m, w), v in sorted(gains.items())]
        tables.append(
            Table(
                f"{model}: share of the gain of the method itself, held-out tasks",
                ["method", "trained in", "cases", "share of the own gain"],
                cells,
            )
        )
        shares = {f"{m}, {w}": float(np.mean(v)) for (m, w), v in gains.items()}
        numbers[model] = {"d": one.settings["d"], "sources": len(one.settings["sources"]), "shares": shares}
        said = "; ".join(f"{name} {value:.2f}" for name, value in sorted(shares.items()))
        found.append(
            f"{model}, d = {one.settings['d']} from {len(one.settings['sources'])} tasks, on "
            f"{len(result['targets'])} held-out tasks, share of the own gain: {said}."
        )
        verdicts.append(_verdict(gains))
    ran = (
        "Prompts, adapters, LoRA and prefixes are trained on the calibration half (as in `performance`); "
        "their principal components span the subspaces, linear where the papers train an encoder. On the "
        "held-out half each is trained within, at the better of two rates. The claim is taken to hold where "
        "the fitted subspace of prompts keeps more of the gain than a random one beyond chance, and δ of "
        "another method keeps some beyond chance."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)


def _verdict(gains: dict[tuple[str, str], list[float]]) -> Verdict:
    fitted, lot = (gains.get(("prompt", f"{x} subspace"), []) for x in ("fitted", "random"))
    moved = [x for (_, where), values in gains.items() if where.endswith("another method") for x in values]
    if len(fitted) < 3 or len(moved) < 3:
        return "undecided"
    low, high = interval(np.array(fitted) - np.array(lot))
    least, most = interval(np.array(moved))
    if high < 0 or most < 0:
        return "disagrees"
    return "agrees" if low > 0 and least > 0 else "undecided"
