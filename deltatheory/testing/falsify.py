"""Property tests and a search for counterexamples of anyone's bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast, get_args

import numpy as np

from deltatheory.testing.domains import Domain
from deltatheory.theorems.exact import as_fractions
from deltatheory.theorems.theorem import Bound, Check, Kind

__all__ = ["Claim", "Falsification", "PropertyReport", "check", "claim", "falsify"]

_MARGIN = 1e-6  # relative violation in floats that is worth confirming


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
) -> Claim:
    """State a bound of one's own.

    Args:
        name: what to call it.
        sides: (left, right) of an instance. To confirm violations exactly it must run on fractions: use
            `deltatheory.theorems.intervals` for exp, log and sqrt, `deltatheory.theorems.exact` for solve.
        domain: of the instances.
        kind: "upper" (left <= right), "lower", "identity" or "tight".
        rational: whether `sides` runs on fractions; without it, violations are confirmed in floats only.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: must be 'upper', 'lower', 'identity' or 'tight'.")
    known = cast(Kind, kind)
    return Claim(name=name, sides=sides, domain=domain, sampler=domain.sample, kind=known, rational=rational)


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


def check(bound: Bound, *, examples: int = 100, also: Iterable[Any] = ()) -> PropertyReport:
    """Evaluate a bound on instances that hypothesis draws, guided towards violation, and shrink what fails.

    Violations in floats are confirmed in rational or interval arithmetic where the bound runs on it.

    Args:
        bound: a theorem, or a `claim`.
        examples: how many to draw.
        also: instances to evaluate first.

    Raises:
        ImportError: without hypothesis.
        ValueError: if a side is NaN, or the sides have two shapes.
    """
    from hypothesis import HealthCheck, given, settings, target
    from hypothesis import strategies as st

    seen: list[tuple[Check, Any]] = []

    def evaluate(instance: Any) -> Check:
        result = bound.check(instance)
        if result.holds is False and bound.rational:
            result = bound.check(instance, exact=True)
        seen.append((result, instance))
        return result

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
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        result = evaluate(build(drawn))
        if np.isfinite(result.violation):
            target(float(np.clip(result.violation, -1e6, 1e6)))
        if result.holds is False:
            raise _Violated

    counterexample = None
    try:
        for instance in also:
            if evaluate(instance).holds is False:
                raise _Violated
        run()
    except _Violated:
        counterexample = seen[-1][1]  # hypothesis ends with the smallest
    worst = seen[-1][0] if counterexample is not None else max((c for c, _ in seen), key=lambda c: c.ratio)
    return PropertyReport(bound.label, _status(bound), len(seen), worst, counterexample)


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

    On a claim's domain Nelder-Mead from random starts maximizes the relative violation in floats; the
    coordinates of what it finds are then rounded to the simplest fractions that still violate the bound
    exactly. Of a theorem, whose hypotheses are not coordinates, samples are drawn.

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
        ValueError: if a side is NaN, or the sides have two shapes; for evaluations below 1.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations}: must be at least 1.")
    began = time.perf_counter()
    if isinstance(bound, Claim):
        witness, result, spent = _search_domain(bound, evaluations, seed)
    else:
        witness, result, spent = _search_samples(bound, evaluations, seed)
    confirmed = ""
    if result.holds is False:
        confirmed = "exactly" if result.exact else "in floats"
    return Falsification(
        bound.label,
        _status(bound),
        witness if confirmed else None,
        result,
        confirmed,
        spent,
        time.perf_counter() - began,
    )


def _search_samples(bound: Bound, evaluations: int, seed: int) -> tuple[Any, Check, int]:
    best, kept = None, None
    for spent in range(1, evaluations + 1):
        instance = bound.sampler(seed * evaluations + spent)
        result = bound.check(instance)
        if result.holds is False and bound.rational:
            result = bound.check(instance, exact=True)
        if result.holds is False:
            return instance, result, spent
        if best is None or result.ratio > best.ratio:
            best, kept = result, instance
    assert best is not None
    return kept, best, evaluations


class _Enough(Exception):
    """Ends a search whose budget is spent."""


def _search_domain(bound: Claim, evaluations: int, seed: int) -> tuple[Any, Check, int]:
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    domain = bound.domain
    spent = 0
    best: tuple[float, np.ndarray] = (-np.inf, np.zeros(domain.size))

    def loss(vector: np.ndarray) -> float:
        nonlocal spent, best
        if spent >= evaluations:
            raise _Enough
        spent += 1
        clipped = np.clip(vector, -domain.bound, domain.bound)
        result = bound.check(domain.build(clipped))
        value = result.violation / (abs(result.left) + abs(result.right) + 1e-9)
        if value > best[0]:
            best = (value, clipped)
        return -value

    try:
        loss(np.full(domain.size, 0.5))
        while best[0] < _MARGIN:
            start = rng.uniform(-domain.bound, domain.bound, domain.size)
            options = {"maxfev": 100 * max(domain.size, 2), "adaptive": domain.size > 4}
            minimize(loss, start, method="Nelder-Mead", options=options)
    except _Enough:
        pass
    witness = _confirmed(bound, best[1]) if best[0] > 0 else None
    if witness is not None:
        instance = domain.build(witness)
        return instance, bound.check(instance, exact=bound.rational), spent
    instance = domain.build(best[1])
    return instance, _undecided(bound.check(instance)), spent


def _undecided(result: Check) -> Check:
    """Return a check of an instance whose violation could not be confirmed."""
    return replace(result, holds=None) if result.holds is False else result


def _confirmed(bound: Claim, vector: np.ndarray) -> np.ndarray | None:
    """Return the coordinates of a violation, confirmed and simplified one by one, or `None`."""

    def fails(candidate: np.ndarray) -> bool:
        return bound.check(bound.domain.build(candidate), exact=bound.rational).holds is False

    if not bound.rational:
        return vector if fails(vector) else None
    roundings = (_rounded(vector, 2**k) for k in range(0, 40, 2))
    found = next((v for v in roundings if fails(v)), None)
    if found is None:
        return None
    for i, value in enumerate(found):
        for simpler in _simpler(value):
            candidate = found.copy()
            candidate[i] = simpler
            if fails(candidate):
                found = candidate
                break
    return found


def _rounded(vector: np.ndarray, denominator: int) -> np.ndarray:
    return as_fractions(np.round(vector * denominator).astype(np.int64)) / denominator


def _simpler(value: Fraction) -> Iterator[Fraction]:
    """Yield simpler fractions than this one, the simplest first."""
    for candidate in (Fraction(0), Fraction(1), Fraction(-1)):
        if candidate != value:
            yield candidate
    denominator = 1
    while denominator < value.denominator:
        yield Fraction(round(value * denominator), denominator)
        denominator *= 2
