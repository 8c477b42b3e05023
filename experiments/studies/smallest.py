"""The smallest delta that suffices, advised before training, against all trained ones.

Written down before any evaluation. Tasks, deltas and trainings are those of `learning_rate`: each delta's
score is that at the best rate of the grid, the same tuning for all. The constants of the decision
(`deltatheory/advice/posterior.py`) are set on calibration tasks alone; the page says what they come to there.
One trial was run to see the study work (trec, of the calibration half); it made us look at budgets and add
what a method is ahead.

The decision was changed once: it had looked at larger candidates alone, so that the largest was taken with
probability 1 and more runs made it worse on both halves (after two and after four, within a point on 100 and
67 % of either). Now the smallest is taken that no other is likely to beat by more than a point. On the
calibration half alone that is 100 % without runs and 94 % after four, .5 being still the chance up to which
a candidate suffices. The page has the former decision beside it; the held-out half is looked at once more.

The race, written down before any replay of it: what is taken after k = 1, 2 and 4 runs of `advise
--train-runs k` (`deltatheory.advice.race`), against as many runs of candidates by lot, told to the same
posterior. Aim, held out: within a point of the best on 95 % of tasks with k = 4. Nothing is trained anew: the
posterior is that of the advice's row, a run's result the score at the rate of the grid that is nearest to
the predicted one. Rows do not say which examples a run solves, so each of as many as a race judges on is
solved or not by lot, with the score for the chance: differences are told with more noise than those of the
same examples have. But a run and the end are judged on one test split, where the library keeps it for the
end: that flatters both orders alike. Every task is replayed `DRAWS` times.

The advice chooses among deltas whose kernels take no row of J, so not among VeRA and prompts, which are among
those that it is compared with. No delta of the sweep has 2,000 parameters or fewer but in models smaller than
MiniLM. The smallest that suffices, known afterwards, says what a choice by size could have come to.

    python -m experiments run smallest --data DATA --models minilm --out FOLDER --tasks NAMES

with NAMES those of `learning_rate.TASK_NAMES`, in the folder in which `learning_rate` has run. With smollm2
the tasks are its `LANGUAGE_TASKS`, written down before any advice on them, the candidates its six deltas. Six
held-out tasks of MiniLM had been judged when the four of `learning_rate.MORE_TASKS` were drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import mean, median
from typing import Any

import numpy as np

from deltatheory.advice.posterior import TrainedScores
from deltatheory.advice.race import JUDGED, race
from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, Verdict, drawing
from experiments.scope import Scope, TaskInfo
from experiments.studies import learning_rate
from experiments.studies.methods import LANGUAGE_MODEL, Method, data, joint
from experiments.trial import Known, Trial

CLAIM = (
    "The delta that is advised before training is within a point of the best of all trained on 85 % of "
    "held-out tasks, at a quarter of the parameters of LoRA r = 8 (median); after four short runs on 95 %"
)
SOURCE = "deltatheory"
TASKS = ("classification",)
BUDGETS = (None, 2_000, 10_000, 50_000)
_BY_ROWS = ("vera", "prompt")  # their kernels take all rows of J
_HABIT = "lora:8"
_EXAMPLES = 192
_POINT = 0.01
_LEAST_TASKS = 6  # for a verdict
_SHARE, _SIZE, _RACED = 0.85, 0.25, 0.95  # the aims
RUNS = (0, 1, 2, 4)
DRAWS = 3  # of which examples a run solves
RACED_BUDGETS = (None, 50_000)


def _key(method: Method) -> tuple[str, bool]:
    return method.delta, "targets" in method.options


def _name(delta: str, everywhere: bool) -> str:
    return delta + (" all linear maps" if everywhere else "")


def _candidates(model: str, task: TaskInfo) -> list[Method]:
    """Return what may be advised: of what is trained on the task."""
    return [m for m in learning_rate.trained(model, task) if m.delta.partition(":")[0] not in _BY_ROWS]


def advice(scope: Scope, model: str, task: TaskInfo) -> Trial:
    """Return the trial that advises on a task."""
    settings = {
        **data(model, task),
        "examples": _EXAMPLES,
        "candidates": [[method.delta, dict(method.options)] for method in _candidates(model, task)],
        "budgets": list(BUDGETS),
    }
    return Trial("smallest", model, task.name, seed=scope.seeds[0], settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield the advice on each task; the trainings are those of `learning_rate`."""
    for model in scope.models:
        yield from (advice(scope, model, task) for task in scope.tasks)


def _score(
    scope: Scope, model: str, task: TaskInfo, method: Method, known: Known
) -> tuple[float, int] | None:
    """Return a delta's score at its best rate, mean over the seeds that have run, and its size."""
    whole = learning_rate.whole_sweeps(scope, model, task, method, known)
    if not whole:
        return None
    scores = np.array([[run["test"] or 0.0 for run in runs] for runs in whole])
    return float(scores.mean(0).max()), whole[0][0]["parameters"]


def _row(scope: Scope, model: str, task: TaskInfo, known: Known) -> dict[str, Any] | None:
    """Return the trained scores and sizes of a task, and what was advised; `None` where a run is missing."""
    advised = known.get(advice(scope, model, task))
    found = {_key(m): _score(scope, model, task, m, known) for m in learning_rate.trained(model, task)}
    if advised is None or None in found.values():
        return None
    scores = {key: one[0] for key, one in found.items() if one}
    choice = _candidates(model, task)
    predicted = [_at_predicted_rate(scope, model, task, method, known) for method in choice]
    return {
        "task": task,
        "half": learning_rate.half(model, task),
        "scores": scores,
        "sizes": {key: one[1] for key, one in found.items() if one},
        "best": max(scores.values()),
        # the decision had changed before the language model was asked
        "former": model != LANGUAGE_MODEL
        and [
            None if one["candidate"] is None else _key(choice[one["candidate"]]) for one in advised["taken"]
        ],
        "prior": TrainedScores(np.array(advised["mean"]), np.array(advised["covariance"])),
        "candidates": [_key(method) for method in choice],
        "predicted": predicted,
    }


def _at_predicted_rate(
    scope: Scope, model: str, task: TaskInfo, method: Method, known: Known
) -> float | None:
    """Return a delta's score at the rate of the grid that is nearest to the predicted one."""
    seed = scope.seeds[0]
    said = known.get(learning_rate.prediction(model, task, method, seed))
    if said is None or not said["rate"]:
        return None
    results, _ = learning_rate.sweep(model, task, method, seed, known)
    at = learning_rate.nearest(said["rate"], learning_rate.grid(model, method))
    return (results[at]["test"] or 0.0) if at < len(results) else None


def _best(row: dict[str, Any]) -> tuple[str, bool]:
    return max(row["scores"], key=lambda k: row["scores"][k])


def _within(row: dict[str, Any], budget: int | None) -> dict[Any, float]:
    return {k: s for k, s in row["scores"].items() if budget is None or row["sizes"][k] <= budget}


def _fixed(rows: list[dict[str, Any]], budget: int | None) -> Any:
    """Return the delta within a budget with the best mean score on the calibration tasks."""
    rows = [row for row in rows if row["half"] == "calibration"]
    common = set.intersection(*(set(_within(row, budget)) for row in rows)) if rows else set()
    return max(sorted(common), key=lambda k: mean(row["scores"][k] for row in rows), default=None)


def findings(scope: Scope, known: Known) -> Findings:
    """Judge the advice on the held-out tasks."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    for model in scope.models:
        rows = [row for task in scope.tasks if (row := _row(scope, model, task, known))]
        held = [row for row in rows if row["half"] == "held-out"]
        if not held:
            found.append(f"{model}: no held-out task has an advice and all its sweeps.")
            continue
        numbers[model] = {
            half: _judged(rows, [row for row in rows if row["half"] == half])
            for half in ("held-out", "calibration")
        }
        own = numbers[model]["held-out"]["no budget"]["advice"]
        raced = {
            "no budget" if budget is None else f"{budget:,} parameters": after
            for budget in RACED_BUDGETS
            if (after := _raced(held, budget))
        }
        numbers[model]["held-out, after runs"] = raced
        last = {one["order"]: one for one in raced.get("no budget", ()) if one["runs"] == max(RUNS)}
        holds = own["within"] >= _SHARE and own["size"] <= _SIZE
        holds = holds and bool(last) and last["the race"]["within"] >= _RACED
        verdicts.append("undecided" if len(held) < _LEAST_TASKS else "agrees" if holds else "disagrees")
        for half in ("held-out", "calibration"):
            for budget, rules in numbers[model][half].items():
                said = "; ".join(
                    f"{rule} {one['within']:.0%}, {one['short']:.3f} short, {one['size']:.3g} times the "
                    "parameters of LoRA r = 8"
                    for rule, one in rules.items()
                )
                found.append(f"{model}, {half}, {budget}: within a point of the best {said}.")
        known_after = numbers[model]["held-out"]["no budget"]["the smallest that suffices"]
        if known_after["size"] > _SIZE:
            found.append(
                f"{model}, held-out: no choice within a point of the best comes to {_SIZE:g} times the "
                "parameters of LoRA r = 8 in the median: the smallest such delta, known after all trainings, "
                f"has {known_after['size']:.3g} times."
            )
        for budget, after in raced.items():
            said = "; ".join(
                f"{one['order']}, {one['runs']} runs {one['within']:.0%}, {one['short']:.3f} short, "
                f"{one['size']:.3g} times the parameters of LoRA r = 8"
                for one in after
                if one["runs"] == max(RUNS)
            )
            found.append(f"{model}, held-out, {budget}: within a point of the best {said}.")
            tables.append(
                Table(
                    f"{model}, held-out, {budget}: what is taken after short runs",
                    [
                        "order",
                        "runs",
                        "tasks",
                        "within a point",
                        "points lost",
                        "times LoRA r = 8",
                        "promised",
                        "followed",
                    ],
                    [list(one.values()) for one in after],
                )
            )
        if off := _off(row for row in rows if row["half"] == "calibration"):
            numbers[model]["run"] = off
            found.append(
                f"{model}, calibration: ln-odds of a run at the predicted rate and of one at the best rate "
                f"differ by {off:.2f} (rms)."
            )
        tables.append(
            Table(
                f"{model}: what was advised without a budget",
                ["task", "half", "advised", "parameters", "probability", "score", "best", "its score"],
                [
                    [
                        row["task"].name,
                        row["half"],
                        _name(*key),
                        row["sizes"][key],
                        1 - worse,
                        row["scores"][key],
                        _best(row)[0],
                        row["best"],
                    ]
                    for row in rows
                    for key, worse in [_decided(row, row["prior"], None)]
                ],
            )
        )
        with drawing(6, 3) as (figure, axes):
            for rule, colour in (("advice", "measured"), ("best", "predicted")):
                for row in held:
                    key = _decided(row, row["prior"], None)[0] if rule == "advice" else _best(row)
                    axes.plot(row["sizes"][key], row["scores"][key], "o", color=COLOURS[colour])
            axes.set(xscale="log", xlabel="parameters", ylabel="accuracy")
        figures[f"{model}, held-out: the advised delta, and the best of all in the other colour"] = figure
    return Findings(joint(verdicts), RAN, found, numbers, tables, figures)


RAN = (
    "The trainings are those of the study learning_rate: 60 steps of 16, ten rates, tested on at most "
    "1,000 examples (with SmolLM2 40 steps of 8, and 400); the score of a delta is that at its best rate. "
    "The advice is from kernels of 192 training examples. The best fixed choice of a budget is the one "
    "with the best mean on the calibration tasks; the best is that of all trained within the budget. The "
    "smallest that suffices is known only after all trainings. Short runs are replayed from the same "
    "trainings, each at the rate of the grid nearest to the predicted one; which examples a run solves is "
    "drawn by lot, and a run is judged on the test split that judges the end, which flatters both orders "
    "alike. 'Promised' is the mean of the probabilities that come with what is taken. 'Followed' is what "
    "the taken delta is short of the best of all where it is trained at its predicted rate."
)


def _lost(chosen: Sequence[tuple[dict[str, Any], Any]], budget: int | None) -> dict[str, Any]:
    """Return what choices lose against the best of all trained within a budget, and how large they are."""
    short = [max(_within(row, budget).values()) - row["scores"][key] for row, key in chosen]
    return {
        "tasks": len({row["task"].name for row, _ in chosen}),
        "within": mean(x <= _POINT for x in short),
        "short": mean(short),
        "size": median(row["sizes"][key] / row["sizes"][_HABIT, False] for row, key in chosen),
    }


def _smallest(row: dict[str, Any], budget: int | None) -> Any:
    """Return the smallest delta within a point of the best: it is known after all trainings."""
    within = _within(row, budget)
    enough = [key for key in within if within[key] >= max(within.values()) - _POINT]
    return min(enough, key=lambda key: row["sizes"][key], default=None)


def _ladder(row: dict[str, Any], budget: int | None) -> list[int]:
    """Return the candidates within a budget, the smallest first."""
    keys = row["candidates"]
    ladder = [i for i, key in enumerate(keys) if key in _within(row, budget)]
    return sorted(ladder, key=lambda i: (row["sizes"][keys[i]], -row["prior"].mean[i]))


def _decided(row: dict[str, Any], scores: TrainedScores, budget: int | None) -> tuple[Any, float]:
    """Return what is taken, and the chance that another candidate is more than a point better."""
    if not (ladder := _ladder(row, budget)):
        return None, 0.0
    one, worse = scores.smallest(ladder)
    return row["candidates"][one], worse


def _replayed(row: dict[str, Any], budget: int | None, draw: int) -> dict[tuple[str, int], tuple[Any, float]]:
    """Return (order, runs) ↦ what is decided after so many runs, in the order of the race and by lot."""
    prior, keys, rng = row["prior"], row["candidates"], np.random.default_rng(draw)
    ladder = _ladder(row, budget)
    solved = rng.random((len(keys), JUDGED)) < np.array(row["predicted"])[:, None]
    raced = [prior, *islice(race(prior, ladder, lambda i: solved[i], JUDGED), max(RUNS))]
    lot = rng.permutation(ladder)
    after = {("the race", k): raced[min(k, len(raced) - 1)] for k in RUNS}
    after |= {("by lot", k): prior.observed({int(i): solved[i] for i in lot[:k]}) for k in RUNS}
    return {which: _decided(row, scores, budget) for which, scores in after.items()}


def _raced(part: list[dict[str, Any]], budget: int | None) -> list[dict[str, Any]]:
    """Return what is lost after each number of runs, on tasks whose rates are predicted."""
    part = [
        row
        for row in part
        if None not in row["predicted"] and set(row["candidates"]) & set(_within(row, budget))
    ]
    taken = [(row, _replayed(row, budget, draw)) for row in part for draw in range(DRAWS)]
    found = []
    for order, k in taken[0][1] if taken else ():
        chosen = [(row, after[order, k][0]) for row, after in taken]
        followed = mean(
            max(_within(row, budget).values()) - row["predicted"][row["candidates"].index(key)]
            for row, key in chosen
        )
        promised = mean(1 - after[order, k][1] for _, after in taken)
        found.append(
            {"order": order, "runs": k, **_lost(chosen, budget), "promised": promised, "followed": followed}
        )
    return found


def _off(rows: Iterable[dict[str, Any]]) -> float | None:
    """Return by how much ln-odds of runs at the predicted rate lie off those at the best rate, rms."""
    pairs = [
        (row["scores"][key], score)
        for row in rows
        for key, score in zip(row["candidates"], row["predicted"], strict=True)
        if score is not None and 0 < score < 1 and row["scores"][key] < 1
    ]
    odds = np.log([[x / (1 - x) for x in pair] for pair in pairs]).reshape(-1, 2)
    return float(np.sqrt(np.mean((odds[:, 0] - odds[:, 1]) ** 2))) if len(pairs) else None


def _judged(rows: list[dict[str, Any]], part: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each budget what the advice and fixed rules lose; rules that do not fit it are left out."""
    judged: dict[str, dict[str, Any]] = {}
    former = all(row["former"] for row in part)
    for place, budget in enumerate(BUDGETS):
        fixed = {
            "LoRA r = 8": (_HABIT, False),
            "full": ("full", False),
            "LayerNorm": ("layernorm", False),
            "best fixed": _fixed(rows, budget),
        }
        choices = {
            "advice": [_decided(row, row["prior"], budget)[0] for row in part],
            **({"advice, as first decided": [row["former"][place] for row in part]} if former else {}),
            **{rule: [key] * len(part) for rule, key in fixed.items()},
            "the smallest that suffices": [_smallest(row, budget) for row in part],
        }
        results = {}
        for rule, keys in choices.items():
            chosen = list(zip(part, keys, strict=True))
            if not chosen or any(key not in _within(row, budget) for row, key in chosen):
                continue
            key = fixed.get(rule)
            results[rule] = {**_lost(chosen, budget), "delta": key and key[0]}
        if results:
            judged["no budget" if budget is None else f"{budget:,} parameters"] = results
    return judged
