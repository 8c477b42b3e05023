from __future__ import annotations

import json

import pytest
import torch
from drifts import Drift
from tiny_problems import toy_problem

from deltatheory.backbones.batch import pool
from deltatheory.control.feedback.disturbances import ActivationNoise, Disturbance, Typos, disturbed_batches
from deltatheory.control.feedback.hooks import watching
from deltatheory.control.feedback.policies import GRIDS, POLICIES, make_policy
from deltatheory.control.feedback.setpoints import ClassSetpoint, nominal_states
from deltatheory.control.feedback.steering import (
    SteeringProtocol,
    SteeringResult,
    SteeringRow,
    latencies,
    score,
    steer,
    tune_policy,
    tuned_delta,
)
from deltatheory.deltas.files import load_delta, save_delta
from deltatheory.training.trainer import Training


@pytest.fixture(scope="module")
def tuned():
    problem = toy_problem("prefix", length=2, gate="values", dtype=torch.float64, head="prototypes")
    generator = torch.Generator().manual_seed(1)
    return problem, 0.05 * torch.randn(problem.delta.size, generator=generator).double()


def test_population_control_takes_a_drift_back(tuned):
    problem, delta = tuned
    result = steer(
        problem,
        delta,
        ["tuned", "pid", "lqr"],
        [Drift()],
        settings={
            "pid": {"setpoint": "population", "proportional": 1.0},
            "lqr": {"setpoint": "population", "control_weight": 1e-4},
        },
        protocol=SteeringProtocol(batch_size=12, timed=1),
    )
    assert result.accuracy("tuned") - result.accuracy("tuned", "drift") > 0.2
    assert result.recovered("pid", "drift") >= 0.9
    assert result.recovered("tuned") == 0
    # LQR holds the direction of the classes alone and spends less.
    energy = {r.controller: r.energy for r in result.rows if r.disturbance == "drift"}
    assert 0 < energy["lqr"] < energy["pid"]


def test_all_controllers_and_the_page_of_numbers(tuned, tmp_path):
    problem, delta = tuned
    seen = []
    protocol = SteeringProtocol(timed=1)
    result = steer(problem, delta, disturbances=["noise", Typos()], protocol=protocol, on_row=seen.append)
    assert seen == result.rows
    assert [(r.controller, r.disturbance) for r in result.rows] == [
        (c, d) for d in ("clean", "noise", "typos") for c in ("tuned", *(x for x in POLICIES if x != "tuned"))
    ]
    assert all(0 <= r.accuracy <= 1 and r.texts == 12 for r in result.rows)
    assert result.latency["tuned"]["added"] == 0
    assert result.latency["robust-prefix"]["added"] > 0.5
    frozen = [r for r in result.rows if r.controller == "none"]
    assert all(r.energy == 0 for r in frozen)
    assert result.passes > 0
    result.save(tmp_path)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["disturbances"]["typos"]["rate"] == 0.5
    assert stored["recovered"]["pid"]["all"] == result.recovered("pid")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 3 + len(POLICIES)
    assert lines[-1].startswith("| chance | 0.500 | 0.500 | 0.500 |")
    assert result.plot().axes[0].get_xlabel().startswith("accuracy")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    kept, value = load_delta(tmp_path / "delta.safetensors", problem.backbone)
    assert kept.specification() == problem.delta.specification()
    assert torch.equal(value, delta)


def test_the_probe_alone_is_the_setpoints_own_classifier_and_moves_nothing(tuned):
    """Its classes by hand: linear discriminants of the states behind every block, summed."""
    problem, delta = tuned
    nominal = nominal_states(problem, delta)
    setpoint = ClassSetpoint(nominal, recentred=True)
    batch, labels = problem.batch(problem.test, range(12))
    odds, energy = make_policy("probe", problem, delta, nominal).run(batch)
    seen = []
    with watching(
        problem.backbone.model, problem.backbone.layers, lambda _, x, mask: seen.append(pool(x, mask, "mean"))
    ):
        problem.logits(delta, batch)
    states, (weight, offset) = torch.stack(seen), setpoint._discriminants
    centred = states - states.mean(1, keepdim=True) + nominal.mean[:, None]
    torch.testing.assert_close(odds, (centred @ weight + offset).sum(0))
    assert energy == 0.0
    assert float((odds.argmax(1) == labels).double().mean()) > 0.6
    with pytest.raises(ValueError, match="setpoint='population': a probe tells classes"):
        make_policy("probe", problem, delta, nominal, setpoint="population")


def test_shares_are_of_what_the_tuned_model_lost():
    values = {
        ("tuned", "clean"): 0.9,
        ("pid", "clean"): 0.8,
        ("tuned", "noise"): 0.5,
        ("pid", "noise"): 0.7,
        ("tuned", "typos"): 0.7,
        ("pid", "typos"): 0.8,
        ("tuned", "none lost"): 0.95,
        ("pid", "none lost"): 0.95,
        ("tuned", "rounded"): 0.9 - 2e-16,
        ("pid", "rounded"): 0.8,
    }
    rows = [SteeringRow(c, d, a, 1.0, 10) for (c, d), a in values.items()]
    names = {d: {} for d in ("noise", "typos", "none lost", "rounded")}
    delta = toy_problem("lora", r=1).delta
    chosen = {"tuned": {}, "pid": {}}
    result = SteeringResult(rows, {}, chosen, names, 0.5, 0.0, 0.0, {}, delta, delta.initial())
    assert result.recovered("pid", "noise") == pytest.approx(0.5)
    assert result.recovered("pid", "typos") == pytest.approx(0.5)
    assert result.recovered("pid", "none lost") is result.recovered("pid", "rounded") is None
    assert result.recovered("pid") == pytest.approx(0.2 / 0.55)
    with pytest.raises(ValueError, match="disturbance='rain'"):
        result.accuracy("pid", "rain")


def test_scores_agree_with_the_problem_and_do_not_depend_on_the_batches(tuned):
    problem, delta = tuned
    nominal = nominal_states(problem, delta)
    policy = make_policy("tuned", problem, delta, nominal)
    for size in (3, 12):
        accuracy, energy = score(
            policy, Disturbance(), disturbed_batches(problem, problem.test, Disturbance(), size)
        )
        assert accuracy == pytest.approx(problem.evaluate(delta, problem.test)["accuracy"])
        assert energy == pytest.approx(float(delta.square().sum()))
    fixed = make_policy("pid", problem, delta, nominal, setpoint="subspace")
    noise = ActivationNoise(scale=0.0)
    batches = [disturbed_batches(problem, problem.test, noise, size) for size in (3, 12)]
    assert score(fixed, noise, batches[0])[0] == score(fixed, noise, batches[1])[0]


def test_logits_that_are_not_finite_are_reported(tuned):
    problem, delta = tuned
    nominal = nominal_states(problem, delta)
    wild = make_policy("pid", problem, delta, nominal, proportional=1e200, integral=1e200)
    batches = disturbed_batches(problem, problem.test, Disturbance(), 4)
    with pytest.raises(FloatingPointError, match="lower its gains"):
        score(wild, Disturbance(), batches)


def test_tuning_takes_the_setting_with_the_best_mean_accuracy(tuned):
    problem, delta = tuned
    nominal = nominal_states(problem, delta)
    drift = Drift()
    disturbed = {"drift": (drift, disturbed_batches(problem, problem.dev, drift, 4))}
    grid = [{"setpoint": "population", "proportional": p} for p in (0.0, 1.0)]
    found = tune_policy("pid", problem, delta, nominal, disturbed, grid)
    scores = [one["accuracies"]["drift"] for one in found.tried]
    assert scores[1] > scores[0]
    assert found.best == grid[1]
    with pytest.raises(ValueError, match="controller='none' has no grid"):
        tune_policy("none", problem, delta, nominal, disturbed)
    assert len({len(grid) for grid in GRIDS.values()}) == 1  # as many settings for each


def test_latencies_are_relative_to_the_tuned_model(tuned):
    problem, delta = tuned
    nominal = nominal_states(problem, delta)
    names = ("tuned", "robust-prefix")
    policies = {name: make_policy(name, problem, delta, nominal) for name in names}
    batches = disturbed_batches(problem, problem.test, Disturbance(), 4)
    times = latencies(policies, batches, repeats=2)
    assert times["robust-prefix"]["seconds"] > times["tuned"]["seconds"] > 0
    assert times["tuned"]["added"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"controllers": ["bang-bang"]}, "controller='bang-bang': allowed are none"),
        ({"disturbances": []}, "disturbances: there are none"),
        ({"disturbances": ["rain"]}, "disturbance='rain'"),
    ],
)
def test_bad_input_is_named(tuned, arguments, message):
    with pytest.raises(ValueError, match=message):
        steer(*tuned, **arguments)


def test_a_tuned_delta_is_trained_or_read_back(tmp_path):
    problem = toy_problem("prefix", length=2)
    training = Training(steps=3, learning_rate=1e-2)
    value = tuned_delta(problem, training=training)
    assert value.norm() > 0
    save_delta(tmp_path / "delta.safetensors", problem.delta, value)
    assert torch.equal(tuned_delta(problem, tmp_path / "delta.safetensors"), value)
    other = toy_problem("prefix", length=2, seed=5)
    with pytest.raises(ValueError, match=r"tuned=.*asked for"):
        tuned_delta(other, tmp_path / "delta.safetensors")
