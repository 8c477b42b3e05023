"""Training loss against passes: Gauss-Newton, Adam at five rates, L-BFGS, MSA and E-MSA on a prefix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import mean, median
from typing import Any

from deltatheory.report.page import COLOURS, literal
from experiments.page import Findings, Table, Verdict, drawing, number
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import data, joint
from experiments.trial import Known, Trial

CLAIM = (
    "Gauss-Newton fits a prefix to a training loss in half of the passes of mini-batch Adam at its best "
    "rate, and in a tenth of those of its sweep"
)
SOURCE = "deltatheory; MSA and E-MSA after Li et al. 2017"
TASKS = ("classification", "generation")


@dataclass(frozen=True)
class Case:
    """How prefixes are fitted on one kind of task.

    Attributes:
        rates: of Adam.
        levels: training losses to reach; of generation times the one at the start.
        budget: passes over the training set.
        delta: what is fitted.
        gate: of the prefix.
        data: settings.
        solvers: label ↦ solver and its settings, beside Adam.
    """

    rates: tuple[float, ...]
    levels: tuple[float, ...]
    budget: float
    delta: str
    gate: str
    data: dict[str, Any]
    solvers: dict[str, tuple[str, dict[str, Any]]]


_BATCH = {"batch_size": 8}
GAUSS = ("gauss-newton, full", "gauss-newton, incremental")
ADAM = {"full": "Adam, full batch", "mini": "Adam, mini-batch"}
CASES = {
    "classification": Case(
        rates=(0.01, 0.02, 0.05, 0.1, 0.2),
        levels=(0.3, 0.1, 0.03),
        budget=24.0,
        delta="prefix:4",
        gate="values",
        data={"train": 32, "test": 100, "max_length": 12},
        solvers={
            GAUSS[0]: ("gauss-newton", {}),
            GAUSS[1]: ("gauss-newton", _BATCH),
            "l-bfgs": ("l-bfgs", {}),
            **{f"msa, {size}": ("msa", {"step_size": size}) for size in (1.0, 0.3, 3.0, 10.0)},
            **{f"e-msa, {rho}": ("e-msa", {"rho": rho, "inner": 5}) for rho in (0.1, 0.01, 1.0)},
        },
    ),
    "generation": Case(
        rates=(0.05, 0.1, 0.2, 0.5, 1.0),
        levels=(0.85, 0.75, 0.65),
        budget=60.0,
        delta="prefix:6",
        gate="none",
        data={"train": 32, "test": 64, "max_length": 48, "max_new_tokens": 32},
        solvers={GAUSS[0]: ("sampled-gauss-newton", {}), "l-bfgs": ("l-bfgs", {})},
    ),
}


def _solvers(case: Case) -> dict[str, tuple[str, dict[str, Any]]]:
    adam = {
        f"adam, {form}, {rate}": ("adam", {"learning_rate": rate, **size})
        for form, size in (("full", {}), ("mini", _BATCH))
        for rate in case.rates
    }
    return {x: (name, {"budget": case.budget, **of}) for x, (name, of) in (case.solvers | adam).items()}


def fit(model: str, task: TaskInfo, label: str, seed: int) -> Trial:
    """Return the trial of one solver; the seed draws the examples too."""
    case = CASES[task.kind]
    solver, options = _solvers(case)[label]
    until = {"loss" if task.kind == "classification" else "share": case.levels[-1]}
    settings = {**data(model, task), **case.data, "own_draw": True, "solver": solver, "options": options}
    settings["until"] = until
    return Trial("solve", model, task.name, case.delta, {"gate": case.gate}, seed, settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield every solver on every task and seed."""
    for model, task, seed in product(scope.models, scope.tasks, scope.seeds):
        yield from (fit(model, task, label, seed) for label in _solvers(CASES[task.kind]))


def findings(scope: Scope, known: Known) -> Findings:
    """Passes to each training loss, those of Adam over ours, and where each run ended."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    case = CASES[scope.tasks[0].kind]
    relative = scope.tasks[0].kind == "generation"
    for model in scope.models:
        cells = _cells(scope, model, known)
        if not cells:
            found.append(f"{model}: no task is complete.")
            continue
        rows = [row for runs in cells.values() for row in _passes(case, runs, relative)]
        shown = [f"{level} x start" if relative else f"{level}" for level in case.levels]
        ratios = _ratios(case, rows)
        ours = GAUSS[1] if GAUSS[1] in case.solvers else GAUSS[0]
        best = {form: f"{name}, best of {len(case.rates)}" for form, name in ADAM.items()}
        medians = {form: [_median(ratios[ours, best[form], x]) for x in case.levels] for form in best}
        verdicts.append("agrees" if all((x or 0) >= 2 for x in medians["mini"]) else "disagrees")
        tasks = len({task for task, _ in cells})
        found.append(
            f"{model}, {tasks} tasks, {len(cells)} runs of each solver: passes of Adam at its best rate over "
            f"those of {ours}, median to a training loss of {', '.join(shown)}: "
            + "; ".join(f"{ADAM[form]} {', '.join(number(x, '.1f') for x in medians[form])}" for form in ADAM)
            + f"; {len(case.rates)} times these with the sweep charged."
        )
        ends = _ends(case, list(cells.values()))
        numbers[model] = {
            "ratios": {f"{a} / {b} / {level}": values for (a, b, level), values in ratios.items()},
            "ends": ends,
        }
        names = list(rows[0]["passes"])
        tables += [
            Table(
                f"{model}: median passes over the training set to a loss (how many of the runs reached it)",
                ["solver", *shown],
                [[name, *(_reached(rows, name, level) for level in case.levels)] for name in names],
            ),
            Table(
                f"{model}: passes of Adam over ours, median and range; not reached counts as the budget, "
                f"{case.budget:.0f}",
                ["ours", "Adam", *shown],
                [
                    [a, b, *(_range(ratios[a, b, level]) for level in case.levels)]
                    for a, b in dict.fromkeys((a, b) for a, b, _ in ratios)
                ],
            ),
            Table(
                f"{model}: where each run ended, the rate or step with the lowest training loss, means",
                ["solver", "training loss", "held-out loss", "held-out score", "seconds"],
                [[x, of["loss"], of["test_loss"], of["test"], of["seconds"]] for x, of in ends.items()],
            ),
        ]
        figures[f"{model}: first seed; grey: Adam, full batch (solid) and mini-batch (dotted)"] = _figure(
            cells
        )
    ran = (
        f"A {case.delta} on {case.data['train']} examples. Passes are forward-equivalents over the training "
        "set: one a forward pass, one a backward pass through the frozen network. Adam has five rates, the "
        "best chosen afterwards for each level; MSA four step sizes and E-MSA three ρ. The claim is taken to "
        "hold where the medians of mini-batch Adam over ours are at least 2 at every level."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables, figures)


def _cells(scope: Scope, model: str, known: Known) -> dict[tuple[str, int], dict[str, dict]]:
    """Return the runs by label of every task and seed on which all solvers have run."""
    cells = {}
    for seed, task in product(scope.seeds, scope.tasks):
        labels = _solvers(CASES[task.kind])
        runs = {x: run for x in labels if (run := known.get(fit(model, task, x, seed)))}
        if len(runs) == len(labels):
            cells[task.name, seed] = runs
    return cells


def _passes(case: Case, runs: dict[str, dict], relative: bool) -> list[dict[str, Any]]:
    """Return, for each level, the passes of each method; of Adam and of swept solvers those of the best."""
    start = runs[GAUSS[0]]["curve"][0][1] if relative else 1.0
    rows = []
    for level in case.levels:
        reach = {label: _first(run["curve"], level * start) for label, run in runs.items()}
        passes: dict[str, float | None] = {}
        for label in case.solvers:
            name = _name(label)
            passes[name] = _least(passes.get(name), reach[label])
        for form, name in ADAM.items():
            at = [reach[f"adam, {form}, {rate}"] for rate in case.rates]
            passes |= {
                f"{name}, best of {len(case.rates)}": _least(*at),
                f"{name}, rate {case.rates[0]}": at[0],
            }
        rows.append({"level": level, "passes": passes})
    return rows


def _name(label: str) -> str:
    """Return the name of a solver without the setting that is swept."""
    return label.partition(", ")[0] if "msa" in label else label


def _first(curve: list, level: float) -> float | None:
    """Return the passes at which a curve first falls to a level, between rows by log-linear interpolation."""
    for (before, high), (after, low) in zip([curve[0], *curve], curve, strict=False):
        if low <= level:
            share = 1.0 if high <= level else math.log(high / level) / math.log(high / max(low, 1e-12))
            return before + (after - before) * share
    return None


def _least(*values: float | None) -> float | None:
    return min((v for v in values if v is not None), default=None)


def _ratios(case: Case, rows: list[dict]) -> dict[tuple[str, str, float], list[float]]:
    """Return passes of Adam over ours, run by run; what one has not reached counts as the budget."""
    ours = [name for name in GAUSS if name in case.solvers]
    adam = [name for name in rows[0]["passes"] if name.startswith("Adam")]
    return {
        (a, b, level): [
            (row["passes"][b] or case.budget) / (row["passes"][a] or case.budget)
            for row in rows
            if row["level"] == level and (row["passes"][a], row["passes"][b]) != (None, None)
        ]
        for a, b, level in product(ours, adam, case.levels)
    }


def _ends(case: Case, cells: list[dict[str, dict]]) -> dict[str, dict[str, float | None]]:
    """Return the means at the end, of the best rate or step of each run."""
    ends = {}
    for name in [*dict.fromkeys(map(_name, case.solvers)), *(f"adam, {form}" for form in ADAM)]:
        last = [
            min((r for x, r in runs.items() if x.startswith(name)), key=lambda r: r["curve"][-1][1])
            for runs in cells
        ]
        ends[name] = {"loss": mean(run["curve"][-1][1] for run in last)}
        for key in ("test_loss", "test", "seconds"):
            values = [run[key] for run in last if run[key] is not None]
            ends[name][key] = mean(values) if values else None
    return ends


def _reached(rows: list[dict], name: str, level: float) -> str:
    values = [row["passes"][name] for row in rows if row["level"] == level]
    whole = median(math.inf if v is None else v for v in values)
    count = sum(v is not None for v in values)
    return f"{'–' if math.isinf(whole) else f'{whole:.1f}'} ({count}/{len(values)})"


def _range(values: list[float]) -> str | None:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else None


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _figure(cells: dict[tuple[str, int], dict[str, dict]]) -> Any:
    tasks = list(dict.fromkeys(task for task, _ in cells))
    rows = -(-len(tasks) // 2)
    with drawing(8, 3 * rows, rows, 2) as (figure, panels):
        for task, axes in zip(tasks, panels.flat, strict=False):
            for label, run in cells[min(cell for cell in cells if cell[0] == task)].items():
                look = {"color": COLOURS["grid"], "ls": "-" if "full" in label else ":"}
                if not label.startswith("adam"):
                    look = {"label": label, "lw": 1.5}
                axes.plot(*zip(*run["curve"], strict=True), **look)
            axes.set(
                title=literal(task),
                xlabel="passes over the training set",
                ylabel="training loss",
                yscale="log",
            )
            axes.legend(fontsize=6)
    return figure
