"""Where a small delta should act: the place that kernels pick beside every place trained out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Any

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, Verdict, drawing
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import climb, data, joint, spearman
from experiments.trial import Known, Trial

CLAIM = (
    "The layer, and the kind of module, whose kernel promises the least held-out loss is within a point of "
    "the best place to act on five tasks of six"
)
SOURCE = "deltatheory; T42, the greedy choice of actuators"
ABOUT = (
    "The log det rewards the last layer, whose outputs are loud, and not the one whose directions the labels "
    "need. Among kinds of module the widest one is as good a rule as any kernel. A place that "
    "is always the same, the middle one or the best one of the other tasks, is what a rule has to beat. One "
    "run in each place is judged by the other seeds, on the same test examples, which favours it a little."
)
# Of backbones by name: how their maps are called, and how many layers they have.
NAMES = {"minilm": ("encoder.layer.{}.{}", 6)}
MODULES = ("attention.self.query", "attention.self.value", "attention.output.dense", "intermediate.dense")
# What else might see the better block, written down before it was run, on the blocks alone: the kernels of
# 256 training examples at the δ that 20 steps on the others lead to, of all blocks at once, at the rate of
# the places; and at δ = 0 the held-out loss of a block together with each other one, in the mean.
AFTER = {"after": (20, "alone"), "pairs": (0, "pairs")}
RULES = {"loss": "held-out loss", "score": "held-out score", "gain": "log det", "energy": "gradient energy"}
RATES = (3e-3, 1e-2)
_SAID = {"after": "after 20 steps", "pairs": "in pairs"}
_DELTA = "lora:4"
_BUDGET = {"steps": 60, "batch_size": 16}
_POINT, _SHARE = 0.01, 5 / 6


def places(model: str) -> dict[str, dict[str, list[str]]]:
    """Return the modules of each place: query and value of a layer, or one kind of module in all layers."""
    name, count = NAMES[model]
    layers = range(count)
    return {
        "layer": {f"block {t}": [name.format(t, kind) for kind in MODULES[:2]] for t in layers},
        "module": {kind: [name.format(t, kind) for t in layers] for kind in MODULES},
    }


def _data(model: str, task: TaskInfo) -> dict[str, Any]:
    return {**data(model, task), "dev": 300, "test": 500, "max_length": 32}


def _training(model: str, task: TaskInfo, targets: list[str], rate: float, seed: int) -> Trial:
    settings = {**_data(model, task), **_BUDGET, "learning_rate": rate}
    return Trial("train", model, task.name, _DELTA, {"targets": targets}, seed, settings)


def _everywhere(scope: Scope, model: str, task: TaskInfo, rate: float) -> Trial:
    """Return the training at query and value of all layers, scored on the dev split at its end."""
    targets = [module for of in places(model)["layer"].values() for module in of]
    one = _training(model, task, targets, rate, scope.seeds[0])
    return replace(one, settings={**one.settings, "evaluate_every": _BUDGET["steps"]})


def _ranking(scope: Scope, model: str, task: TaskInfo, choice: str) -> Trial:
    of = places(model)[choice]
    settings = {**_data(model, task), "places": of, "examples": 448}
    targets = {"targets": [module for modules in of.values() for module in modules]}
    return Trial("places", model, task.name, _DELTA, targets, scope.seeds[0], settings)


def _behind(scope: Scope, model: str, task: TaskInfo, steps: int, rate: float) -> Trial:
    """Return the trial that judges blocks, and pairs of them, behind some steps of all of them."""
    one = _ranking(scope, model, task, "layer")
    run = {"steps": steps, "batch_size": _BUDGET["batch_size"], "learning_rate": rate}
    return replace(one, settings={**one.settings, "examples": 256, **run})


def _rate(scope: Scope, model: str, task: TaskInfo, known: Known) -> tuple[float | None, list[Trial]]:
    """Return the one rate of all places: the better one where all layers are tuned."""
    return climb(RATES, 0, lambda rate: [_everywhere(scope, model, task, rate)], known)


def _models(scope: Scope) -> list[str]:
    return [model for model in scope.models if model in NAMES]


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield both rates where all layers are tuned, then each place with all seeds, and the rankings."""
    for model in _models(scope):
        for task in scope.tasks:
            rate, missing = _rate(scope, model, task, known)
            yield from missing
            if rate is not None:
                yield from (_behind(scope, model, task, steps, rate) for steps, _ in AFTER.values())
            for choice, of in places(model).items():
                yield _ranking(scope, model, task, choice)
                if rate is not None:
                    yield from (
                        _training(model, task, targets, rate, seed)
                        for targets in of.values()
                        for seed in scope.seeds
                    )


def _row(scope: Scope, model: str, task: TaskInfo, choice: str, known: Known) -> dict[str, Any] | None:
    rate, _ = _rate(scope, model, task, known)
    ranking = known.get(_ranking(scope, model, task, choice))
    if rate is None or ranking is None:
        return None
    by_seed: dict[str, list[float]] = {}
    passes, seeds = 0.0, []
    for name, targets in places(model)[choice].items():
        runs = [known.get(_training(model, task, targets, rate, seed)) for seed in scope.seeds]
        tests = [run["test"] or 0.0 for run in runs if run]
        if len(tests) < len(runs):
            return None
        by_seed[name], passes = tests, passes + sum(run["passes"] for run in runs if run)
        seeds.append(max(tests) - min(tests))
    scores = {name: mean(tests) for name, tests in by_seed.items()}
    of = {one["name"]: one for one in ranking["places"]}
    best = max(scores, key=lambda name: scores[name])
    picks = {
        rule: (min if rule == "loss" else max)(scores, key=lambda name: of[name][rule]) for rule in RULES
    }
    for rule, (steps, judged) in AFTER.items():
        said = known.get(_behind(scope, model, task, steps, rate)) if choice == "layer" else None
        if said:
            picks[rule] = min(scores, key=lambda name: said["losses"][judged][name])
    everywhere = known.get(_everywhere(scope, model, task, rate)) or {"test": None}
    return {
        "task": task.name,
        "frozen": ranking["frozen"],
        "everywhere": everywhere["test"],
        "best": best,
        "best_score": scores[best],
        "spread": scores[best] - min(scores.values()),
        "seeds": mean(seeds),
        "picks": picks,
        "short": {rule: scores[best] - scores[pick] for rule, pick in picks.items()},
        "scores": scores,
        "race": _race(by_seed),
        "middle": scores[best] - scores[list(scores)[len(scores) // 2]],
        "last": scores[best] - scores[list(scores)[-1]],
        "mean": scores[best] - mean(scores.values()),
        "spearman": spearman([-of[name]["loss"] for name in scores], list(scores.values())),
        "passes_ratio": passes / ranking["passes"],
        "points": [(of[name]["score"], scores[name]) for name in scores],
    }


def _all(rows: list[dict[str, Any]], rule: str) -> bool:
    return all(rule in row["short"] for row in rows)


def _race(by_seed: dict[str, list[float]]) -> float:
    """Return what the place that is best with the first seed falls short by with the others."""
    later = {name: mean(tests[1:]) for name, tests in by_seed.items() if tests[1:]}
    first = max(by_seed, key=lambda name: by_seed[name][0])
    return max(later.values()) - later[first] if later else math.nan


def _habit(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """Return what the place that is best on the other tasks falls short by."""
    others = [other["scores"] for other in rows if other is not row]
    if not others:
        return math.nan
    usual = max(row["scores"], key=lambda name: mean(scores[name] for scores in others))
    return row["best_score"] - row["scores"][usual]


def findings(scope: Scope, known: Known) -> Findings:
    """How far the picked places are behind the best one."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    for model in _models(scope):
        for choice in places(model):
            rows = [r for task in scope.tasks if (r := _row(scope, model, task, choice, known))]
            if not rows:
                found.append(f"{model}, {choice}: no task is complete.")
                continue
            rules = RULES | {x: f"held-out loss, {said}" for x, said in _SAID.items() if _all(rows, x)}
            short = {rule: [row["short"][rule] for row in rows] for rule in rules}
            short["habit"] = [_habit(row, rows) for row in rows]
            short |= {rule: [row[rule] for row in rows] for rule in ("race", "middle", "last", "mean")}
            near = {rule: sum(x <= _POINT for x in of) for rule, of in short.items()}
            verdicts.append("agrees" if near["loss"] >= _SHARE * len(rows) else "disagrees")
            names = {
                **rules,
                "habit": "the best place of the other tasks",
                "race": "one run in each place",
                "middle": "the middle place",
                "last": "the last place",
                "mean": "a place by lot, on average",
            }
            costs = [row["passes_ratio"] for row in rows]
            found.append(
                f"{model}, {choice}, {len(rows)} tasks, seeds: {len(scope.seeds)}: within a point of the "
                "best place on "
                + "; ".join(f"{near[x]} by {names[x]}, {mean(of):.4f} short" for x, of in short.items())
                + f" (mean over tasks); training them all takes {min(costs):.0f} to {max(costs):.0f} times "
                "the passes of the ranking."
            )
            numbers[f"{model}, {choice}"] = {
                "tasks": len(rows),
                "within_1_point": near,
                "mean_short": {rule: mean(of) for rule, of in short.items()},
            }
            columns = ["task", "frozen", "all layers", "best place", "its score", "best to worst"]
            columns += ["between seeds", *(f"by {rule}: short" for rule in rules.values())]
            columns += [
                "the others' best place",
                "one run in each",
                "middle place",
                "last place",
                "mean place",
                "rank correlation",
                "passes, training / ranking",
            ]
            cells = [
                [
                    *(row[key] for key in ("task", "frozen", "everywhere", "best", "best_score", "spread")),
                    row["seeds"],
                    *(f"{row['picks'][rule]}: {row['short'][rule]:.3f}" for rule in rules),
                    habit,
                    *(row[key] for key in ("race", "middle", "last", "mean", "spearman", "passes_ratio")),
                ]
                for row, habit in zip(rows, short["habit"], strict=True)
            ]
            tables.append(Table(f"{model}: which {choice}", columns, cells))
            figures[f"{model}: predicted and trained score of each {choice}, a line a task"] = _figure(rows)
    if not found:
        found.append(f"No backbone whose maps have names here is among {', '.join(scope.models)}.")
    ran = (
        "A LoRA of rank 4 in one place, 60 steps of 16, texts of 32 tokens: query and value of one layer, or "
        "one kind of map in all layers. All places of a task have one learning rate, the better of two by "
        "dev accuracy where all layers are tuned; their score is the mean over the seeds. Ranked by the "
        "kernels of margins over 448 examples. The claim is taken to hold where the least held-out loss is "
        "within a point of the best on five sixths of the tasks."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


def _figure(rows: list[dict]) -> Any:
    with drawing(4, 3.5) as (figure, axes):
        for row in rows:
            axes.plot(*zip(*row["points"], strict=True), "o-", ms=3, lw=0.5, color=COLOURS["measured"])
        axes.set(xlabel="predicted score", ylabel="trained score")
    return figure
