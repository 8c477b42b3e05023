"""Laws of all kinds of trials; a new one is found by its registration."""

import json
from dataclasses import replace

import pytest
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.control import diagnosis
from experiments.environment import Environment
from experiments.kinds import KINDS, broken_run

OURS = sorted(name for name, kind in KINDS.items() if hasattr(kind, "EXAMPLE"))


class Toy(Environment):
    """A network of either kind, and tasks that differ by their first letter."""

    def backbone(self, name):
        return BACKBONES[name]

    def task(self, trial):
        return TASKS[trial.task[0]]


BACKBONES = {"encoder": tiny("bert"), "causal": tiny("gpt2")}
TASKS = {letter: toy_task(2, train=16 + 2 * i, test=60) for i, letter in enumerate("tabcd")}


@pytest.mark.parametrize("name", OURS)
def test_its_example_comes_to_plain_finite_numbers(name):
    example = KINDS[name].EXAMPLE
    assert (example.kind, example.model, example.task) == (name, "", "")
    model = getattr(KINDS[name], "BACKBONE", "encoder")
    result = KINDS[name].run(replace(example, model=model, task="toy"), Toy())
    assert result
    assert json.loads(json.dumps(result, allow_nan=False)) == result  # no tuple, no NaN, no key but text


@pytest.mark.parametrize("fault", [name for name in broken_run.FAULTS if not name.startswith("rate")])
def test_a_fault_made_on_purpose_is_there(fault):
    """Rates are found by the one that is predicted, which has tests of its own."""
    example = broken_run.EXAMPLE
    settings = {**example.settings, "fault": fault, "steps": 2}
    trial = replace(example, model="encoder", task="toy", settings=settings)
    result = broken_run.run(trial, Toy())
    assert broken_run.FAULTS[fault][0] in result["found"]
    assert ("remedy" in result["losses"]) == (result["named"] in diagnosis.REMEDIES)


def test_labels_by_lot_may_leave_classes_out():
    TASKS["m"] = toy_task(12, train=12, test=12)
    settings = {**broken_run.EXAMPLE.settings, "fault": "labels by lot, texts twice", "steps": 2}
    trial = replace(broken_run.EXAMPLE, model="causal", task="many", settings=settings)
    assert broken_run.run(trial, Toy())["losses"]["as it is"] is not None
