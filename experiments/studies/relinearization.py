"""Is d90 predicted better from a kernel after a short real run? Written down before any of its runs.

Question: features move, and the network linearized at θ₀ does not say where to. A short real run on
examples that the kernel does not have shows a part of it. Is the d90 that the linearized network needs there
nearer to the measured one than that of the same examples' kernel at θ₀?

Arms, a task: the kernel of the first half of the examples that a prediction takes, at θ₀; at θ₀ + Pδ after
`STEPS` steps in a subspace of 256 dimensions (near the median d90) at .3, the lower of the rates of
linearized runs. The short run, a quarter of a training, sees the training examples that are left alone, no
fold of the kernel's; and the network is linearized with the frozen model's outputs for its start in both: an
arm differs by its rows alone. (A third arm, as many steps of full fine-tuning, was given up for want of
processor time before any row was looked at; and tasks with more than three classes are run last.)

Measured: the runs of `dimension`, as `sharpening` replays them. An arm's d90 is within a factor of two of
that of all runs of the task without a prediction, or not; and the runs have a probability under its curve.

Tasks: `CALIBRATION`, all of that half that have six runs and a predicted curve; those with two classes first,
in the order of the draw. The rule is for tasks "where the diagnostic says so": those whose linearization
error at θ₀, in the committed rows, is above .5, as in the library. No held-out task is run.

Rule: re-linearizing helps where on those tasks it has at least two more within a factor of two than θ₀, and
the sum of its runs' ln p is larger by at least 3. It then becomes a part of the prediction, and the
held-out half is looked at once; else nothing of it stays in the library.

    python -m experiments run relinearization --data DATA --tasks 24 --models minilm
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from deltatheory.dimension.posterior import AS_PREDICTED, CurveShape
from experiments.page import Findings, Table
from experiments.scope import Scope, TaskInfo
from experiments.studies import dimension, prediction, sharpening
from experiments.studies.methods import BUDGET, data
from experiments.studies.replay import Ends, MeasuredCurve
from experiments.trial import Known, Trial

CLAIM = (
    "Where linearization errs, d90 is predicted better from the kernel after a short real run than from that "
    "at δ = 0"
)
SOURCE = "deltatheory"
ABOUT = (
    "Tried, and no part of the prediction: nothing of it is in the library. Tasks of six classes and more, "
    "and one whose linearization error is small, were left for want of processor time, as was an arm of full "
    "fine-tuning; no held-out task was run."
)
CALIBRATION = (
    "more_tasks/sms_spam",
    "natural_instructions/nic_simplified_wiki_auto",
    "more_tasks/uci_imdb",
    "more_tasks/blimp_sentential_negation_npi_scope",
    "more_tasks/blimp_superlative_quantifiers_2",
    "natural_instructions/nic_snli_hypothesis_only",
    "natural_instructions/ni_task1289_trec_classification",
    "more_tasks/clinc_home",
    "more_tasks/wnut_entity_type",
    "more_tasks/snips_intent",
)
STEPS = 15
ARMS: dict[str, tuple[str, float, int]] = {
    "at δ = 0": ("", 0.0, 0),
    "after a short run": ("subspace:256", 0.3, STEPS),
}
_ERROR = 0.5  # of the linearized logits, trusted up to here
_MORE_NEAR, _MORE_LIKELY = 2, 3.0


def arm(scope: Scope, model: str, task: TaskInfo, name: str) -> Trial:
    """Return the linearized network of an arm."""
    delta, rate, steps = ARMS[name]
    budget = {key: BUDGET[key] for key in ("steps", "batch_size")}
    settings = {**data(model, task), **budget, "average": 0.0, "burn_in": steps}
    if steps:
        settings["learning_rate"] = rate
    return Trial("linearized_runs", model, task.name, delta, seed=scope.seeds[0], settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield the arms, task by task."""
    named = {task.name: task for task in scope.tasks}
    for model in scope.models:
        for name in CALIBRATION:
            if name in named:
                yield from (arm(scope, model, named[name], one) for one in ARMS)


def findings(scope: Scope, known: Known) -> Findings:
    """How near each arm's d90 is to the measured one, and how likely its curve makes the runs."""
    found, numbers, tables, met = [], {}, [], []
    for model in scope.models:
        rows = [row for task in scope.tasks if (row := _row(scope, model, task, known))]
        if not rows:
            continue
        asked = [row for row in rows if row["error"] > _ERROR]
        for what, some in (("all", rows), (f"with an error above {_ERROR:g}", asked)):
            if not some:
                continue
            numbers[f"{model}, {what}"] = {"tasks": len(some), **{a: _summary(some, a) for a in ARMS}}
            for name, one in ((a, _summary(some, a)) for a in ARMS):
                found.append(
                    f"{model}, {len(some)} tasks of {len(CALIBRATION)}, {what}: {name}: within a factor of "
                    f"two of the measured d90 on {one['near']}, median miss a factor of {one['miss']:.2f}; "
                    f"ln p of the runs {one['likelier']:+.1f} against δ = 0."
                )
        if len(asked) >= 3:
            origin, moved = (_summary(asked, a) for a in ARMS)
            met.append(moved["near"] >= origin["near"] + _MORE_NEAR and moved["likelier"] >= _MORE_LIKELY)
        columns = ["task", "linearization error", "measured d90", *ARMS]
        columns += [f"ln p of the runs, {a}" for a in ARMS]
        cells = [
            [row["task"], row["error"], row["measured"], *(row[a][x] for x in ("d90", "ln_p") for a in ARMS)]
            for row in rows
        ]
        tables.append(Table(f"{model}: d90 by where the network is linearized", columns, cells))
    ran = (
        f"On tasks of the calibration half the network is linearized at δ = 0, and after {STEPS} steps of a "
        "real run in a subspace of 256 dimensions, on training examples that the kernel does not have; both "
        "start at the frozen model's outputs. The kernel is of half of a prediction's examples. The claim is "
        f"taken to hold where, on tasks whose linearization error is above {_ERROR:g}, the second has at "
        f"least {_MORE_NEAR} more within a factor of two and ln p of the measured runs is larger by "
        f"{_MORE_LIKELY:g}: written down before the runs."
    )
    found = found or ["No task has both arms and a measured curve."]
    verdict = "undecided" if not met else "agrees" if all(met) else "disagrees"
    return Findings(verdict, ran, found, numbers, tables)


def _row(scope: Scope, model: str, task: TaskInfo, known: Known) -> dict[str, Any] | None:
    """Return what is measured of a task and what each arm says; `None` until all have run."""
    if task.name not in CALIBRATION or (curve := sharpening.curve(scope, model, task, known)) is None:
        return None
    arms = {name: known.get(arm(scope, model, task, name)) for name in ARMS}
    if not all(arms.values()) or (error := _error(scope, model, task, known)) is None:
        return None
    reference = Ends.of(curve.unpredicted(curve.runs), curve.share).middle
    said = {name: _said(curve, result) for name, result in arms.items() if result}
    return {"task": task.name, "error": error, "measured": math.exp(reference), **said}


def _said(curve: MeasuredCurve, result: dict[str, Any]) -> dict[str, float]:
    """Return an arm's d90 and the ln p of the measured runs; a curve that gains nothing has no shape."""
    scores = np.mean([np.mean(one["accuracy"], axis=1) for one in result["rates"].values()], axis=0)
    frozen = result["frozen"]["accuracy"]
    gain = float(scores.max()) - frozen
    shape = CurveShape.of_shares(result["d"], (scores - frozen) / gain) if gain >= 0.05 else None
    own = MeasuredCurve(curve.task, curve.half, shape, curve.noise, curve.runs, curve.share)
    posterior = own.posterior(AS_PREDICTED)
    middle = Ends.of(posterior, curve.share).middle
    for run in curve.runs:
        posterior.tell(*run)
    return {"d90": math.exp(middle), "ln_p": posterior.evidence()}


def _error(scope: Scope, model: str, task: TaskInfo, known: Known) -> float | None:
    """Return the linearization error at δ = 0 that the prediction of all examples gives."""
    first = dimension.trial(scope, model, task, known)
    if first is None or (result := known.get(first)) is None:
        return None
    again = prediction.predicted_anew(scope, model, task, result, known)
    found = known.get(again) if again else result
    return found["diagnostics"].get("linearization_error") if found else None


def _summary(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    misses = [abs(math.log(row[name]["d90"] / row["measured"])) for row in rows]
    origin = next(iter(ARMS))
    return {
        "near": int(np.sum(np.less_equal(misses, math.log(2)))),
        "miss": math.exp(float(np.median(misses))),
        "likelier": float(sum(row[name]["ln_p"] - row[origin]["ln_p"] for row in rows)),
    }
