"""Laws of every solver in the registry, on a problem of each kind that it says it takes."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch
from formulas import tanh_network
from tiny_models import tiny
from tiny_problems import copy_task, first, toy_problem, toy_task

from deltatheory.control.solvers import SOLVERS, Solution, Status, make_solver, solve
from deltatheory.control.solvers.objective import Objective
from deltatheory.control.systems import ConstrainedSystem, LayeredSystem, pendulum
from deltatheory.deltas import make_delta
from deltatheory.problems import GenerationProblem


def prefix():
    task = first(toy_task(2), 6)
    return toy_problem("prefix", dtype=torch.float64, task=task, length=2, gate="values")


def generation():
    pytest.importorskip("rouge_score")
    backbone = tiny("gpt2", dtype=torch.float64)
    delta = make_delta("prefix", backbone, length=2, gate="values")
    return GenerationProblem(backbone, copy_task(6, 2), delta, max_new_tokens=4, check=False)


KINDS = {
    "classification": prefix,
    "generation": generation,
    "layers": lambda: LayeredSystem(prefix()),
    "formula": tanh_network,
    "analytic": lambda: pendulum([[0.1, 0.0], [0.0, 0.2]], horizon=5),
    "constrained": lambda: ConstrainedSystem(pendulum(horizon=5), goal=lambda x: x - np.array([0.4, 1.0])),
}
CHEAP = {"e-msa": {"inner": 2}}  # to the last digit, its Hamiltonians took two thirds of the time
NETWORKS = ("classification", "generation", "layers")


@cache
def made(kind: str):
    return KINDS[kind](0) if kind == "formula" else KINDS[kind]()


def pairs(taken: bool) -> list[tuple[str, str]]:
    problems = {kind: made(kind) for kind in KINDS}
    return [
        (n, k) for n, s in SOLVERS.items() for k, p in problems.items() if isinstance(p, s.takes) == taken
    ]


@cache
def run(name: str, kind: str, **settings) -> tuple[Solution, list[dict]]:
    rows: list[dict] = []
    return solve(made(kind), name, on_step=rows.append, **CHEAP.get(name, {}) | settings), rows


def size(value) -> list[tuple[int, ...]]:
    return [tuple(u.shape) for u in value] if isinstance(value, list) else [tuple(value.shape)]


def cost_of(name: str, kind: str, value) -> float:
    """The objective at a value, by other means than the solver's."""
    problem = made(kind)
    if kind in ("classification", "generation"):
        if name in ("minimum-energy", "constrained"):
            return 0.5 * float(value.square().sum())
        return Objective(problem).value(value)[0]
    system = problem.system if kind == "constrained" else problem
    return float(system.rollout(system.split(value)).cost)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_registry_knows_each_by_its_own_name_and_says_what_it_takes(name):
    assert SOLVERS[name].name == name
    assert any(pair[0] == name for pair in pairs(taken=True))
    SOLVERS[name]()  # all settings have defaults


@pytest.mark.parametrize(("name", "kind"), pairs(taken=True))
def test_it_solves_what_it_takes(name, kind):
    solution, rows = run(name, kind, steps=3)
    assert isinstance(solution, Solution)
    assert bool(solution.remedy) == (solution.status is not Status.CONVERGED)
    assert size(solution.value) == size(
        made(kind).delta.initial() if kind in NETWORKS[:2] else made(kind).zero()
    )
    assert rows == solution.history
    assert [row["iteration"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert {"cost", "passes", "seconds"} <= row.keys()
    assert np.sum(solution.cost) == pytest.approx(cost_of(name, kind, solution.value), rel=1e-9)
    if name not in ("minimum-energy", "constrained"):
        assert np.mean(solution.cost) < rows[0]["cost"]
    json.dumps(solution.to_dict(), allow_nan=False)
    spent = [row["passes"] for row in rows]
    assert spent == sorted(spent)
    if kind in NETWORKS:
        assert solution.passes == spent[-1] > 0
    else:
        assert solution.passes == 0


@pytest.mark.parametrize(("name", "kind"), pairs(taken=True))
def test_it_takes_no_more_steps_than_it_may(name, kind):
    solution, rows = run(name, kind, steps=1)
    assert len(rows) == 2
    assert solution.status is Status.BUDGET


@pytest.mark.parametrize(("name", "kind"), [pair for pair in pairs(taken=True) if pair[1] in NETWORKS])
def test_it_stops_where_the_budget_of_passes_is_spent(name, kind):
    solution, rows = run(name, kind, budget=5.0, steps=50)
    count = len(made("classification").train)
    assert solution.status is Status.BUDGET
    assert all(row["passes"] < 5 * count for row in rows[:-1])
    assert solution.passes >= 5 * count


@pytest.mark.parametrize(("name", "kind"), pairs(taken=True))
def test_it_starts_where_it_is_told_to(name, kind):
    value = run(name, kind, steps=3)[0].value
    rows: list[dict] = []
    solve(made(kind), name, start=value, on_step=rows.append, steps=1, **CHEAP.get(name, {}))
    many = len(value) if kind == "analytic" and SOLVERS[name].takes[0] is type(made(kind)) else 1
    assert many * rows[0]["cost"] == pytest.approx(cost_of(name, kind, value), rel=1e-9)
    assert rows[0]["cost"] != pytest.approx(run(name, kind, steps=1)[1][0]["cost"], rel=1e-6)


@pytest.mark.parametrize(("name", "kind"), pairs(taken=True))
@pytest.mark.parametrize("bad", [np.zeros(3), "nan"])
def test_a_start_that_is_none_is_named(name, kind, bad):
    zero = made(kind).delta.initial() if kind in NETWORKS[:2] else made(kind).zero()
    start = zero + float("nan") if isinstance(bad, str) else bad
    with pytest.raises(ValueError, match="start"):
        solve(made(kind), name, start=start)


@pytest.mark.parametrize(("name", "kind"), pairs(taken=True))
def test_what_watches_adds_columns_that_cost_nothing(name, kind):
    problem = made(kind)

    def watch(value):
        if kind in NETWORKS:
            (problem.problem if kind == "layers" else problem).passes += 1000.0
        return {"shape": size(value)}

    watched = solve(problem, name, steps=1, watch=watch, **CHEAP.get(name, {}))
    assert [row["shape"] for row in watched.history] == 2 * [size(watched.value)]
    assert watched.passes == pytest.approx(run(name, kind, steps=1)[0].passes)


@pytest.mark.parametrize(("name", "kind"), pairs(taken=False))
def test_what_it_does_not_take_is_refused_by_name(name, kind):
    problem = made(kind)
    fitting = [other for other, taken in pairs(taken=True) if taken == kind]
    taken = " and ".join(one.__name__ for one in SOLVERS[name].takes)
    with pytest.raises(
        ValueError, match=f"solver='{name}': takes {taken}; allowed for {type(problem).__name__}"
    ) as e:
        solve(problem, name)
    assert str(e.value).endswith(f"are {', '.join(fitting)}.")
    with pytest.raises(ValueError, match=f"'{name}' takes {taken}, and this is a {type(problem).__name__}"):
        SOLVERS[name]().solve(problem)


@pytest.mark.parametrize("name", SOLVERS)
def test_settings_that_it_does_not_have_are_named_with_those_that_it_has(name):
    kind = next(kind for other, kind in pairs(taken=True) if other == name)
    with pytest.raises(ValueError, match=r"speed: .* has no such setting") as error:
        make_solver(name, made(kind), {"speed": 3})
    assert all(field.name in str(error.value) for field in fields(SOLVERS[name]))


def test_an_unknown_solver_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="solver='newton': allowed are gauss-newton, sampled"):
        solve(prefix(), "newton")


@pytest.mark.parametrize(
    "name", [n for n, s in SOLVERS.items() if "energy_weight" in {f.name for f in fields(s)}]
)
def test_the_energy_weight_counts_once_and_not_beside_a_cost_of_its_own(name):
    kind = next(kind for other, kind in pairs(taken=True) if other == name)
    solution = solve(made(kind), name, energy_weight=0.3, steps=1, **CHEAP.get(name, {}))
    assert solution.cost == pytest.approx(Objective(made(kind), 0.3).value(solution.value)[0])
    assert solution.cost > Objective(made(kind)).value(solution.value)[0]
    if (name, "formula") in pairs(taken=True):
        with pytest.raises(ValueError, match=r"energy_weight=0.3: a system has its own"):
            solve(made("formula"), name, energy_weight=0.3)
