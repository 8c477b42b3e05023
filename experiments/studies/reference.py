"""A sharp reference for d90, and how the posterior comes to it: written down before any of its runs.

Question: how near is d90 of the held-out loss predicted without training, and after 1, 2, 4, 6 and 12 runs,
to that of 16 runs?

Criterion: the loss at the best scale of the logits (`Loss.best_scale`) on the test split, of δ averaged over
the second half of the steps. Score of a run: the share of the fall of that loss from the frozen model to full
fine-tuning, of which the better of two rates counts. d90, d75 and d50 are where the curve of this score over
ln d reaches .9, .75 and .5.

Runs, a task: the linearized network; full fine-tuning at `BASELINE_RATES`; one run at each of `DIMENSIONS`,
in a subspace and an order of its own. The rate is the one of `LEARNING_RATES` whose run at `MIDDLE` has the
lower loss; above that d it falls as 1/√d, which keeps the length of a step ‖PΔδ‖ = ‖Δδ‖ of Adam: in committed
rows of the calibration half runs with d > 2,000 at the rate of a few hundred fell to chance. All have the
same 512 training and up to 1,000 test examples, 120 steps of 32.

Tasks: `CALIBRATION` and `HELD_OUT`, families split by `TaskInfo.half`. Calibration: the first eight of that
half in the order of the draw where committed full fine-tuning is at least .1 of accuracy above the frozen
model. Held out: the first four of the other half by the same rule, then the first four in the draw that no
committed study has run, of families of that half that are not in yet and whose sibling, where it was run,
gains as much. The spread of the prior, the noise of a run and whatever else is a number in the rule come from
the calibration half, or from earlier calibration rows, alone; the held-out half is looked at once.

Aims, held out, on tasks where fine-tuning lowers the loss by at least `LEAST_FALL`:
- the 90 % interval of the reference is within ±25 % on 80 % of tasks;
- the prediction without runs is within a factor of two of the reference on 70 %, after 2 runs on 90 %;
- the median width of the interval in ln d after 4 runs is half of what six runs of accuracy had;
- the 90 % intervals after 0, 1, 2, 4, 6 and 12 runs hold the reference on 85 to 95 %.
An aim that is missed is reported as missed. Runs of a posterior are replayed from the 16: it says which d it
wants, the nearest that is left is told to it. It is then compared with a reference that has seen these runs
too, and with the one from the runs that it has not seen.

The numbers of the rule (`of_the_loss`), written down when five held-out tasks had been looked at under
`AS_PREDICTED`, which was fitted to curves of accuracy (predicted too high on four), and before any curve of
the calibration half or of `classics/sst2`, `nic_e2e_customer_rating` and `semeval10_relation` was there: the
noise of a run is that of `LOTS` and `NOISES` under which the calibration half's runs are likeliest without a
prediction; the shift's mean and standard deviation are those of ln(measured d75 / predicted d75) over that
half, the deviation times √(1 + 1/n), as the mean is of n tasks itself. On a task of that half the numbers
come from its others. They are taken where, on that half, they put more predictions within a factor of two
and their intervals hold no fewer; both rules are on the page, and the aims are judged by the one taken.

There is no prediction where linearized training lowers the loss by less than `LEAST_PART` of it: added to
the library, for accuracy as well, when four curves of the calibration half were there, two with 4 and 3 %
(no shape, and d75 140 times the predicted one) and two with half or more, and before the other three held-out
tasks were looked at.

    python -m experiments run reference --data DATA --models minilm --out FOLDER --tasks NAMES

with NAMES those of `TASK_NAMES`, with commas between them. On two cores a task takes a quarter of an hour or
more: the held-out half comes first, the four with the shortest texts before the others. Fewer than
`LEAST_TASKS` of that half have figures, but no verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from deltatheory.dimension.posterior import (
    AS_PREDICTED,
    UNKNOWN,
    CurvePrior,
    CurveShape,
)
from deltatheory.dimension.predict import LEAST_PART
from experiments.page import Findings, Table
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import data
from experiments.studies.replay import Ends, MeasuredCurve, Replays, replayed, summary, table
from experiments.trial import Known, Trial

CLAIM = (
    "d90 of the held-out loss is predicted within a factor of two on 70 % of tasks, and after two training "
    "runs on 90 %"
)
SOURCE = "deltatheory"
CALIBRATION = (
    "more_tasks/blimp_ellipsis_n_bar_1",
    "more_tasks/sms_spam",
    "natural_instructions/nic_simplified_wiki_auto",
    "natural_instructions/ni_task1289_trec_classification",
    "natural_instructions/nic_snli_hypothesis_only",
    "more_tasks/topic_stackoverflow",
    "more_tasks/clinc_home",
    "more_tasks/ud_pos",
)
HELD_OUT = (
    "more_tasks/persona_interest_in_literature",
    "more_tasks/blimp_principle_A_reconstruction",
    "classics/sst2",
    "more_tasks/blimp_wh_vs_that_with_gap",
    "more_tasks/blimp_tough_vs_raising_1",
    "natural_instructions/nic_e2e_customer_rating",
    "more_tasks/semeval10_relation",
    "more_tasks/emobank_valence",
)
TASK_NAMES = CALIBRATION + HELD_OUT
BASELINE_RATES = (1e-4, 2e-4)
LEARNING_RATES = (0.3, 1.0)
MIDDLE = 185
DIMENSIONS = tuple(round(2 ** (1 + 14 * i / 15)) for i in range(16))  # 2 .. 32,768
LEAST_FALL = 0.05  # nats
LEAST_TASKS = 6
SCORE = "calibrated_loss"
NOISE = 0.03  # of a run's share of the fall, as in the library
NOISES = (0.01, 0.02, 0.03, 0.05)
LOTS = (0.08, 0.11, 0.16, 0.23, 0.32, 0.45)  # of a run along ln d, in d75 and where the curve is steep
OTHERS = (0.75, 0.5)  # shares, beside that of d90
_SCORES = ("accuracy", "loss", SCORE)
BUDGET = {"test": 1000, "max_length": 64, "steps": 120, "batch_size": 32, "average": 0.5}


def prediction(scope: Scope, model: str, task: TaskInfo) -> Trial:
    """Return the trial of the linearized network."""
    settings = {**data(model, task), **BUDGET}
    return Trial("linearized_runs", model, task.name, seed=scope.seeds[0], settings=settings)


def subspace_run(scope: Scope, model: str, task: TaskInfo, d: int, rate: float) -> Trial:
    """Return the run in a subspace of this dimension, whose seed is its own, at a rate for `MIDDLE`."""
    at = float(f"{rate * min(1.0, (MIDDLE / d) ** 0.5):.3g}")
    settings = {**data(model, task), **BUDGET, "learning_rate": at}
    seed = scope.seeds[0] + DIMENSIONS.index(d)
    return Trial("subspace_runs", model, task.name, f"subspace:{d}", seed=seed, settings=settings)


def baselines(scope: Scope, model: str, task: TaskInfo) -> list[Trial]:
    """Return full fine-tuning at each rate."""
    settings = {**data(model, task), **BUDGET}
    return [
        Trial(
            "subspace_runs",
            model,
            task.name,
            "full",
            {},
            scope.seeds[0] + i,
            {**settings, "learning_rate": r},
        )
        for i, r in enumerate(BASELINE_RATES)
    ]


def loss_of(result: dict | None) -> float:
    """Return the loss that counts of a run: infinite for one that diverged."""
    return result["averaged"][SCORE] if result and result["averaged"] else math.inf


def _tried(scope: Scope, model: str, task: TaskInfo) -> dict[float, Trial]:
    return {rate: subspace_run(scope, model, task, MIDDLE, rate) for rate in LEARNING_RATES}


def _rate(scope: Scope, model: str, task: TaskInfo, known: Known) -> float | None:
    """Return the rate whose run at `MIDDLE` has the lower loss; `None` until both have run."""
    tried = _tried(scope, model, task)
    if any(known.get(trial) is None and known.error(trial) is None for trial in tried.values()):
        return None
    return min(tried, key=lambda rate: loss_of(known.get(tried[rate])))


def runs(scope: Scope, model: str, task: TaskInfo, known: Known) -> list[Trial]:
    """Return the trials in subspaces: those at `MIDDLE` alone, until they say which rate is better."""
    rate = _rate(scope, model, task, known)
    if rate is None:
        return list(_tried(scope, model, task).values())
    return [subspace_run(scope, model, task, d, rate) for d in DIMENSIONS]


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield baselines and both rates at the middle, then the other dimensions, and predictions at the end.

    A prediction takes a processor longer than a training takes a GPU.
    """
    for model in scope.models:
        for task in scope.tasks:
            yield from baselines(scope, model, task)
            yield from runs(scope, model, task, known)
            if _rate(scope, model, task, known) is not None:
                yield prediction(scope, model, task)


def tuned(scope: Scope, model: str, task: TaskInfo, known: Known) -> dict[str, Any] | None:
    """Return the better of the baselines; `None` while one is missing."""
    asked = baselines(scope, model, task)
    found = [result for trial in asked if (result := known.get(trial))]
    return min(found, key=loss_of) if len(found) == len(asked) else None


def curve(scope: Scope, model: str, task: TaskInfo, known: Known) -> MeasuredCurve | None:
    """Return the measured curve of a task with its predicted shape; `None` while a run is missing.

    Tasks whose loss fine-tuning does not lower by `LEAST_FALL` have none.
    """
    best, linearized = tuned(scope, model, task, known), known.get(prediction(scope, model, task))
    found = [known.get(trial) for trial in runs(scope, model, task, known)]
    if best is None or linearized is None or len(found) < len(DIMENSIONS) or not all(found):
        return None
    frozen = best["frozen"][SCORE]
    fall = frozen - loss_of(best)
    if fall < LEAST_FALL:
        return None
    shares = [
        (d, (frozen - loss) / fall if math.isfinite(loss := loss_of(result)) else 0.0)
        for d, result in zip(DIMENSIONS, found, strict=True)
    ]
    return MeasuredCurve(task.name, task.half, _shape(linearized), NOISE, shares, 0.9)


def _shape(linearized: dict) -> CurveShape | None:
    """Return the predicted shape, the mean over the rates; `None` where the loss falls too little."""
    losses = np.mean([np.mean(found[SCORE], axis=1) for found in linearized["rates"].values()], axis=0)
    start = linearized["frozen"][SCORE]
    fall = start - float(losses[-1])
    if fall < max(LEAST_FALL, LEAST_PART * start):
        return None
    return CurveShape.of_shares(linearized["d"], (start - losses) / fall)


@dataclass(frozen=True)
class Numbers:
    """Those of the rule: the prior of a predicted curve, and the noise of a run's share of the fall."""

    prior: CurvePrior
    noise: float

    def replayed(self, one: MeasuredCurve) -> Replays:
        """Replay a curve under them, its reference with the same noise of a run."""
        return replayed(_noisy(one, self.prior.lot, self.noise), self.prior)


def of_the_loss(curves: Sequence[MeasuredCurve]) -> Numbers:
    """Return the numbers that curves of the calibration half give.

    The noise of a run under which all are likeliest without a prediction, and mean and deviation of
    ln(measured d75 / predicted d75) of those with a predicted shape.
    """
    lot, noise = max(product(LOTS, NOISES), key=lambda of: sum(_ln_p(one, *of) for one in curves))
    shifts = [_shift(one, one.shape, lot, noise) for one in curves if one.shape]
    deviation = statistics.stdev(shifts) * math.sqrt(1 + 1 / len(shifts))
    return Numbers(replace(AS_PREDICTED, shift=(statistics.fmean(shifts), deviation), lot=lot), noise)


def _noisy(one: MeasuredCurve, lot: float, noise: float) -> MeasuredCurve:
    """Return a curve whose runs have another noise."""
    return replace(one, noise=noise, unknown=replace(UNKNOWN, lot=lot))


@cache
def _ln_p(one: MeasuredCurve, lot: float, noise: float) -> float:
    return _noisy(one, lot, noise).unpredicted(one.runs).evidence()


def _shift(one: MeasuredCurve, shape: CurveShape, lot: float, noise: float) -> float:
    """Return ln(measured d75 / predicted d75)."""
    measured = _noisy(one, lot, noise).unpredicted(one.runs)
    return Ends.of(measured, 0.75).middle - shape.crossing(0.75)


def _by_others(one: MeasuredCurve, calibration: Sequence[MeasuredCurve]) -> Replays:
    """Replay a curve under the numbers of the calibration curves other than itself."""
    return of_the_loss([other for other in calibration if other is not one]).replayed(one)


def _near(rows: Sequence[dict[str, float]]) -> str:
    return ", ".join(f"{r['near']:.0%} after {r['runs']} ({r['holds']:.0%} held)" for r in rows)


_ENDS = ("low", "middle", "high")


def _ends(one: Replays) -> list[Any]:
    """Return a task's row: what is predicted before any run, and the reference."""
    first = one.found[0]
    ends = [round(math.exp(getattr(x, end))) for x in (first.said, first.all) for end in _ENDS]
    return [one.curve.task, one.curve.half, *ends]


def findings(scope: Scope, known: Known) -> Findings:
    """The criterion, and where the runs are there the reference and the replays."""
    tables, numbers, found, met = [], {}, [], []
    for model in scope.models:
        ends = [(t, best) for t in scope.tasks if (best := tuned(scope, model, t, known))]
        if ends:
            rows = [
                [t.name, t.half, *(best[at][x] for x in _SCORES for at in ("frozen", "averaged"))]
                for t, best in ends
            ]
            rose = sum(row[5] > row[4] and row[3] > row[2] for row in rows)
            fell = sum(row[7] < row[6] for row in rows)
            found.append(
                f"{model}, {len(ends)} tasks: full fine-tuning raises the plain cross-entropy of held-out "
                f"texts on {rose} on which it raises accuracy; that at the best scale of the logits falls on "
                f"{fell}."
            )
            heads = [f"{x}, {at}" for x in _SCORES for at in ("frozen", "fine-tuned")]
            tables.append(Table(f"{model}: the ends of the curve", ["task", "half", *heads], rows))
            numbers[f"{model}, criterion"] = {"tasks": len(ends), "rose": rose, "fell": fell}
        curves = [one for t in scope.tasks if (one := curve(scope, model, t, known))]
        found.append(f"{model}: the {len(DIMENSIONS)} runs are there on {len(curves)} of {len(scope.tasks)}.")
        if not curves:
            continue
        numbers[model] = {"complete": len(curves)}
        rules = {"AS_PREDICTED": [replayed(one, AS_PREDICTED) for one in curves]}
        taken, calibration = "AS_PREDICTED", [one for one in curves if one.half == "calibration"]
        if len(calibration) >= LEAST_TASKS:
            rules["of_the_loss"] = [_by_others(one, calibration) for one in curves]
            numbers[model] |= asdict(of_the_loss(calibration))
            before = {name: summary(replays, "calibration")[0] for name, replays in rules.items()}
            old, new = before["AS_PREDICTED"], before["of_the_loss"]
            if new["near"] > old["near"] and new["holds"] >= old["holds"]:
                taken = "of_the_loss"
            numbers[model] |= {"taken": taken}
            found.append(f"{model}: on the calibration half the rule taken is {taken}.")
        for (name, replays), half in product(rules.items(), ("calibration", "held-out")):
            own = [one for one in replays if one.curve.half == half]
            if len(own) < 3:
                continue
            rows = summary(own, half)
            sharp = float(np.mean([one.found[0].all.width / 2 <= math.log(1.25) for one in own]))
            where = f"{model}, {half}, {name}"
            numbers[where] = {"after": rows, "reference_within_25_percent": sharp}
            found.append(
                f"{where}, {len(own)} tasks: the reference is within ±25 % on {sharp:.0%}; the posterior is "
                f"within a factor of two of it on {_near(rows)}."
            )
            tables.append(table(where, rows))
            if half == "held-out" and name == taken and len(own) >= LEAST_TASKS:
                near = {row["runs"]: row["near"] for row in rows}
                met.append(near[0] >= 0.7 and near[2] >= 0.9)
        held = [one for one in curves if one.half == "held-out"]
        for share in OTHERS if len(held) >= LEAST_TASKS else ():
            where = f"{model}, held-out, d{100 * share:.0f}"
            rows = summary([replayed(replace(one, share=share), AS_PREDICTED) for one in held], "held-out")
            numbers[where] = {"after": rows}
            found.append(f"{where}, asked for after the runs: within a factor of two on {_near(rows)}.")
            tables.append(table(where, rows))
        for name, replays in rules.items():
            heads = ["task", "half", *(f"{x}, {end}" for x in ("predicted", "reference") for end in _ENDS)]
            tables.append(Table(f"{model}: d90, {name}", heads, [_ends(one) for one in replays]))
    ran = (
        "On MiniLM, for each task: the linearized network, full fine-tuning at two rates, and runs in random "
        f"subspaces of {len(DIMENSIONS)} dimensions from {DIMENSIONS[0]} to {DIMENSIONS[-1]:,}, 120 steps of "
        "32, judged by the held-out loss at the best scale of the logits, of δ averaged over the second half "
        "of the steps. Tasks, split and aims stand in the study's module, written before any of them was run."
    )
    verdict = "undecided" if not met else "agrees" if all(met) else "disagrees"
    return Findings(verdict, ran, found, numbers, tables)
