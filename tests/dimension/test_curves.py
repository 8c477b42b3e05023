from __future__ import annotations

import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.dimension.curves import LEARNING_RATES, cross_fit
from deltatheory.linearization import kernel_root, random_subspaces, tangent_rows, train_linearized
from deltatheory.problems import folds
from deltatheory.training import Training


def test_every_example_is_judged_by_the_run_that_it_was_held_out_of():
    features = tangent_rows(toy_problem("lora", task=toy_task(2, train=12), r=1), train=12, test=0)
    training, parts, grid = Training(steps=5, batch_size=4, seed=3), folds(12, 3), [1, 4]
    runs = cross_fit(features, parts, grid, training)
    assert list(runs) == list(LEARNING_RATES)
    for rate, found in runs.items():
        assert [(p.d, p.seed) for p in found.points] == [(d, 3 + k) for k in range(3) for d in grid]
        kept, held = parts[1]
        J = random_subspaces(kernel_root(features), features.size, 4, 1, seed=3 + 1000 + 1)
        schedule = Training(steps=5, batch_size=4, seed=4, learning_rate=rate)
        run = train_linearized(features.start, J, schedule, train=[kept])
        right = features.start.solved(run.logits)[0, 0, held]
        assert torch.equal(torch.from_numpy(found.solved[1, held]).bool(), right)
