"""Would `dimension` spare a run by predicted learning rates? Written down before any such prediction.

`dimension` trained full fine-tuning at both `BASELINE_RATES`, its first subspace at both `LEARNING_RATES`.
`predict_learning_rate` could choose one of each, which spares a run of either. The trainings are those of the
study `reference`, on its 16 tasks: the only new trials predict the rate of full fine-tuning and of its
subspace of `MIDDLE` dimensions, for the same budget. A choice is the rate of the pair that is nearest, in ln,
to the predicted one; it loses, in shares of the fall from the frozen model's loss to the better baseline's,
what the other rate has ahead. Beside it: always the lower, always the higher rate, and, asked for after the
predictions, the rate of the subspace at which the linearized network has the lower loss there.

For each pair by itself the prediction becomes the default of `dimension` where, on the calibration half, it
loses at most `_LOST` on seven of eight tasks, and in the mean no more than either constant. Held-out tasks
are shown, not judged by.

    python -m experiments run dimension_rates --data DATA --models minilm --out FOLDER --tasks NAMES

with NAMES those of `reference.TASK_NAMES`, in the folder in which `reference` has run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

import numpy as np

from experiments.page import Findings, Table
from experiments.scope import Scope, TaskInfo
from experiments.studies import reference
from experiments.studies.learning_rate import nearest
from experiments.studies.methods import data
from experiments.trial import Known, Trial

CLAIM = "A predicted learning rate spares `dimension` the second of its rates"
SOURCE = "deltatheory"
PAIRS = {"full": reference.BASELINE_RATES, f"subspace:{reference.MIDDLE}": reference.LEARNING_RATES}
CHOICES = ("nearest to the predicted", "the lower", "the higher")
LINEARIZED = "the linearized network's"
_LOST, _SHARE = 0.02, 7 / 8  # of the fall, of the tasks


def prediction(scope: Scope, model: str, task: TaskInfo, delta: str) -> Trial:
    """Return the trial that predicts the rate of a delta, for the budget of `reference`."""
    settings = {**data(model, task), **reference.BUDGET}
    return Trial("predicted_rate", model, task.name, delta, seed=scope.seeds[0], settings=settings)


def _trained(scope: Scope, model: str, task: TaskInfo, delta: str) -> list[Trial]:
    """Return the trainings of `reference` at both rates of the pair."""
    if delta == "full":
        return reference.baselines(scope, model, task)
    return [reference.subspace_run(scope, model, task, reference.MIDDLE, rate) for rate in PAIRS[delta]]


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield the predictions; the trainings are those of `reference`."""
    for model in scope.models:
        for task in scope.tasks:
            yield from (prediction(scope, model, task, delta) for delta in PAIRS)


def _row(scope: Scope, model: str, task: TaskInfo, delta: str, known: Known) -> dict[str, Any] | None:
    """Return what each choice loses on a task; `None` where a run is missing or no loss falls."""
    said = known.get(prediction(scope, model, task, delta))
    best = reference.tuned(scope, model, task, known)
    runs = [known.get(trial) for trial in _trained(scope, model, task, delta)]
    linearized = known.get(reference.prediction(scope, model, task))
    if said is None or linearized is None or best is None or not all(runs):
        return None
    fall = best["frozen"][reference.SCORE] - reference.loss_of(best)
    losses = [reference.loss_of(run) for run in runs]
    if fall < reference.LEAST_FALL or not math.isfinite(min(losses)):
        return None
    chosen = dict(zip(CHOICES, (nearest(said["rate"], PAIRS[delta]), 0, 1), strict=True))
    if delta != "full":
        chosen[LINEARIZED] = _of_linearized(linearized)
    lost = {choice: min((losses[i] - min(losses)) / fall, 1.0) for choice, i in chosen.items()}
    better = PAIRS[delta][losses.index(min(losses))]
    return {"task": task, "rate": said["rate"], "better": better, "lost": lost}


def _of_linearized(linearized: dict[str, Any]) -> int:
    """Return which rate of the pair has the lower loss at `MIDDLE`."""
    at = [
        np.interp(
            math.log(reference.MIDDLE), np.log(linearized["d"]), np.mean(found[reference.SCORE], axis=1)
        )
        for _, found in sorted(linearized["rates"].items(), key=lambda one: float(one[0]))
    ]
    return int(np.argmin(at))


def _judged(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        choice: {
            "within": mean(row["lost"][choice] <= _LOST for row in rows),
            "lost": mean(row["lost"][choice] for row in rows),
        }
        for choice in rows[0]["lost"]
    }


def _spares(judged: dict[str, dict[str, float]]) -> bool:
    """Return whether the prediction becomes the default."""
    own, *constants = (judged[choice] for choice in CHOICES)
    return own["within"] >= _SHARE and all(own["lost"] <= constant["lost"] for constant in constants)


def findings(scope: Scope, known: Known) -> Findings:
    """Judge the choice on the calibration tasks."""
    found, numbers, tables, spares = [], {}, [], []
    for model in scope.models:
        for delta in PAIRS:
            rows = [row for task in scope.tasks if (row := _row(scope, model, task, delta, known))]
            if not rows:
                found.append(f"{model}, {delta}: no task has a prediction and both trainings.")
                continue
            for half in ("calibration", "held-out"):
                part = [row for row in rows if row["task"].half == half]
                if not part:
                    continue
                judged = numbers[f"{model}, {delta}, {half}"] = _judged(part)
                said = "; ".join(
                    f"{choice} {one['within']:.0%}, {one['lost']:.3f} lost" for choice, one in judged.items()
                )
                found.append(
                    f"{model}, {delta}, {half}, {len(part)} tasks: within {_LOST:g} of the fall: {said}."
                )
                if half == "calibration" and len(part) >= reference.LEAST_TASKS:
                    spares.append(_spares(judged))
                    found.append(f"{model}, {delta}: a run is {'' if spares[-1] else 'not '}spared.")
            columns = ["task", "half", "predicted", "better", *(f"{one}, lost" for one in rows[0]["lost"])]
            cells = [
                [r["task"].name, r["task"].half, r["rate"], r["better"], *r["lost"].values()] for r in rows
            ]
            tables.append(Table(f"{model}, {delta}: the choice of a pair's rate", columns, cells))
    ran = (
        "Trainings of the study reference: 120 steps of 32, judged by the held-out loss at the best scale of "
        "the logits, of δ averaged over the second half of the steps; predictions for the same budget."
    )
    verdict = "undecided" if not spares else "agrees" if all(spares) else "disagrees"
    return Findings(verdict, ran, found, numbers, tables)
