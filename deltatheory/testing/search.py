"""Where a search for counterexamples looks: corners, zeros and repeats first, then uphill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.exact import Singular, as_float, as_fractions, map_numbers
from deltatheory.theorems.theorem import Bound, Check, Sides

__all__ = ["MARGIN", "UNDEFINED", "excess", "finite", "on_domain", "on_samples"]

MARGIN = 1e-9  # excess in floats that is worth confirming
UNDEFINED = (Singular, ArithmeticError, np.linalg.LinAlgError)  # a bound says nothing where it has no value
REFUSED = (ValueError, ArithmeticError, TypeError, IndexError)  # how a bound meets what no sampler makes
_TINY = 1e-15  # below it, the sides count as they are, and above it by their logarithms
_FLAT = -1e3  # of 0 <= 0, from where no climb leads on
_EVENLY = 0.1  # how much a violation in floats may change within a few roundings
_NEAR = 8  # neighbours that say so
_SIMPLIFYING = 1000  # exact evaluations for a simpler witness, at most, over its coordinates
_SPECIALS, _CLIMBS, _KEPT = 60, 3, 16  # of a claim: points drawn, climbs after them, and starts kept
_SAMPLES, _MOVES = 8, 64  # of a theorem, before climbing from the best of them, and of a climb


def excess(bound: Bound, sides: Sides) -> float:
    """Return by how much a claim fails: above 0 where it does.

    It is the logarithm of the ratio of the sides, so that large and small ones count alike and a search is
    led through many orders of magnitude; for an identity, the relative difference.
    """
    left, right = _floats(sides)
    if bound.kind == "identity":
        same = left == right  # infinities too
        gap = np.abs(left - right) / (np.abs(left) + np.abs(right) + _TINY)
        return float(np.where(same, 0, np.nan_to_num(gap, nan=1)).max())
    small, large = (right, left) if bound.kind == "lower" else (left, right)
    logarithms = np.arcsinh(small / _TINY) - np.arcsinh(large / _TINY)
    return float(np.where((small == 0) & (large == 0), _FLAT, np.nan_to_num(logarithms, nan=_FLAT)).max())


def finite(sides: Sides) -> bool:
    """Return whether no side is infinite."""
    return all(np.isfinite(side).all() for side in _floats(sides))


def _floats(sides: Sides) -> list[np.ndarray]:
    return [np.ravel(np.asarray(as_float(np.asarray(side)), dtype=float)) for side in sides]


class Enough(Exception):
    """Ends a search that is over."""


@dataclass
class Search:
    """A search for an instance that violates a bound.

    Attributes:
        bound: what to violate.
        evaluations: how many to spend at most, in floats.
        rng: of all starts and moves.
        spent: how many were spent.
        best: the largest excess met, and its instance.
        witness: a confirmed violation, and its check.
    """

    bound: Bound
    evaluations: int
    rng: np.random.Generator
    spent: int = 0
    best: tuple[float, Any] = (-np.inf, None)
    witness: tuple[Any, Check] | None = None
    _next: int = 0  # evaluation from which a violation is confirmed again, after some that could not be
    _failed: int = field(default=0, repr=False)

    def weigh(
        self,
        sides: Callable[[], Sides],
        instance: Callable[[], Any],
        confirm: Callable[[], tuple[Any, Check] | None],
    ) -> float:
        """Spend an evaluation and return the excess, -∞ where the bound has no value.

        Args:
            sides: evaluates the bound in floats.
            instance: what is kept of the best.
            confirm: decides a violation without rounding, and gives its witness.

        Raises:
            Enough: if it was the last, or a violation is confirmed.
        """
        if self.spent >= self.evaluations:
            raise Enough
        self.spent += 1
        try:
            value = excess(self.bound, sides())
        except UNDEFINED:
            return -np.inf
        if value > self.best[0]:
            self.best = (value, instance())
        if value > MARGIN and self.spent >= self._next:
            with suppress(*UNDEFINED):  # what has a value in floats only
                self.witness = confirm()
            if self.witness is not None:
                raise Enough
            # Rounding that looks like a violation must not take all the time.
            self._failed += 1
            self._next = self.spent + (1 << min(self._failed, 12))
        return value


def _evaluated(bound: Bound, instance: Any, exact: Callable[[], Any]) -> Sides:
    """Return both sides in floats; where these are no numbers, or infinite, as fractions give them.

    Raises:
        ValueError: if they are no numbers in fractions either, as `Bound.bound` does.
    """
    try:
        sides = bound.bound(instance)
        if not bound.rational or finite(sides):
            return sides
    except UNDEFINED:
        raise
    except ValueError:  # NaN, as of 0/0, where fractions divide by zero
        if not bound.rational:
            raise
    return bound.exact_bound(exact())


# ---- Claims, on the coordinates of their domain ----


def on_domain(bound: Any, evaluations: int, seed: int) -> Search:
    """Search the coordinates of a claim's domain."""
    search = Search(bound, evaluations, np.random.default_rng(seed))
    domain = bound.domain

    def score(vector: np.ndarray) -> float:
        inside = np.clip(vector, -domain.box, domain.box)
        return search.weigh(
            lambda: _evaluated(bound, domain.build(inside), lambda: domain.build(as_fractions(inside))),
            lambda: inside,
            lambda: _confirmed(bound, inside),
        )

    with suppress(Enough), np.errstate(all="ignore"):
        _over_coordinates(search.rng, score, domain.box)
    if search.best[1] is not None:
        search.best = (search.best[0], domain.build(search.best[1]))
    return search


def _over_coordinates(
    rng: np.random.Generator, score: Callable[[np.ndarray], float], box: np.ndarray
) -> None:
    """Score special points, and climb from the best by Nelder-Mead and L-BFGS, until there are `Enough`."""
    from scipy.optimize import minimize

    size = len(box)
    pool = [(score(base), base) for base in (0 * box, np.minimum(box, 1), box / 2, box)]
    while size:
        points = [_special(box, rng) for _ in range(_SPECIALS + 2 * size)]
        points += [np.round(rng.uniform(-box, box) * 8) / 8 for _ in range(_SPECIALS // 2)]
        pool += [(score(point), point) for point in points]
        for _ in range(_CLIMBS):
            pool = sorted(pool, key=lambda pair: -pair[0])[:_KEPT]
            best = pool[rng.integers(len(pool))][1] if rng.random() < 0.7 else rng.uniform(-box, box)
            # Off the kinks and the walls, where no slope says which way is up.
            start = np.clip(best + rng.normal(0, 0.02, size), -0.99 * box, 0.99 * box)
            climb: dict[str, Any] = {"method": "L-BFGS-B", "options": {"maxfun": 20 * (size + 1)}}
            if rng.random() < 0.5:
                options = {"maxfev": 40 * max(size, 2), "adaptive": size > 4}
                climb = {"method": "Nelder-Mead", "options": options}
            walls = list(zip(-box, box, strict=True))
            found = minimize(lambda v: float(np.clip(-score(v), _FLAT, -_FLAT)), start, bounds=walls, **climb)
            pool.append((-float(found.fun), np.array(found.x)))


def _special(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return coordinates where bounds like to break: corners, zeros and repeats, or a little beside them."""
    size, top = len(box), float(box.max())
    values = np.array([0.0, 1.0, -1.0, 0.5, -0.5, top, -top])
    kind = rng.integers(3)
    if kind == 0:  # a few values only: repeats
        vector = rng.choice(rng.choice(values, 2), size)
    elif kind == 1:  # corners
        vector = rng.choice(values, size)
    else:  # zeros but for a few
        vector = rng.choice(values, size) * (rng.random(size) < 3 / size)
    if rng.random() < 0.5:
        vector[rng.integers(size)] += rng.choice([-1.0, 1.0]) * 2.0 ** -rng.integers(4, 31)
    return np.clip(vector, -box, box)


# ---- Confirmation ----


def _confirmed(bound: Any, vector: np.ndarray) -> tuple[Any, Check] | None:
    """Return a violation as simple as rounding these coordinates gives, decided exactly, or `None`."""
    if not bound.rational:
        return _stands(bound, vector)
    tries = 0

    def fails(candidate: np.ndarray) -> Check | None:
        nonlocal tries
        tries += 1
        try:
            result = bound.check(bound.domain.build(candidate), exact=True)
        except UNDEFINED:
            return None
        return result if result.holds is False else None

    roundings = (_rounded(vector, 2**k) for k in (0, 1, 2, 3, *range(4, 44, 4)))
    found = next(((v, result) for v in roundings if (result := fails(v))), None)
    if found is None:
        return None
    (point, result), simplified = found, True
    while simplified:
        simplified = False
        for i in sorted(range(len(point)), key=lambda i: -point[i].denominator):
            for simpler in _simpler(point[i]):
                if tries > _SIMPLIFYING // len(point):
                    break
                candidate = point.copy()
                candidate[i] = simpler
                if better := fails(candidate):
                    point, result, simplified = candidate, better, True
                    break
    return bound.domain.build(point), result


def _stands(bound: Any, vector: np.ndarray) -> tuple[Any, Check] | None:
    """Return a violation in floats that is nearly the same a few roundings away: no rounding itself."""
    rng = np.random.default_rng(0)
    result = bound.check(bound.domain.build(vector))
    if result.holds is not False:
        return None
    for _ in range(_NEAR):
        beside = vector * (1 + rng.uniform(-1, 1, len(vector)) * 4 * np.finfo(float).eps)
        other = bound.check(bound.domain.build(beside))
        if other.holds is not False or abs(other.violation - result.violation) > _EVENLY * result.violation:
            return None
    return bound.domain.build(vector), result


def _rounded(vector: np.ndarray, denominator: int) -> np.ndarray:
    return as_fractions(np.round(vector * denominator).astype(np.int64)) / denominator


def _simpler(value: Fraction) -> Iterator[Fraction]:
    """Yield simpler fractions than this one, the simplest first."""
    for candidate in map(Fraction, (0, 1, -1)):
        if candidate == value:
            return
        yield candidate
    denominator = 1
    while denominator < value.denominator:
        yield Fraction(math.floor(value * denominator), denominator)
        yield Fraction(math.ceil(value * denominator), denominator)
        denominator *= 2


# ---- Theorems, on the numbers of their instances ----


def on_samples(bound: Bound, evaluations: int, seed: int) -> Search:
    """Search around the samples of a theorem: numbers are moved as long as every hypothesis still holds."""
    search = Search(bound, evaluations, np.random.default_rng(seed))

    def score(instance: Any) -> float:
        return search.weigh(
            lambda: _evaluated(bound, instance, lambda: instance),
            lambda: instance,
            lambda: _refuting(bound, instance),
        )

    with suppress(Enough), np.errstate(all="ignore"):
        _over_instances(search, score)
    return search


def _refuting(bound: Bound, instance: Any) -> tuple[Any, Check] | None:
    result = bound.check(instance, exact=bound.rational)
    return (instance, result) if result.holds is False else None


def _over_instances(search: Search, score: Callable[[Any], float]) -> None:
    """Score instances until there are `Enough`."""
    bound, rng = search.bound, search.rng
    nearest = getattr(bound, "extremal", None) or getattr(bound, "closest", None)
    while True:
        seeds = rng.integers(1 << 16, size=_SAMPLES).tolist()
        starts = [nearest(seeds[0] % 64)] if nearest else []
        starts += [bound.sampler(seed) for seed in seeds]
        starts += [search.best[1]] if search.best[1] else []
        scores = [score(start) for start in starts]
        height = max(scores)
        at = starts[scores.index(height)]
        for _ in range(_MOVES):
            moved = _admitted(bound, at, rng)
            if moved is None:
                search.spent += 1  # it has its cost too
                continue
            with suppress(*REFUSED):
                if (reached := score(moved)) >= height:
                    height, at = reached, moved


def _admitted(bound: Bound, instance: Any, rng: np.random.Generator) -> Any:
    """Return a moved instance that meets all hypotheses, or `None`."""
    with suppress(*REFUSED):  # what cannot be made, and a predicate that cannot be evaluated, are not met
        moved = _moved(instance, rng)
        return None if bound.unmet(moved) else moved


def _moved(instance: Any, rng: np.random.Generator) -> Any:
    """Return an instance with a number of an entry changed, or all of them alike."""
    name = rng.choice([*instance])
    numbers: list[Any] = []
    map_numbers(lambda x: numbers.append(x) or x, instance[name])
    if not numbers:
        return instance
    step = Fraction(1, 1 << int(rng.integers(0, 12))) * int(rng.choice([-1, 1]))
    kind, chosen = rng.integers(4), rng.integers(len(numbers) + 1)
    for i, x in enumerate(numbers):
        if isinstance(x, Fraction) and chosen in (i, len(numbers)):
            numbers[i] = (x + step, x * (1 + step), x - x, -x)[kind]
    rest = iter(numbers)
    return instance | {name: map_numbers(lambda _: next(rest), instance[name])}
