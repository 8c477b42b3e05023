"""The studies, by name: each module says what it claims, yields its trials, and finds what came out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from deltatheory.tasks.task import Kind
from experiments.scope import Scope
from experiments.studies import (
    advice,
    combinations,
    convergence,
    dimension,
    dimension_rates,
    efficiency,
    feedback,
    generation_steering,
    learning_rate,
    performance,
    places,
    prediction,
    pretraining,
    reachability,
    reference,
    relinearization,
    remedies,
    scale,
    sharpening,
    sharpness,
    shortcuts,
    smallest,
    solvers,
    subspace,
    tightness,
    transfer,
)
from experiments.trial import Known, Trial


class Study(Protocol):
    """A module of this package; it may also say `ABOUT`, a remark on its page, and `TASKS`, kinds of tasks.

    Attributes:
        CLAIM: what is judged.
        SOURCE: who claims it.
    """

    CLAIM: str
    SOURCE: str

    def trials(self, scope: Scope, known: Known) -> Iterable[Trial]:
        """Yield what can be run, given what is known; more may follow from that."""
        ...

    def findings(self, scope: Scope, known: Known) -> Any:
        """Return what came out."""
        ...


STUDIES: dict[str, Study] = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (
        performance,
        convergence,
        efficiency,
        combinations,
        scale,
        pretraining,
        reachability,
        transfer,
        dimension,
        prediction,
        subspace,
        sharpness,
        sharpening,
        learning_rate,
        reference,
        dimension_rates,
        relinearization,
        remedies,
        shortcuts,
        advice,
        smallest,
        places,
        solvers,
        feedback,
        generation_steering,
        tightness,
    )
}


def studies_of(kind: Kind) -> dict[str, Study]:
    """Return the studies that a kind of tasks has; those that say nothing need labels."""
    return {name: one for name, one in STUDIES.items() if kind in getattr(one, "TASKS", ("classification",))}
