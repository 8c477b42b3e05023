"""The kernel after a short run: on examples that it does not have, and judged as was written down."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.problems import Setup
from deltatheory.tasks import Examples
from deltatheory.training import Training
from experiments.kinds.linearized_runs import _burnt_in
from experiments.scope import Scope, TaskInfo
from experiments.studies import relinearization, sharpening
from experiments.studies.replay import MeasuredCurve
from experiments.trial import Known


def test_the_short_run_sees_no_example_of_the_kernel():
    task, backbone = toy_task(2, train=16), tiny("bert")
    texts, labels = list(task.train.texts), list(task.train.labels)
    texts[:8], labels[:8] = [text[::-1] for text in texts[:8]], [1 - label for label in labels[:8]]
    other = replace(task, train=Examples(tuple(texts), labels=tuple(labels)))
    short, moved = Training(steps=2, batch_size=4, learning_rate=0.1), []
    for one, first in ((task, 8), (other, 8), (other, 4)):
        setup = Setup(backbone, one)
        problem = setup.classification("full", {"scope": "blocks"}, check=False)
        moved.append(_burnt_in(setup, problem, "subspace:4", short, first=first))
        assert problem.passes == 2 * 4 * 3
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])
    assert len(moved[0]) == problem.delta.size


@pytest.mark.parametrize(("error", "verdict"), [(0.9, "agrees"), (0.1, "undecided")])
def test_it_is_judged_where_linearization_errs(monkeypatch, error, verdict):
    """Measured curves pass a half at d = 100; the kernel at δ = 0 has it at 1,000."""
    names = relinearization.CALIBRATION[:3]
    scope = Scope(("minilm",), tuple(TaskInfo(name, "c", "family 0") for name in names))
    grid = [2**i for i in range(13)]

    def share(d, half):
        return 1 / (1 + math.exp(-math.log(d / half)))

    runs = [(d, share(d, 100)) for d in grid[2:]]
    monkeypatch.setattr(
        relinearization.sharpening,
        "curve",
        lambda scope, model, task, known: MeasuredCurve(task.name, "calibration", None, 0.02, runs, 0.75),
    )
    monkeypatch.setattr(relinearization, "_error", lambda *_: error)
    rows = []
    for trial in relinearization.trials(scope, Known([])):
        half = 100 if trial.settings["burn_in"] else 1000
        scores = [[0.5 + 0.4 * share(d, half)] for d in grid]
        result = {"d": grid, "frozen": {"accuracy": 0.5}, "rates": {"1": {"accuracy": scores}}}
        rows.append({"hash": trial.hash, "result": result})
    found = relinearization.findings(scope, Known(rows))
    assert found.verdict == verdict
    of_all = found.numbers["minilm, all"]
    near = [of_all[name]["near"] for name in relinearization.ARMS]
    assert (of_all["tasks"], near) == (3, [0, 3])
    assert np.isclose(of_all["at δ = 0"]["likelier"], 0)


@pytest.mark.parametrize("tried", [[0.6], [0.5, 0.6], [0.6, 0.5], [0.4, 0.6, 0.5]])
def test_of_the_first_dimension_the_run_at_the_best_rate_counts(tried):
    """A search tries one rate there, or more; its other runs have seeds of their own."""
    points = [(40, score, 0) for score in tried] + [(80, 0.7, 1), (60, 0.3, 2)]
    curve = [{"method": "measure", "d": d, "test_metric": score, "seed": seed} for d, score, seed in points]
    found = sharpening._runs({"curve": [{"method": "baseline", "d": 1, "seed": 0}, *curve]})
    assert found == [(40, 0.6), (80, 0.7), (60, 0.3)]
    assert sharpening._runs({"curve": []}) == []
