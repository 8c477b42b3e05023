"""What cannot be solved ends with a status and a remedy, or is refused: never in silence."""

from __future__ import annotations

import dataclasses
import json

import jaxtyping
import numpy as np
import pytest
import torch
from tiny_problems import first, toy_problem, toy_task

from deltatheory.advice import advise
from deltatheory.control.design import design_controller
from deltatheory.control.diagnosis import diagnose
from deltatheory.control.feedback.disturbances import find_trigger
from deltatheory.control.feedback.policies import policies_of
from deltatheory.control.feedback.steering import SteeringProtocol, steer, tuned_delta
from deltatheory.control.reach.gramian import Gramian, estimate_lipschitz, reachability_ball
from deltatheory.control.reach.prefix_bound import prefix_reach_bound
from deltatheory.control.reach.prompts import PromptSearch
from deltatheory.control.solvers import SOLVERS, solve
from deltatheory.control.solvers.base import Status
from deltatheory.control.solvers.constrained import Constrained
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.solvers.msa import MSA
from deltatheory.control.systems.analytic import AnalyticSystem
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.dimension import Criterion, DimensionSettings
from deltatheory.linearization.selection import greedy_log_det
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.training.trainer import Training

IN_DELTA = ["gauss-newton", "adam", "sgd", "l-bfgs", "minimum-energy", "constrained"]


def prefix(**options):
    return toy_problem("prefix", length=2, gate="values", **{"task": first(toy_task(), 6), **options})


def broken():
    """A network with one NaN in its last block."""
    problem = prefix()
    with torch.no_grad():
        next(iter(problem.backbone.layers[1].parameters())).view(-1)[0] = float("nan")
    return problem


def motionless():
    """A head of zeros: δ moves no logit."""
    problem = prefix()
    problem.head = dataclasses.replace(problem.head, weight=torch.zeros_like(problem.head.weight))
    return problem


@pytest.mark.parametrize("name", IN_DELTA)
def test_nan_outputs_diverge_and_the_remedy_does_not_blame_the_step(name):
    solution = solve(broken(), name, budget=6.0)
    assert solution.status is Status.DIVERGED
    assert "look for NaN in the weights" in solution.remedy
    assert solution.history == []


def test_a_step_that_is_too_large_is_blamed():
    for name, settings in (("adam", {"learning_rate": 1e30}), ("msa", {"step_size": 1e30, "steps": 3})):
        solution = solve(prefix(), name, **settings)
        assert solution.status is Status.DIVERGED
        assert "step" in solution.remedy
        assert "weights" not in solution.remedy
        json.dumps(solution.history, allow_nan=False)


def test_the_layer_that_breaks_is_named():
    with pytest.raises(ValueError, match="comes out of 'block 1' is not finite"):
        LayeredSystem(broken())
    with pytest.raises(FloatingPointError, match="Jacobian is not finite"):
        estimate_lipschitz(broken(), examples=2, radius=1.0)
    with pytest.raises(ValueError, match="outputs of 6 of 6 examples are not finite"):
        diagnose(broken(), examples=6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in IN_DELTA[:4]), ("gauss-newton", {"batch_size": 2}), ("msa", {}), ("e-msa", {})],
)
def test_a_start_where_nothing_moves_has_not_converged(name, settings):
    stuck = solve(motionless(), name, budget=6.0, **settings)
    assert stuck.status is Status.ILL_CONDITIONED
    assert "derivative of the objective is 0" in stuck.remedy
    assert solve(prefix(), name, budget=6.0, **settings).status is not Status.ILL_CONDITIONED


def test_a_jacobian_of_zero_is_found_and_can_be_written():
    problem = motionless()
    finding = diagnose(problem, examples=6).findings[3]
    assert (finding.fault, finding.verdict, finding.number) == ("ill-conditioned Jacobian", "found", None)
    json.dumps(dataclasses.asdict(finding), allow_nan=False)
    with pytest.raises(ValueError, match="Jacobian at δ = 0 is 0"):
        estimate_lipschitz(problem, examples=2, radius=1.0)
    with pytest.raises(ValueError, match="learning_rate=inf"):
        diagnose(prefix(), examples=6, learning_rate=float("inf"))


def test_a_cone_program_without_an_answer_does_not_blame_bounds_that_are_not_there():
    pytest.importorskip("cvxpy")
    solution = solve(prefix(), "constrained", margin=1e300, budget=20.0)
    assert solution.status is Status.ILL_CONDITIONED
    assert "lower margin" in solution.remedy
    assert (
        Constrained(margin=0.1, budget=40.0).solve(prefix(task=first(toy_task(), 2))).status
        is not Status.ILL_CONDITIONED
    )


def small(step, running, terminal, **options) -> AnalyticSystem:
    return AnalyticSystem(step, running, terminal, [1.0], 20, 1, **options)


@pytest.mark.parametrize("solver", [ILQR(), DDP()], ids=["ilqr", "ddp"])
def test_a_cost_that_is_concave_in_bounded_controls_is_called_so(solver):
    def solved(effort):
        return solver.solve(
            small(
                lambda t, x, u: 0.9 * x + u,
                lambda t, x, u: (x * x).sum(-1) + effort * (u * u).sum(-1),
                lambda x: (x * x).sum(-1),
                control_limits=(-1, 1),
            )
        )

    concave = solved(-5.0)
    assert concave.status is Status.ILL_CONDITIONED
    assert "not convex in the controls" in concave.remedy
    assert np.abs(concave.value).max() == 1.0
    assert solved(5.0).status is Status.CONVERGED


def test_a_terminal_cost_without_curvature_is_expanded():
    system = small(
        lambda t, x, u: x + u, lambda t, x, u: 0.01 * (u * u).sum(-1), lambda x: 3.0 * abs(x).sum(-1)
    )
    found = system.expand(np.ones((21, 1, 1)), np.zeros((20, 1, 1)))
    assert found.terminal_gradient.tolist() == [[3.0]]
    assert found.terminal_hessian.tolist() == [[[0.0]]]
    assert ILQR().solve(system).status is Status.STALLED  # |x| has a kink where it ends


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"solver": "ilqr"},
            "solver='ilqr': takes AnalyticSystem; allowed for ClassificationProblem are gauss",
        ),
        ({"solver": "sampled-gauss-newton"}, "takes GenerationProblem"),
        ({"settings": {"positive": []}}, "positive: 'gauss-newton' has no such setting"),
        ({"settings": {"energy": 1.0}}, "energy: 'gauss-newton' has no such setting"),
        ({"solver": "constrained", "energy_weight": 1.0}, "energy_weight: 'constrained' has no such setting"),
    ],
)
def test_a_bad_solver_is_refused_before_any_work(bad, said, monkeypatch):
    def worked(*_):
        raise AssertionError("evaluated before the settings were checked")

    monkeypatch.setattr("deltatheory.problems.classification.ClassificationProblem.evaluate", worked)
    with pytest.raises(ValueError, match=said):
        design_controller(prefix(), **bad)


def test_steering_refuses_unknown_names_and_says_that_training_diverged(monkeypatch):
    problem = prefix()
    with pytest.raises(ValueError, match="training diverged"):
        tuned_delta(problem, training=Training(steps=5, learning_rate=1e30))
    monkeypatch.setattr(type(problem), "logits", lambda *_: pytest.fail("computed"))
    with pytest.raises(ValueError, match="controller='bang-bang'"):
        steer(problem, problem.delta.initial(), ["bang-bang"])


def worked(*_, **__):
    raise AssertionError("a pass was run before the arguments were checked")


def verbs(problem):
    """Of each verb, what it is called by and the arguments that are numbers above 0."""
    gramian = Gramian(torch.eye(2).double(), torch.zeros(2).double())
    one = torch.ones(1, 2)
    head = {
        "query": one[0],
        "keys": one,
        "values": one,
        "key_weight": one.T @ one,
        "value_weight": one.T @ one,
    }
    zero = problem.delta.initial()

    def steering(name, key):
        return lambda value: steer(problem, zero, [name], settings={name: {key: value}})

    def run(verb, name, **given):
        return lambda value: verb(**given | {name: value})

    yield from (
        (f"{kind.__name__}.{name}", run(kind, name))
        for kind, names in (
            (Criterion, ("fraction", "baseline")),
            (DimensionSettings, ("steps", "batch_size", "precision")),
            (SteeringProtocol, ("examples", "batch_size", "timed")),
            (PromptSearch, ("steps", "rate", "restarts", "rounds", "candidates", "pool", "chunk")),
            *((kind, ("budget", "steps", "tolerance", *kind.positive)) for kind in SOLVERS.values()),
        )
        for name in names
        if name in {field.name for field in dataclasses.fields(kind)}
    )
    for name in ("max_parameters", "max_minutes", "examples"):
        yield f"advise.{name}", run(advise, name, setup=problem)
    for name in ("learning_rate", "steps", "examples"):
        yield f"diagnose.{name}", run(diagnose, name, problem=problem)
    for name in ("examples", "radius", "draws"):
        yield f"estimate_lipschitz.{name}", run(estimate_lipschitz, name, problem=problem, **_NEAR)
    for name in ("train", "sketch"):
        yield f"tangent_rows.{name}", run(tangent_rows, name, problem=problem, train=2, test=0)
    for name in ("count", "epsilon"):
        yield f"greedy_log_det.{name}", run(greedy_log_det, name, gramians={"a": gramian.total}, count=1)
    for name in ("length", "norm"):
        yield f"prefix_reach_bound.{name}", run(prefix_reach_bound, name, **head, length=1, norm=1.0)
    yield "reachability_ball.lipschitz", run(reachability_ball, "lipschitz", gramian=gramian)
    yield "lqr.control_weight", steering("lqr", "control_weight")
    for name in ("learning_rate", "iterations", "blocks"):
        yield f"robust-prefix.{name}", steering("robust-prefix", name)


_NEAR = {"examples": 2, "radius": 1.0}
_NONE = (float("nan"), float("inf"), -float("inf"), -1.0, -1, 0, True)


def test_numbers_that_are_none_are_refused_before_the_work(monkeypatch):
    """Wherever they come in from Python: nan, infinities, numbers below 1, and True for a number."""
    jaxtyping.config.update("jaxtyping_disable", True)  # as with a user: no annotation is checked
    problem = prefix()
    monkeypatch.setattr(type(problem.backbone), "hidden_states", worked)
    count = 0
    for name, call in verbs(problem):
        argument = name.rpartition(".")[2]
        for value in _NONE:
            with pytest.raises(ValueError, match=argument):
                call(value)
            count += 1
    assert count > 400


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pid": {"proportional": float("nan")}}, "proportional=nan: must be finite"),
        ({"pid": {"proportionnal": 1.0}}, "'pid' has no such setting; they are setpoint, proportional"),
        ({"pid": {"setpoint": "classes"}}, "setpoint='classes': allowed are population"),
        ({"tuned": {"gain": 1.0}}, "'tuned' has no such setting; it has none"),
        ({"lqr": {}}, "settings: has 'lqr'; the controllers are tuned, pid"),
    ],
)
def test_settings_of_controllers_are_refused_before_the_work(settings, said, monkeypatch):
    problem = prefix()
    monkeypatch.setattr(type(problem.backbone), "hidden_states", worked)
    with pytest.raises(ValueError, match=said):
        steer(problem, problem.delta.initial(), ["pid"], ["noise"], settings=settings)


def test_robust_prefix_tuning_is_not_offered_to_other_deltas():
    assert "robust-prefix" in policies_of(prefix())
    assert "robust-prefix" not in policies_of(prefix(hidden=4))
    assert policies_of(toy_problem("lora", r=1)) == ["none", "tuned", "probe", "pid", "lqr"]


def test_a_trigger_is_not_searched_for_through_a_prompt():
    problem = toy_problem("prompt", length=2)
    with pytest.raises(ValueError, match=r"disturbance='trigger'.*'prompt'"):
        find_trigger(problem, problem.delta.initial())
    assert len(find_trigger(prefix(), prefix().delta.initial(), length=1, candidates=1)) == 1


def test_msa_on_a_small_system_may_start_at_its_optimum():
    system = small(lambda t, x, u: 0 * x + u, lambda t, x, u: (u * u).sum(-1), lambda x: (x * x).sum(-1))
    assert MSA().solve(system).status is Status.CONVERGED
