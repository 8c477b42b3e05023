from __future__ import annotations

import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.control.solvers.objective import Objective
from deltatheory.control.solvers.solve import SOLVERS, solve
from deltatheory.control.systems.examples import pendulum


def prefix():
    return toy_problem("prefix", dtype=torch.float64, task=toy_task(2), length=2, gate="values")


NETWORK = sorted(set(SOLVERS) - {"ilqr", "ddp", "sampled-gauss-newton"})


@pytest.mark.parametrize("name", NETWORK)
def test_one_face(name):
    problem, seen = prefix(), []
    solution = solve(problem, name, range(6), on_step=seen.append, budget=6.0)
    assert solution.value.shape == (problem.delta.size,)
    assert seen == solution.history
    assert solution.passes == seen[-1]["passes"] > 0
    for row in seen:
        assert {"iteration", "cost", "passes", "seconds"} <= row.keys()
    if name in ("minimum-energy", "constrained"):
        assert solution.cost == pytest.approx(0.5 * float(solution.value.square().sum()))
    else:
        assert solution.cost == pytest.approx(Objective(problem, range(6)).value(solution.value)[0])
        assert solution.cost < seen[0]["cost"]


@pytest.mark.parametrize("name", ["adam", "msa"])
def test_energy_counts_once(name):
    problem = prefix()
    solution = solve(problem, name, range(6), energy=0.3, budget=6.0)
    assert solution.cost == pytest.approx(Objective(problem, range(6), 0.3).value(solution.value)[0])


def test_small_systems():
    solution = solve(pendulum(), "ilqr", max_iterations=2)
    assert len(solution.history) == 2


def test_what_does_not_fit_is_refused():
    problem = prefix()
    for arguments, options, message in (
        ((problem, "newton"), {}, "gauss-newton, adam"),
        ((problem, "adam"), {"damping": 1.0}, "damping.*learning_rate"),
        ((problem, "ilqr"), {}, "AnalyticSystem"),
        ((pendulum(), "adam"), {}, "allowed for AnalyticSystem are ilqr, ddp"),
        ((problem, "constrained"), {"energy": 1.0}, "energy"),
        ((problem, "msa"), {"watch": dict}, "watch"),
    ):
        with pytest.raises(ValueError, match=message):
            solve(*arguments, **options)
