"""Find a learning rate by a range test: one run whose rate rises from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from experiments.environment import Environment
from experiments.kinds.train import BUDGET
from experiments.trial import Trial

if TYPE_CHECKING:
    from deltatheory.training.trainer import Training

EXAMPLE = Trial("range_test", "", "", "lora:2", settings={**BUDGET, "least": 1e-5, "most": 1.0})
_SMOOTH = 0.8  # weight of the past in the averaged loss
_BACK = 10.0  # how far below the rate of the least loss the chosen one lies


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return a tenth of the rate at which the averaged loss was least (Smith 2017; the rule of fastai)."""
    from deltatheory.training.trainer import train

    rising = _rising(trial)
    outcome = train(place.problem(trial), rising)
    average, averages = 0.0, []
    for step, loss in enumerate(outcome.losses):
        average = _SMOOTH * average + (1 - _SMOOTH) * loss
        averages.append(average / (1 - _SMOOTH ** (step + 1)) if math.isfinite(average) else math.inf)
    lowest = min(range(len(averages)), key=averages.__getitem__)
    return {"rate": rising.rate(lowest) / _BACK, "passes": outcome.passes, "seconds": outcome.seconds}


def _rising(trial: Trial) -> Training:
    """Return a training whose rate rises geometrically, from `least` to `most`."""
    from deltatheory.training.trainer import Training

    given = trial.settings
    least, most, steps = given["least"], given["most"], given["steps"]

    class Rising(Training):
        def rate(self, step: int) -> float:
            return least * (most / least) ** (step / max(steps - 1, 1))

    return Rising(steps=steps, batch_size=given["batch_size"], seed=trial.seed)
