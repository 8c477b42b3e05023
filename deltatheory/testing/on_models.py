"""How tight every theorem is on a real problem: hypotheses, both sides, their ratio, vacuous or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from deltatheory.problems import ClassificationProblem
from deltatheory.results import Result, provenance
from deltatheory.testing import on_fresh_lora, on_linearised, on_network
from deltatheory.testing.probe import Measurement, Probe
from deltatheory.theorems import get_theorem, theorems_of

__all__ = ["ON_MODELS", "ModelCheck", "ModelChecks", "check_on_model", "measured"]

ON_MODELS: dict[str, Callable[[Probe], Measurement]] = {
    id: measure
    for measures in (on_linearised.MEASURES, on_network.MEASURES, on_fresh_lora.MEASURES)
    for id, measure in measures.items()
}
_SAYS_NOTHING = 0.01  # a bound a hundred times too large


@dataclass(frozen=True)
class ModelCheck:
    """A theorem on a problem.

    Attributes:
        id: of the theorem.
        name: of the theorem.
        status: how it was checked in general.
        kind: which relation it claims.
        hypotheses: which are met, by constants measured or certified, and where; local ones are named local.
        left: the measured side; NaN where it was not measured.
        right: the bound.
        ratio: tightness, 1 where the bound is attained.
        holds: `None` where it was not measured.
        vacuous: the ratio is below 1/100, or the bound says less than what is known without it.
    """

    id: str
    name: str
    status: str
    kind: str
    hypotheses: str
    left: float
    right: float
    ratio: float
    holds: bool | None
    vacuous: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; NaN as `None`."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True, eq=False)
class ModelChecks(Result):
    """How tight theorems are on a problem.

    Attributes:
        rows: a theorem each, vacuous bounds first.
        settings: what makes the problem, and the seed.
        provenance: as `results.provenance` gives it.
    """

    FILE: ClassVar[str] = "check.json"

    rows: tuple[ModelCheck, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file: all fields, NaN as `None`."""
        return super().to_dict() | {"rows": [row.to_dict() for row in self.rows]}


def measured(ids: Sequence[str] = ()) -> list[str]:
    """Return the theorems that are measured on models, of these: all by default.

    Args:
        ids: of theorems, or of statements: "T04" stands for its parts T04a and T04b.

    Raises:
        ValueError: for an id that is unknown, or of which nothing is measured.
    """
    found: list[str] = []
    for id in ids:
        here = [theorem.id for theorem in theorems_of(id) if theorem.id in ON_MODELS]
        if not here:
            raise ValueError(f"id={id!r}: not measured on models; these are: {', '.join(sorted(ON_MODELS))}.")
        found += [part for part in here if part not in found]
    return found or sorted(ON_MODELS)


def check_on_model(
    problem: ClassificationProblem,
    ids: Sequence[str] | None = None,
    *,
    seed: int = 0,
    on_row: Callable[[ModelCheck], None] | None = None,
) -> ModelChecks:
    """Measure both sides of theorems on a problem at δ = 0.

    Costs about 16 backward passes for the Jacobian, and some tens of passes over one to eight examples for
    the rest. A row that this problem has no place for (GELU in a model without one) says so and has no sides.

    Args:
        problem: any; a backbone with separate query, key and value maps fills all rows.
        ids: as in `measured`; all by default.
        seed: of all random directions.
        on_row: called with every row, for progress.

    Raises:
        ValueError: for a theorem that is unknown or has no measurement, or fewer than 4 training examples.
    """
    wanted = measured(ids or ())
    if len(problem.train) < 4:
        raise ValueError(f"problem: {len(problem.train)} training examples; at least 4 are needed.")
    probe = Probe(problem, seed)
    rows = []
    for id in wanted:
        rows.append(_row(id, probe))
        if on_row:
            on_row(rows[-1])
    rows.sort(key=lambda row: not row.vacuous)
    return ModelChecks(tuple(rows), {**problem.identity(), "seed": seed}, provenance())


def _row(id: str, probe: Probe) -> ModelCheck:
    theorem = get_theorem(id)
    about = (id, theorem.name, str(theorem.status), theorem.kind)
    try:
        found = ON_MODELS[id](probe)
    except ValueError as error:
        return ModelCheck(*about, f"not applicable: {error}", math.nan, math.nan, math.nan, None, False)
    result = theorem.compare(found.sides, rounding=found.rounding)
    vacuous = theorem.kind != "identity" and result.ratio < _SAYS_NOTHING
    if found.trivial is not None:
        vacuous = vacuous or result.right >= found.trivial
    return ModelCheck(
        *about, found.hypotheses, result.left, result.right, result.ratio, result.holds, vacuous
    )
