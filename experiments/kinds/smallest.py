"""Which delta is the smallest that suffices, within several budgets, from kernels alone."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.trial import Trial

EXAMPLE = Trial(
    "smallest",
    "",
    "",
    settings={
        "max_length": 12,
        "examples": 12,
        "candidates": [["bitfit", {}], ["lora:1", {}]],
        "budgets": [None, 10_000],
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return the candidates by size, and which of them is taken within each budget.

    What `advise` decides by, without learning rates and times.
    """
    import time

    import numpy as np

    from deltatheory.advice.fits import kernel_fits
    from deltatheory.advice.posterior import TrainedScores

    began = time.perf_counter()
    given, whole = trial.settings, place.setup(trial)
    setup = whole.replace(train_examples=min(given["examples"], len(whole.task.train)), test_examples=1)
    deltas = [setup.delta(name, **options) for name, options in given["candidates"]]
    fits, passes = kernel_fits(setup, deltas)
    solved = [fit.solved() for fit in fits]
    sizes = [delta.size for delta in deltas]
    scores = TrainedScores.predicted(
        solved,
        sizes,
        [name.partition(":")[0] for name, _ in given["candidates"]],
        np.random.default_rng(trial.seed),
    )
    order = sorted(range(len(deltas)), key=lambda i: (sizes[i], -scores.mean[i]))
    taken = []
    for budget in given["budgets"]:
        ladder = [i for i in order if budget is None or sizes[i] <= budget]
        one, worse = scores.smallest(ladder) if ladder else (None, None)
        taken.append(
            {"budget": budget, "candidate": one, "probability": None if worse is None else 1 - worse}
        )
    return {
        "sizes": sizes,
        "kernel_scores": [float(one.mean(1).max()) for one in solved],
        "mean": scores.mean.tolist(),
        "covariance": scores.covariance.tolist(),
        "taken": taken,
        "passes": passes,
        "seconds": time.perf_counter() - began,
    }
