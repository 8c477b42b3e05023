"""How tight the theorems are on a pretrained model: both sides of each, on several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.page import Findings, Table, Verdict
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import data, joint
from experiments.trial import Known, Trial

CLAIM = "On a pretrained model no theorem is violated, and most say more than is known without them"
SOURCE = "deltatheory; the statements are those of `deltatheory check`"
ABOUT = (
    "Vacuous are the generalization bounds and the products of Lipschitz constants; tight within a factor of "
    "two are the local and the exact statements."
)
_TIGHT = 0.5


def trial(scope: Scope, model: str, task: TaskInfo) -> Trial:
    """Return the trial that measures all theorems on a task."""
    limits = {"train": None, "dev": None, "test": None, "max_length": 64}
    settings = {**data(model, task), **limits}
    return Trial("theorems", model, task.name, "lora:4", {}, scope.seeds[0], settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield one trial a task."""
    for model in scope.models:
        yield from (trial(scope, model, task) for task in scope.tasks)


def findings(scope: Scope, known: Known) -> Findings:
    """Tightness of every theorem on every task."""
    verdicts: list[Verdict] = []
    found, numbers, tables = [], {}, []
    for model in scope.models:
        results = {task.name: known.get(trial(scope, model, task)) for task in scope.tasks}
        of = {
            task: {row["id"]: row for row in result["theorems"]} for task, result in results.items() if result
        }
        if not of:
            found.append(f"{model}: no task is complete.")
            continue
        by_id: dict[str, list[dict[str, Any]]] = {}
        for rows in of.values():
            for id, row in rows.items():
                by_id.setdefault(id, []).append(row)
        said = {id: _verdict(rows) for id, rows in by_id.items()}
        named = {x: sorted(id for id, verdict in said.items() if verdict == x) for x in set(said.values())}
        violated, vacuous = named.get("violated", []), named.get("vacuous", [])
        tight = sorted(id for id, rows in by_id.items() if _at_least(rows, _TIGHT))
        verdicts.append("agrees" if not violated and 2 * len(vacuous) < len(by_id) else "disagrees")
        found.append(
            f"{model}, lora:4, {len(of)} tasks, {len(by_id)} theorems: violated {len(violated)}; vacuous "
            f"somewhere {len(vacuous)} ({', '.join(vacuous)}); within a factor of two everywhere "
            f"{len(tight)} ({', '.join(tight)})."
        )
        numbers[model] = {"theorems": len(by_id), "violated": violated, "vacuous": vacuous, "tight": tight}
        cells = [
            [
                f"{id} {rows[0]['name']}",
                rows[0]["status"],
                *(row["ratio"] for row in rows),
                said[id],
                rows[0]["hypotheses"],
            ]
            for id, rows in sorted(by_id.items(), key=lambda item: (said[item[0]] != "vacuous", item[0]))
        ]
        columns = ["theorem", "checked", *of, "verdict", "hypotheses here"]
        tables.append(Table(f"{model}: tightness, 1 where the bound is attained", columns, cells))
    ran = (
        "Both sides of every theorem that has a measurement on networks, at δ = 0 of LoRA with r = 4. "
        "Tightness is the smaller side over the larger, as claimed: above 1 it is violated. Vacuous: below "
        "1/100, or no better than what is known without the theorem. An identity has 1 where it holds up to "
        "rounding, in a mean over draws up to the standard errors that are given. T49c, T58b and T58c speak "
        "of no model: of any two tables of losses, of a loop at rest, which some blocks never reach, "
        "and of a first-order point of all stages, where T31 leaves only convexity in a stage to say. Nor "
        "does T49a: cross-entropy attains no least value, squares have no Lipschitz constant; T49b stands "
        "for it."
    )
    return Findings(joint(verdicts), ran, found, numbers, tables)


def _verdict(rows: list[dict]) -> str:
    if any(row["holds"] is False for row in rows):
        return "violated"
    if any(row["holds"] is None for row in rows):
        return "not measured"
    return "vacuous" if any(row["vacuous"] for row in rows) else "holds"


def _at_least(rows: list[dict], ratio: float) -> bool:
    return all(row["ratio"] is not None and row["ratio"] >= ratio for row in rows)
