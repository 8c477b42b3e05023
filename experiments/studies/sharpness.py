"""How sharp d90 is predicted, and measured with six and with twelve runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import stdev
from typing import Any

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, Verdict, drawing, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import data, joint, spearman
from experiments.trial import Known, Trial

CLAIM = (
    "Six training runs measure d90 to 25 %, and the prediction is within a factor of two of twelve runs on "
    "seven tasks of nine"
)
SOURCE = "deltatheory"
ABOUT = (
    "The predictions are no blind test: three rules for the learning rate of the linearized runs were looked "
    "at on these tasks, and the one that stayed, the mean over both rates, is what the library does. The "
    "searches began at what margins foretold then, by the rate with the better held-out loss; the burn-in "
    "is of margins too. With more than two classes the row of a held-out margin knows which class to raise, "
    "which is why logits are linearized since. Where the linearized network is content and wrong, its "
    "baseline is too low: features that move lift full fine-tuning and not its linearization."
)
RUNS = (12.0, 6.0)
BURN_IN = 6  # steps of full fine-tuning before the linearization
BUDGET = {"steps": 120, "batch_size": 32}
_SHARP, _WITHIN = 0.25, 7 / 9


def search(scope: Scope, model: str, task: TaskInfo, runs: float) -> Trial:
    """Return the search with so many runs, to 90 % of what full fine-tuning reaches within it."""
    settings = {**data(model, task), "test": 1000, "max_length": 64, **BUDGET}
    settings |= {"own_draw": True, "runs": runs}
    return Trial("dimension", model, task.name, seed=scope.seeds[0], settings=settings)


def prediction(scope: Scope, model: str, task: TaskInfo, burn_in: int = 0) -> Trial:
    """Return the prediction alone."""
    one = search(scope, model, task, RUNS[-1])
    settings = {**one.settings, **({"burn_in": burn_in} if burn_in else {})}
    return replace(one, kind="prediction", settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield both searches of every task and both predictions."""
    for model in scope.models:
        for task in scope.tasks:
            yield from (search(scope, model, task, runs) for runs in RUNS)
            yield from (prediction(scope, model, task, burn_in) for burn_in in (0, BURN_IN))


def findings(scope: Scope, known: Known) -> Findings:
    """How the predictions and the shorter search stand to the longer search."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    for model in scope.models:
        for runs in RUNS:
            rows = _rows(scope, model, runs, known)
            if not rows:
                found.append(f"{model}, {runs:.0f} runs: no task is complete.")
                continue
            both = [row for row in rows if row["ratio"]]
            near = {way: _near(rows, way) for way in WAYS}
            widths = [row["width"] for row in rows if row["width"] is not None]
            sharp = sum(width <= _SHARP for width in widths)
            covered = sum(row["covered"] for row in both)
            rho = spearman([r["predicted"]["value"] for r in both], [r["measured"]["value"] for r in both])
            logs = [math.log(row["ratio"]) for row in both]
            numbers[f"{model}, {runs:.0f} runs"] = {
                "tasks": len(rows),
                "compared": len(both),
                "within_factor_two": near,
                "spearman": rho,
                "log_ratio_sd": stdev(logs) if len(logs) > 1 else None,
                "predicted_interval_covers": covered,
                "measured_within_25_percent": sharp,
            }
            said = ", ".join(f"{n} {way}" for way, n in near.items())
            costs, full = ([row[key] for row in rows] for key in ("passes_ratio", "full_runs"))
            found += [
                f"{model}, {runs:.0f} runs, {len(rows)} tasks: the prediction is within a factor of two of "
                f"the measured d90 on {said}; rank correlation {number(rho)}; its "
                f"90 % interval holds {covered} of {len(both)}.",
                f"{model}, {runs:.0f} runs: the measured 90 % interval reaches 25 % on {sharp} of "
                f"{len(rows)} tasks, {min(widths, default=math.nan):.0%} at its narrowest and "
                f"{max(widths, default=math.nan):.0%} at its widest; {min(full):.2f} to {max(full):.2f} full "
                f"fine-tuning runs, {min(costs):.0f} to {max(costs):.0f} times the passes of the prediction.",
            ]
            tables.append(_table(f"{model}: predicted, and measured with {runs:.0f} runs", rows))
            figures[f"{model}: predicted against measured d90, {runs:.0f} runs"] = _figure(both)
            good = near[WAYS[0]] >= _WITHIN * len(rows) if runs == RUNS[0] else sharp == len(rows)
            verdicts.append("agrees" if good else "disagrees")
    ran = (
        "The search of `deltatheory dimension` with its defaults (120 steps of 32, the label-words head, at "
        "most 512 training and 1,000 test examples), once with six and once with twelve runs, beside the "
        f"prediction from the logits and one after {BURN_IN} steps of full fine-tuning. Ratios, coverage and "
        "cost are those of the logits. The claim is taken to hold where the prediction is within a factor of "
        "two of twelve runs on seven ninths of the tasks, and six runs reach 25 % on all."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


WAYS = ("from the logits", "as the search began", f"after {BURN_IN} steps")


def _rows(scope: Scope, model: str, runs: float, known: Known) -> list[dict[str, Any]]:
    rows = []
    for task in scope.tasks:
        result = known.get(search(scope, model, task, runs))
        plain, burnt = (known.get(prediction(scope, model, task, x)) for x in (0, BURN_IN))
        if not (result and plain):
            continue
        measured, predicted = result["d90"]["measured"], plain["d90"]["predicted"]
        value, ratio, width = measured["value"], None, None
        if predicted["value"] and value:
            ratio = predicted["value"] / value
        if value and measured["high"]:
            width = max(measured["high"] / value - 1, 1 - measured["low"] / value)
        rows.append(
            {
                "task": task.name,
                "frozen": result["frozen"],
                "baseline": result["baseline"]["measured"],
                "linearized": plain["baseline"]["predicted"],
                "level": result["level"]["measured"],
                "predicted": predicted,
                "measured": measured,
                "ratio": ratio,
                "covered": bool(ratio and predicted["low"] <= value <= predicted["high"]),
                "width": width,
                "full_runs": result["full_runs"],
                "passes_ratio": result["passes"]["measure"] / plain["passes"]["predict"],
                "error": plain["diagnostics"]["linearization_error"],
                "movement": plain["diagnostics"]["movement"],
                "ways": {
                    WAYS[0]: predicted["value"],
                    WAYS[1]: result["d90"]["predicted"]["value"],
                    WAYS[2]: burnt and burnt["d90"]["predicted"]["value"],
                },
            }
        )
    return rows


def _near(rows: list[dict], way: str) -> int:
    pairs = [(row["ways"][way], row["measured"]["value"]) for row in rows]
    return sum(bool(p and m) and 0.5 <= p / m <= 2 for p, m in pairs)


def _table(title: str, rows: list[dict]) -> Table:
    columns = ["task", "frozen", "baseline", "linearized", "level", "predicted d90 (90 %)"]
    columns += ["measured d90 (90 %)", "ratio", *WAYS[1:], "full runs", "passes, measure / predict"]
    columns += ["linearization error", "movement"]
    cells = [
        [
            row["task"],
            *(row[key] for key in ("frozen", "baseline", "linearized", "level")),
            *(_span(row[key]) for key in ("predicted", "measured")),
            row["ratio"],
            *(row["ways"][way] for way in WAYS[1:]),
            *(row[key] for key in ("full_runs", "passes_ratio", "error", "movement")),
        ]
        for row in rows
    ]
    return Table(title, columns, cells)


def _span(d90: dict) -> str:
    value, low, high = (number(d90[x], ".0f") for x in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _figure(rows: list[dict]) -> Any:
    with drawing(4, 4) as (figure, axes):
        for row in rows:
            predicted, measured = row["predicted"], row["measured"]
            axes.plot([measured["value"]] * 2, [predicted["low"], predicted["high"]], color=COLOURS["faint"])
            if measured["high"]:
                spread = [measured["low"], measured["high"]]
                axes.plot(spread, [predicted["value"]] * 2, color=COLOURS["faint"])
            axes.plot(measured["value"], predicted["value"], "o", color=COLOURS["measured"])
        line = [4, 10_000]
        for factor, dash in ((1, "-"), (2, ":"), (0.5, ":")):
            axes.plot(line, [factor * x for x in line], dash, color=COLOURS["grid"])
        axes.set(
            xscale="log", yscale="log", xlabel="measured d90", ylabel="predicted d90", xlim=line, ylim=line
        )
    return figure
