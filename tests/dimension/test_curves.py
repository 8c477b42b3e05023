from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.dimension.criterion import Criterion
from deltatheory.dimension.curves import LEARNING_RATES, cross_fit, level_crossing
from deltatheory.linearization import kernel_root, random_subspaces, tangent_rows, train_linearized
from deltatheory.problems import folds
from deltatheory.training import Training


def test_d90_is_where_a_monotone_fit_crosses_the_level():
    solved = np.repeat([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], 5, axis=1)  # .5 and .25 pool to .375
    crossing, level, baseline = level_crossing(solved, [1, 2, 4], Criterion(fraction=0.6), 0.5)
    assert (level, baseline) == (pytest.approx(0.6), 1.0)
    assert crossing == pytest.approx(np.log(2) * (1 + (0.6 - 0.375) / (1 - 0.375)))
    assert level_crossing(solved, [1, 2, 4], Criterion(baseline=1.0, fraction=0.3), 0.5)[0] == 0


def test_a_level_out_of_reach_crosses_at_the_last_dimension():
    crossing = level_crossing(np.full((2, 4), 0.5), [1, 8], Criterion(baseline=1.0), 0.0)
    assert crossing == (pytest.approx(np.log(8)), 0.9, 1.0)


def test_every_example_is_judged_by_the_run_that_it_was_held_out_of():
    features = tangent_rows(toy_problem("lora", task=toy_task(2, train=12), r=1), train=12, test=0)
    training, parts, grid = Training(steps=5, batch_size=4, seed=3), folds(12, 3), [1, 4]
    runs = cross_fit(features, parts, grid, training)
    assert list(runs) == list(LEARNING_RATES)
    for rate, found in runs.items():
        assert [(p.d, p.seed) for p in found.points] == [(d, 3 + k) for k in range(3) for d in grid]
        kept, held = parts[1]
        order = kept + held
        J = random_subspaces(kernel_root(features)[order], features.size, 4, 1, seed=3 + 1000 + 1)
        schedule = Training(steps=5, batch_size=4, seed=4, learning_rate=rate)
        start = features.start.subset(order)
        run = train_linearized(start, J, schedule, train=len(kept))
        right = start.solved(run.logits)[0][len(kept) :]
        assert torch.equal(torch.from_numpy(found.solved[1, held]).bool(), right)
