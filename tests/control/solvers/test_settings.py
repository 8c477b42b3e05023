from __future__ import annotations

import math

import pytest
import torch

from deltatheory.control.solvers import SOLVERS
from deltatheory.control.solvers.constrained import Constrained, MinimumEnergy
from deltatheory.control.solvers.first_order import SGD, Adam
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.solvers.least_squares import GaussNewton
from deltatheory.control.solvers.msa import EMSA, MSA, StepConstants


def made(kind: type, name: str, value: object) -> None:
    """Make a solver past the type checks of the tests, which users do not have."""
    solver = kind()
    object.__setattr__(solver, name, value)
    solver.__post_init__()


@pytest.mark.parametrize("kind", SOLVERS.values(), ids=SOLVERS)
def test_defaults_fit(kind):
    kind()


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [
        (GaussNewton, "side", "x", "'auto' or 'primal' or 'dual'"),
        (GaussNewton, "batch_size", 0.5, "a whole number or None"),
        (GaussNewton, "damping", None, "a number"),
        (GaussNewton, "seed", "one", "a whole number"),
        (Adam, "learning_rate", True, "a number"),
        (Adam, "budget", "8", "a number or None"),
        (MinimumEnergy, "targets", "high", "a number or Tensor"),
        (MinimumEnergy, "outputs", ["margin"], "'margin' or 'logits'"),
        (Constrained, "bounds", 1, r"\(NormBound, ...\)"),
        (Constrained, "bounds", [1.0], r"\(NormBound, ...\)"),
        (MSA, "bounds", (1.0,), r"\(a number, a number\) or None"),
        (MSA, "step_size", "newton", "a number or 'argmin'"),
        (EMSA, "rho", "large", "a number or StepConstants"),
        (ILQR, "steps", 2.5, "a whole number or None"),
    ],
)
def test_a_setting_of_another_type_is_named_with_what_is_allowed(kind, name, value, allowed):
    with pytest.raises(ValueError, match=rf"^{name}=.*: allowed is {allowed}\.$"):
        made(kind, name, value)


@pytest.mark.parametrize(
    ("kind", "name"), [(SGD, "learning_rate"), (GaussNewton, "floor"), (MSA, "step_size"), (DDP, "tolerance")]
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_setting_out_of_range_is_named(kind, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: must be above 0"):
        kind(**{name: value})


def test_what_the_types_allow_passes():
    made(MSA, "bounds", [-1, 1])  # as JSON has it
    MSA(step_size="argmin", budget=None)
    EMSA(rho=StepConstants((1.0,), (1.0,), 1.0))
    MinimumEnergy(targets=torch.ones(3, 1))
    made(MinimumEnergy, "budget", 2)
