from __future__ import annotations

from dataclasses import replace

import pytest

from deltatheory.dimension import DimensionSettings
from deltatheory.training import Training


def test_a_run_has_the_budget_that_is_set():
    settings = DimensionSettings(steps=7, batch_size=3, micro_batch=2)
    training = settings.training(seed=5)
    assert replace(training, learning_rate=1e-3) == Training(steps=7, batch_size=3, micro_batch=2, seed=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"projection": "hased"}, "hashed"),
        ({"scope": "block"}, r"scope='block'.*blocks"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"runs": -1.0}, "runs=-1.0: must be at least 0"),
        ({"runs": float("nan")}, "runs=nan"),
        ({"average": 1.5}, "average=1.5"),
        ({"precision": 0.0}, "precision=0.0: must be above 0"),
        ({"burn_in": -1}, "burn_in=-1: must be at least 0"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DimensionSettings(**arguments)
