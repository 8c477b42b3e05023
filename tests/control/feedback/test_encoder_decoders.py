"""Feedback on classification by an encoder-decoder: the states of both stacks are read and moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drifts import Drift
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from transformers import AutoModelForSequenceClassification

from deltatheory.backbones import wrap_model
from deltatheory.backbones.batch import pool
from deltatheory.control.feedback import nominal_states, steer
from deltatheory.control.feedback.controllers import PID, shift_adjoints, steered
from deltatheory.control.feedback.hooks import watching
from deltatheory.control.feedback.setpoints import NominalStates, PopulationSetpoint
from deltatheory.control.feedback.steering import SteeringProtocol
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem, Setup

E = 2  # blocks of the encoder


def tuned(family):
    options = {"decoder_layers": 2} if family == "bart" else {}
    backbone = tiny(family, dtype=torch.float64, **options)
    delta = make_delta("prefix", backbone, length=2, gate="values")
    problem = ClassificationProblem(backbone, toy_task(train=16), delta, "verbalizer", check=False)
    return problem, 0.3 * torch.randn(delta.size, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_states_are_those_of_each_blocks_own_stack(family):
    """States and shifts, against the blocks one by one; the norm behind T5's encoder is no state's."""
    problem, delta = tuned(family)
    backbone, edit = problem.backbone, problem.delta.edit(delta)
    batch, _ = problem.batch(problem.train, range(4))
    adjoints = shift_adjoints(problem, delta, batch, "last")
    ends = batch.mask.long().sum(1) - 1
    last = torch.full_like(ends, batch.width - 1)  # of what the decoder reads, its start
    places = [ends] * E + [last] * 2
    rows, generator = torch.arange(4), torch.Generator().manual_seed(3)
    v, w = (torch.randn(16, generator=generator).double() for _ in range(2))
    x, states = backbone.embed(batch, edit), []
    for t, place in enumerate(places):
        values = []
        for step in (-1e-5, 1e-5):
            moved = x.clone()
            moved[rows, place] += step * v
            values.append(backbone.behind(t, moved, batch, edit)[rows, place].mean(0))
        slope = 0.0 if t == E else float(w @ (values[1] - values[0])) / 2e-5
        assert float(adjoints[t](w) @ v) == pytest.approx(slope, rel=1e-5, abs=1e-7)
        states.append(backbone.behind(t, x, batch, edit)[rows, place])
        x = backbone.step(t, x, batch, edit)
    torch.testing.assert_close(backbone.readout(x, batch), backbone.hidden_states(batch, edit))
    seen: list[torch.Tensor] = []
    with watching(backbone.model, backbone.layers, lambda _, x, mask: seen.append(pool(x, mask, "last"))):
        problem.logits(delta, batch)
    torch.testing.assert_close(torch.stack(seen), torch.stack(states))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_controller_runs_and_a_drift_of_both_stacks_is_taken_back(family):
    problem, delta = tuned(family)
    batch, _ = problem.batch(problem.train, range(16))
    for seed in range(30):  # until the model says both words often
        delta = 3 * torch.randn(len(delta), generator=torch.Generator().manual_seed(seed)).double()
        with torch.no_grad():
            said = problem.logits(delta, batch).argmax(1).tolist()
        if 5 <= sum(said) <= 11:
            break
    problem = with_labels(problem, said)
    gains = {
        "pid": {"setpoint": "population", "proportional": 1.0},
        "robust-prefix": {"iterations": 1, "blocks": 3},
    }
    protocol = SteeringProtocol(batch_size=16, timed=1)
    result = steer(
        problem, delta, None, [Drift(size=3.0)], split=problem.train, settings=gains, protocol=protocol
    )
    assert {row.controller for row in result.rows} == {
        "none",
        "tuned",
        "probe",
        "robust-prefix",
        "pid",
        "lqr",
    }
    assert result.accuracy("tuned") == 1.0
    assert result.accuracy("tuned", "drift") < 0.8
    assert result.recovered("pid", "drift") >= 0.9
    assert all(row.energy > 0 for row in result.rows if row.controller in ("pid", "lqr", "robust-prefix"))


def with_labels(problem, labels):
    """The problem with training texts of other labels."""
    task = replace(problem.task, train=replace(problem.task.train, labels=tuple(labels)))
    return ClassificationProblem(problem.backbone, task, problem.delta, "verbalizer", check=False)


def test_what_makes_no_sense_is_refused():
    problem, _ = tuned("t5")
    nominal = NominalStates(torch.zeros(4, 1, 16), torch.zeros(1).long(), "last")
    with pytest.raises(
        ValueError, match="pooling='each': tokens of an encoder-decoder do not pass all blocks"
    ):
        steered(problem.backbone.model, [], PID(PopulationSetpoint(nominal)), "each").__enter__()
    backbone = wrap_model(
        tiny_model("t5", AutoModelForSequenceClassification), tiny_tokenizer("t5"), name="x"
    )
    problem = Setup(backbone, toy_task(train=8), head="own").problem("lora:1", check=False)
    for run in (nominal_states, steer):
        with pytest.raises(ValueError, match="'x' reads a text twice, and a disturbance changes one reading"):
            run(problem, problem.delta.initial())
    assert problem.passes == 0
