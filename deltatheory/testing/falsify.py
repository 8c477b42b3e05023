"""Property tests and a search for counterexamples of anyone's bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np

from deltatheory.testing.domains import Domain
from deltatheory.testing.search import MARGIN, UNDEFINED, excess, finite, on_domain, on_samples
from deltatheory.theorems.theorem import TOLERANCE, Bound, Check, Kind

__all__ = ["Claim", "Falsification", "PropertyReport", "check", "claim", "falsify"]

_SHRINKING = 200  # evaluations after the first violation


@dataclass(frozen=True, kw_only=True)
class Claim(Bound):
    """A bound of one's own on a domain of instances.

    Attributes:
        domain: where it is claimed.
    """

    domain: Domain


def claim(
    name: str,
    sides: Callable[[Any], tuple[Any, Any]],
    domain: Domain,
    *,
    kind: str = "upper",
    rational: bool = True,
    atol: float = TOLERANCE,
    rtol: float = TOLERANCE,
) -> Claim:
    """State a bound of one's own, wherever both sides have a value (a singular matrix has no inverse).

    Args:
        name: what to call it.
        sides: (left, right) of an instance. To confirm violations exactly it must run on fractions: use
            `deltatheory.theorems.intervals` for exp, log and sqrt, `deltatheory.theorems.exact` for solve.
        domain: of the instances.
        kind: "upper" (left <= right), "lower", "identity" or "tight".
        rational: whether `sides` runs on fractions; without it, violations are confirmed in floats only.
        atol: in floats the sides may be off by so much,
        rtol: and by this share of the larger one. Where `sides` runs on fractions neither counts.

    Raises:
        ValueError: for an unknown kind, or a tolerance below 0.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: must be 'upper', 'lower', 'identity' or 'tight'.")
    if not (atol >= 0 and rtol >= 0):
        raise ValueError(f"atol={atol}, rtol={rtol}: must not be negative.")
    return Claim(
        name=name,
        sides=sides,
        domain=domain,
        sampler=domain.sample,
        kind=cast(Kind, kind),
        rational=rational,
        atol=atol,
        rtol=rtol,
    )


# ---- Property tests ----


@dataclass(frozen=True)
class PropertyReport:
    """What a property test saw.

    Attributes:
        name: of the bound.
        status: how a theorem was checked in general; "a claim of one's own" otherwise.
        examples: how many instances were evaluated.
        worst: the check with the largest ratio, or the violated one.
        counterexample: the smallest instance found that violates the bound, or `None`.
    """

    name: str
    status: str
    examples: int
    worst: Check
    counterexample: Any

    @property
    def holds(self) -> bool:
        """Whether no violation was seen."""
        return self.counterexample is None

    def __str__(self) -> str:
        verdict = "held" if self.holds else "VIOLATED"
        return f"{self.name} [{self.status}]: {verdict} on {self.examples} instances; worst: {self.worst}"


class _Violated(Exception):
    """Tells hypothesis that an example fails."""


class _Shrunk(BaseException):
    """Ends hypothesis, which would shrink for minutes."""


def check(bound: Bound, *, examples: int = 100, also: Iterable[Any] = ()) -> PropertyReport:
    """Evaluate a bound on instances that hypothesis draws, guided towards violation, and shrink what fails.

    Violations in floats are confirmed in rational or interval arithmetic where the bound runs on it.

    Args:
        bound: a theorem, or a `claim`.
        examples: how many to draw.
        also: instances to evaluate first.

    Raises:
        ImportError: without hypothesis.
        ValueError: if a side is NaN, or the sides have two shapes; if they have no value on any instance.
    """
    from hypothesis import HealthCheck, Phase, given, settings, target
    from hypothesis import strategies as st

    seen: list[Check] = []
    failed: list[tuple[int, Check, Any]] = []  # when, and what

    def evaluate(instance: Any) -> None:
        if failed and len(seen) > failed[0][0] + _SHRINKING:
            raise _Shrunk
        try:
            with np.errstate(all="ignore"):
                result = _decided(bound, instance)
        except UNDEFINED:
            return
        seen.append(result)
        if result.holds is False:
            failed.append((len(seen), result, instance))
            raise _Violated
        if np.isfinite(result.violation):
            target(float(np.clip(result.violation, -1e6, 1e6)))

    # Instances are built in the test, not in the strategy: what builds them may be slow or use randomness.
    if isinstance(bound, Claim):
        strategy, build = bound.domain.coordinates(), bound.domain.build
    else:
        strategy, build = st.integers(0, 2**32 - 1), bound.sampler

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        evaluate(build(drawn))

    try:
        for instance in also:
            evaluate(instance)
        run()
    except (_Violated, _Shrunk):
        _, worst, counterexample = failed[-1]  # hypothesis ends with the smallest
        return PropertyReport(bound.label, _status(bound), len(seen), worst, counterexample)
    if not seen:
        raise ValueError(f"{bound.label}: the sides have no value on any of {examples} instances.")
    worst = max(seen, key=lambda result: result.ratio)
    return PropertyReport(bound.label, _status(bound), len(seen), worst, None)


def _decided(bound: Bound, instance: Any) -> Check:
    """Return the check of an instance in fractions: in floats, or exactly where those leave doubt."""
    if not bound.rational:
        return bound.check(instance)
    try:
        sides = bound.bound(instance)
        doubtful = not finite(sides) or excess(bound, sides) > MARGIN
    except UNDEFINED:
        raise
    except ValueError:  # NaN, as of 0/0, where fractions divide by zero
        doubtful = True
    return bound.check(instance, exact=doubtful)


def _status(bound: Bound) -> str:
    return str(getattr(bound, "status", "a claim of one's own"))


# ---- Search ----


@dataclass(frozen=True)
class Falsification:
    """What a search for a counterexample came to.

    Attributes:
        name: of the bound.
        status: as in `PropertyReport`.
        witness: an instance that violates the bound, as simple as could be found; `None` if none was.
        check: of the witness, or of the nearest instance met.
        confirmed: "exactly" (fractions or rational intervals), "in floats", or "" without a witness.
        evaluations: of the bound, in floats.
        seconds: time taken.
    """

    name: str
    status: str
    witness: Any
    check: Check
    confirmed: str
    evaluations: int
    seconds: float

    @property
    def refuted(self) -> bool:
        """Whether a witness was found."""
        return bool(self.confirmed)

    def __str__(self) -> str:
        found = f"REFUTED {self.confirmed}" if self.refuted else "not refuted (which proves nothing)"
        cost = f"{self.evaluations} evaluations, {self.seconds:.1f} s"
        return f"{self.name} [{self.status}]: {found} after {cost}; {self.check}"


def falsify(bound: Bound, *, evaluations: int = 4000, seed: int = 0) -> Falsification:
    """Search for an instance that violates a bound, simplify it, and confirm it without rounding.

    On a claim's domain corners, zeros and repeats of the coordinates come first; from the best of them
    Nelder-Mead and L-BFGS maximize the logarithm of the ratio of the sides in floats. The coordinates of a
    violation are then rounded to the simplest fractions that still violate the bound exactly. Of a theorem,
    the search begins where it is attained and at samples, and moves their numbers as long as all hypotheses
    hold. Instances on which a side has no value (a singular inverse, a division by zero) are passed over.

    An example. The mean of the keys under a softmax moves with their variance, which is at most a quarter of
    their squared range (T44a). Whoever claims 19/80 of it, five percent less, is refuted within seconds:

    >>> from deltatheory.testing import claim, combine, falsify, vectors
    >>> from deltatheory.theorems.intervals import exp
    >>> def sides(x):
    ...     weights = [exp(k) for k in x["keys"]]
    ...     p = [w / sum(weights) for w in weights]
    ...     mean = sum(p * x["keys"])
    ...     slope = sum(p * (x["keys"] - mean) ** 2)
    ...     return slope, (max(x["keys"]) - min(x["keys"])) ** 2 * 19 / 80
    >>> found = falsify(claim("variance", sides, combine(keys=vectors(3))))
    >>> found.refuted, found.confirmed
    (True, 'exactly')

    Args:
        bound: a theorem, or a `claim`.
        evaluations: how many evaluations in floats to spend at most.
        seed: of the starts.

    Raises:
        ValueError: if a side is NaN, or the sides have two shapes; if they have no value on any instance
            met; for evaluations below 1.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations}: must be at least 1.")
    began = time.perf_counter()
    search = (on_domain if isinstance(bound, Claim) else on_samples)(bound, evaluations, seed)
    confirmed = ""
    if search.witness is not None:
        witness, result = search.witness
        confirmed = "exactly" if result.exact else "in floats"
    elif search.best[1] is None:
        raise ValueError(f"{bound.label}: the sides have no value on any of {search.spent} instances.")
    else:
        witness, result = None, bound.check(search.best[1])
        if result.holds is False:  # and it could not be confirmed
            result = replace(result, holds=None)
    spent, seconds = search.spent, time.perf_counter() - began
    return Falsification(bound.label, _status(bound), witness, result, confirmed, spent, seconds)
