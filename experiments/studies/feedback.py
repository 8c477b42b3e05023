"""What feedback gives back of the accuracy that disturbances take from a trained prefix.

Beside the claim stands an aim, for feedback that sees one text at a time: a policy that beats the probe of
its own setpoint by .2 and recovers .6, for at most 10 % more time, on both tasks with five seeds. For it
`FURTHER` was added, written down before any of its runs; each has three settings to choose from on the dev
split, as the others have:

- Do principal directions of the nominal states, held by LQR beside those of the classes, raise what it gives
  back, as one trial on trec6 did (.37 to .57 with 32)?
- What is it worth to know the disturbances? "rehearsed" PID steers to the same nominal states, but its
  classifier is fitted to clean texts and to the same training texts under the four kinds, three draws of
  each (2000 to 2002; judged are draws 0 to 4, and draw 1000 chooses). Its own probe, which moves nothing,
  says what of that is knowledge and what is control.
- And of an attack that was not rehearsed: the same without triggers among the kinds.

The shrinkage of the rehearsed classifier is the package's, .1: 3,000 texts tell more of a covariance of 384
entries a side than the 200 nominal ones, for which it is .75. It was not tried on these tasks. Feedback that
sees a batch keeps its three seeds.

    python -m experiments run feedback --data DATA --models minilm --tasks classics/mpqa,classics/trec6
        --seeds 5 --out experiments/results/disturbed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from deltatheory.report.page import literal
from experiments.page import Findings, Table, Verdict, drawing, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import data, joint
from experiments.trial import Known, Trial

CLAIM = (
    "Feedback across the layers gives back half of the accuracy that disturbances take, for 15 % more time a "
    "batch"
)
SOURCE = "deltatheory; robust prefix-tuning after Yang & Liu 2022"
ABOUT = (
    "What feedback loses against triggers where it sees one text at a time was a look at the whole batch. "
    "The probe is the classifier that the setpoints are made of, recentred; it moves nothing."
)
STRENGTHS = {
    "substitutions": {"rate": 0.3},
    "typos": {"rate": 0.5},
    "trigger": {"length": 3, "rounds": 1, "candidates": 8, "examples": 32},
    "noise": {"scale": 0.7},
}
CONDITIONS = ("clean", *STRENGTHS)
# What the policies may choose from, where a setpoint may look at the batch that runs, and where it may not.
GRIDS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "a batch": {
        "robust-prefix": [{"learning_rate": rate} for rate in (0.003, 0.01, 0.03)],
        "pid": [
            {"setpoint": "population", "proportional": 0.5},
            *({"setpoint": "recentred-class", "proportional": p} for p in (0.3, 0.6)),
        ],
        "lqr": [
            {"setpoint": "population", "control_weight": 0.2},
            *({"setpoint": "recentred-class", "control_weight": r} for r in (0.2, 1.0)),
        ],
    },
    "one text": {
        "pid": [{"setpoint": "class", "proportional": p} for p in (0.3, 0.45, 0.6)],
        "lqr": [{"setpoint": "class", "control_weight": r} for r in (0.2, 0.5, 1.0)],
    },
}
ALONE = {"a batch": ("tuned", "none"), "one text": ("tuned",)}  # run beside them
FEEDBACK = ("pid", "lqr")
REHEARSED = [{"setpoint": "rehearsed-class", "proportional": p} for p in (0.3, 0.45, 0.6)]
# What else sees one text: label ↦ what a setpoint has rehearsed, what it chooses from, what runs beside it.
FURTHER: dict[str, dict[str, Any]] = {
    "principal directions": {
        "rehearsed": {},
        "grids": {
            "lqr": [
                {"setpoint": "class", "control_weight": r, "principal": n}
                for r, n in ((0.2, 8), (0.2, 32), (1.0, 32))
            ]
        },
        "alone": {},
    },
    "rehearsed": {
        "rehearsed": {"kinds": list(STRENGTHS), "draws": 3},
        "grids": {"pid": REHEARSED},
        "alone": {"probe": {"setpoint": "rehearsed-class"}},
    },
    "rehearsed but triggers": {
        "rehearsed": {"kinds": [kind for kind in STRENGTHS if kind != "trigger"], "draws": 3},
        "grids": {"pid": REHEARSED},
        "alone": {"probe": {"setpoint": "rehearsed-class"}},
    },
}
_BACK, _TIME = 0.5, 0.15
_BEYOND, _AIM, _AIM_TIME = 0.2, 0.6, 0.1  # the probe, of the loss, more time
_BASE = "policies"
_OWN_PROBE = [label for label, of in FURTHER.items() if of["alone"]]
_BATCH_SEEDS = 3  # a prefix tuned on every batch takes minutes a seed


def _settings(model: str, task: TaskInfo) -> dict[str, Any]:
    limits = {"dev": 96, "test": 160, "max_length": 64}
    budget = {"steps": 100, "batch_size": 16, "learning_rate": 1e-2}
    return {**data(model, task), **limits, **budget, "strengths": STRENGTHS}


def choice(scope: Scope, model: str, task: TaskInfo, sees: str) -> Trial:
    """Return the trial that chooses the policies' settings, with the first seed."""
    settings = {**_settings(model, task), "grids": GRIDS[sees]}
    return Trial("policies", model, task.name, "prefix:8", {"gate": "values"}, scope.seeds[0], settings)


def steering(scope: Scope, model: str, task: TaskInfo, sees: str, seed: int, known: Known) -> Trial | None:
    """Return the trial that runs the policies; `None` before their settings are chosen."""
    chosen = known.get(choice(scope, model, task, sees))
    if not chosen:
        return None
    policies = {name: {} for name in ALONE[sees]} | chosen["settings"]
    settings = {**_settings(model, task), "policies": policies}
    return Trial("steering", model, task.name, "prefix:8", {"gate": "values"}, seed, settings)


def probing(scope: Scope, model: str, task: TaskInfo, sees: str, seed: int) -> Trial:
    """Return the trial of the setpoint's own classifier, which moves nothing, beside the prefix alone."""
    setpoint = "recentred-class" if sees == "a batch" else "class"
    policies = {"tuned": {}, "probe": {"setpoint": setpoint}}
    settings = {**_settings(model, task), "policies": policies}
    return Trial("steering", model, task.name, "prefix:8", {"gate": "values"}, seed, settings)


def further_choice(scope: Scope, model: str, task: TaskInfo, label: str) -> Trial:
    """Return the trial that chooses the settings of one of `FURTHER`, with the first seed."""
    settings = {**_further(model, task, label), "grids": FURTHER[label]["grids"]}
    return Trial("policies", model, task.name, "prefix:8", {"gate": "values"}, scope.seeds[0], settings)


def further(scope: Scope, model: str, task: TaskInfo, label: str, seed: int, known: Known) -> Trial | None:
    """Return the trial that runs one of `FURTHER`; `None` before its settings are chosen."""
    chosen = known.get(further_choice(scope, model, task, label))
    if not chosen:
        return None
    policies = {"tuned": {}, **FURTHER[label]["alone"], **chosen["settings"]}
    settings = {**_further(model, task, label), "policies": policies}
    return Trial("steering", model, task.name, "prefix:8", {"gate": "values"}, seed, settings)


def _further(model: str, task: TaskInfo, label: str) -> dict[str, Any]:
    rehearsed = FURTHER[label]["rehearsed"]
    return {**_settings(model, task), **({"rehearsed": rehearsed} if rehearsed else {})}


def seeds_of(scope: Scope, sees: str) -> tuple[int, ...]:
    """Return the seeds that are run."""
    return tuple(scope.seeds[: _BATCH_SEEDS if sees == "a batch" else None])


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield the choice of settings on each task, then the policies with all seeds."""
    for model in scope.models:
        for task in scope.tasks:
            for sees in GRIDS:
                yield choice(scope, model, task, sees)
                for seed in seeds_of(scope, sees):
                    yield probing(scope, model, task, sees, seed)
                    if one := steering(scope, model, task, sees, seed, known):
                        yield one
            for label in FURTHER:
                yield further_choice(scope, model, task, label)
                for seed in scope.seeds:
                    if one := further(scope, model, task, label, seed, known):
                        yield one


def findings(scope: Scope, known: Known) -> Findings:
    """Accuracies under each disturbance, shares recovered, and time added."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    for model in scope.models:
        for sees in GRIDS:
            of: dict[str, dict[str, dict]] = {}
            ran_seeds: dict[str, int] = {}
            for task in scope.tasks:
                if parts := _complete(scope, model, task, sees, known):
                    of[task.name] = rows = _rows(parts)
                    ran_seeds[task.name] = len(parts[_BASE])
                    title = f"{model}, {task.name}, feedback sees {sees}"
                    if "probe" in parts:
                        title += f" (chance {parts['probe'][0]['chance']:.3f})"
                    tables.append(_table(title, rows, parts[_BASE]))
            if not of:
                found.append(f"{model}, feedback sees {sees}: no task is complete.")
                continue
            reached = {
                name: [
                    (r[name]["recovered"] or 0) >= _BACK and r[name]["added"] <= _TIME for r in of.values()
                ]
                for name in FEEDBACK
            }
            verdicts.append("agrees" if any(map(all, reached.values())) else "disagrees")
            for name in dict.fromkeys(x for rows in of.values() for x in rows if x not in ALONE["a batch"]):
                said = [
                    f"{task} {number(rows[name]['recovered'], '.0%')}, {rows[name]['added']:+.0%} time, "
                    f"{ran_seeds[task]} seeds"
                    for task, rows in of.items()
                    if name in rows
                ]
                found.append(f"{model}, {name} sees {sees}: {'; '.join(said)}.")
            if sees == "one text":
                found.append(f"{model}: {_aim(of)}")
            numbers[f"{model}, {sees}"] = of
            figures[f"{model}, feedback sees {sees}: accuracy, a panel a task"] = _figure(of)
    ran = (
        "A prefix of 8 is trained for 100 steps of 16; test texts come clean and under four disturbances, in "
        "batches of 32. Every policy has three settings to choose from, by the mean accuracy over the five "
        "conditions on the dev split, with the first seed and other draws. Recovered is the share of the "
        "accuracy that the prefix loses, summed over disturbances and seeds; time is processor time. The "
        "claim is taken to hold where one policy gives back half on every task, for at most 15 % more time."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


def _complete(
    scope: Scope, model: str, task: TaskInfo, sees: str, known: Known
) -> dict[str, list[dict[str, Any]]]:
    """Return what ran on a task, by part, of the seeds of which each part that has begun is complete."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in seeds_of(scope, sees):
        asked = {
            _BASE: steering(scope, model, task, sees, seed, known),
            "probe": probing(scope, model, task, sees, seed),
        }
        if sees == "one text":
            asked |= {label: further(scope, model, task, label, seed, known) for label in FURTHER}
        for part, one in asked.items():
            if one and (run := known.get(one)):
                runs.setdefault(part, {})[seed] = run
    if _BASE not in runs:
        return {}
    seeds = [seed for seed in seeds_of(scope, sees) if all(seed in of for of in runs.values())]
    return {part: [of[seed] for seed in seeds] for part, of in runs.items()} if seeds else {}


def _rows(parts: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return what the policies of all parts came to, those of `FURTHER` under its label."""
    rows = {}
    for part, runs in parts.items():
        for name, row in _policies(runs).items():
            if part not in FURTHER:
                rows.setdefault(name, row)
            elif name != "tuned":
                rows[f"{name}, {part}"] = row
    return rows


def _aim(of: dict[str, dict[str, dict]]) -> str:
    """Say which policies meet the aim on each task, and the one that comes nearest on the worst."""

    def short(name: str) -> float:
        probe = f"probe, {label}" if (label := name.partition(", ")[2]) in _OWN_PROBE else "probe"
        gaps = []
        for rows in of.values():
            recovered = rows[name]["recovered"] or 0.0
            beyond = recovered - (rows[probe]["recovered"] or 0.0)
            gaps += [_AIM - recovered, _BEYOND - beyond, rows[name]["added"] - _AIM_TIME]
        return max(gaps)

    every = [set(rows) for rows in of.values()]
    names = [x for x in set.intersection(*every) if x.partition(",")[0] in FEEDBACK]
    if not all("probe" in names for names in every):
        return "the probe has not run."
    met = [name for name in names if short(name) <= 0]
    nearest = min(sorted(names), key=short)
    aim = (
        f"the aim, on all tasks {_BEYOND:.0%} of the loss beyond the probe of the own setpoint, {_AIM:.0%} "
        f"recovered, {_AIM_TIME:.0%} more time"
    )
    if met:
        return f"{aim}, is met by {', '.join(sorted(met))}."
    return f"{aim}, is met by none; nearest is {nearest}, {short(nearest):.2f} short."


def _policies(runs: list[dict]) -> dict[str, dict[str, Any]]:
    """Return what each policy came to over the seeds of a task."""
    rows = {}
    for name in runs[0]["settings"]:
        scores = {c: [_accuracy(run, name, c) for run in runs] for c in CONDITIONS}
        energies = [
            r["energy"]
            for run in runs
            for r in run["rows"]
            if r["controller"] == name and r["disturbance"] != CONDITIONS[0]
        ]
        settings = runs[0]["settings"][name]
        rows[name] = {
            "settings": ", ".join(f"{key} = {value}" for key, value in settings.items()),
            "accuracy": {c: mean(values) for c, values in scores.items()},
            "spread": {c: stdev(values) if len(values) > 1 else None for c, values in scores.items()},
            "recovered": _recovered(runs, name, CONDITIONS[1:]),
            "recovered_by_seed": [_recovered([run], name, CONDITIONS[1:]) for run in runs],
            "recovered_each": {c: _recovered(runs, name, [c]) for c in CONDITIONS[1:]},
            "energy": mean(energies),
            "seconds": mean(run["latency"][name]["seconds"] for run in runs),
            "added": mean(run["latency"][name]["added"] for run in runs),
        }
    return rows


def _accuracy(run: dict, policy: str, disturbance: str) -> float:
    return next(
        r["accuracy"] for r in run["rows"] if (r["controller"], r["disturbance"]) == (policy, disturbance)
    )


def _recovered(runs: list[dict], policy: str, disturbances: Sequence[str]) -> float | None:
    """Return the share of the prefix's loss, summed over runs and disturbances, that a policy gives back.

    `None` where nothing is lost.
    """
    lost = gained = 0.0
    for run in runs:
        for name in disturbances:
            alone = _accuracy(run, "tuned", name)
            lost += _accuracy(run, "tuned", "clean") - alone
            gained += _accuracy(run, policy, name) - alone
    return gained / lost if lost > 0 else None


def _table(title: str, rows: dict[str, dict], runs: list[dict]) -> Table:
    columns = [
        "policy",
        "chosen on the dev split",
        *CONDITIONS,
        "recovered",
        "of single seeds",
        *(f"of {c}" for c in CONDITIONS[1:]),
    ]
    columns += ["energy", "CPU s a batch", "added"]

    def shares(row: dict) -> list[str]:
        by_seed = [x for x in row["recovered_by_seed"] if x is not None]
        between = f"{min(by_seed):.0%} to {max(by_seed):.0%}" if by_seed else "–"
        each = [number(x, ".0%") for x in row["recovered_each"].values()]
        return [number(row["recovered"], ".0%"), between, *each]

    cells = [
        [
            name,
            row["settings"] or None,
            *row["accuracy"].values(),
            *(None if name == "tuned" else x for x in shares(row)),
            row["energy"],
            row["seconds"],
            f"{row['added']:+.0%}",
        ]
        for name, row in rows.items()
    ]
    return Table(f"{title}: {runs[0]['rows'][0]['texts']} texts, {len(runs)} seeds", columns, cells)


def _figure(of: dict[str, dict[str, dict]]) -> Any:
    with drawing(5.2 * len(of), 3.2, 1, len(of)) as (figure, panels):
        panels = np.atleast_1d(panels)
        for axes, (task, rows) in zip(panels, of.items(), strict=True):
            for i, (name, row) in enumerate(rows.items()):
                width = 0.9 / len(rows)
                at = [k + width * (i - (len(rows) - 1) / 2) for k in range(len(CONDITIONS))]
                errors = [row["spread"][c] or 0.0 for c in CONDITIONS]
                axes.bar(at, list(row["accuracy"].values()), width, yerr=errors, label=name)
            axes.set(title=literal(task), ylim=(0, 1), ylabel="accuracy")
            axes.set_xticks(range(len(CONDITIONS)), CONDITIONS, fontsize="small")
        panels[0].legend(fontsize="x-small", ncols=3)
    return figure
