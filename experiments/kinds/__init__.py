"""What trials do, by kind: each module does it in `run`, and has an `EXAMPLE` small enough for a test."""

from __future__ import annotations

from typing import Any, Protocol

from experiments.environment import Environment
from experiments.kinds import (
    advice,
    broken_run,
    dimension,
    frozen,
    generation_steering,
    kernel,
    linearized_runs,
    looks,
    measurement,
    places,
    policies,
    predicted_rate,
    prediction,
    range_test,
    reachability,
    sequence,
    smallest,
    solve,
    steering,
    subspace_runs,
    subspaces,
    theorems,
    train,
    transfer,
    vmapped,
    warm_start,
)
from experiments.trial import Trial


class TrialKind(Protocol):
    """A module of this package.

    Attributes:
        EXAMPLE: a trial of the kind that any backbone and any classification task takes in seconds; it names
            neither.
    """

    EXAMPLE: Trial

    def run(self, trial: Trial, place: Environment) -> dict[str, Any]:
        """Run a trial; what comes out is plain JSON."""
        ...


KINDS: dict[str, TrialKind] = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (
        frozen,
        train,
        sequence,
        transfer,
        dimension,
        prediction,
        measurement,
        kernel,
        linearized_runs,
        subspace_runs,
        predicted_rate,
        range_test,
        reachability,
        subspaces,
        advice,
        smallest,
        places,
        looks,
        warm_start,
        broken_run,
        vmapped,
        solve,
        policies,
        steering,
        generation_steering,
        theorems,
    )
}
