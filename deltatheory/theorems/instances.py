"""Instances of theorems: how they are named, drawn from a seed, and changed in some entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.exact import as_fractions, random_fractions

__all__ = [
    "SAMPLE_SET",
    "Instance",
    "Sampler",
    "array_source",
    "meanings",
    "wide_integers",
    "with_corner",
    "with_entries",
]

Instance = dict[str, Any]
Sampler = Callable[[int], Instance]  # makes an instance from a seed

SAMPLE_SET = 1 << 40  # numbers that an identity test draws each entry from: |S| of Schwartz and Zippel


def meanings(glossary: Mapping[str, str], names: str) -> dict[str, str]:
    """Return the entries of these names, which are set apart by blanks, of a family's glossary.

    >>> meanings({"L": "smoothness", "x0": "start, (D,)"}, "x0")
    {'x0': 'start, (D,)'}
    """
    return {name: glossary[name] for name in names.split()}


def with_entries(sampler: Sampler, **changes: Any) -> Sampler:
    """Return a sampler of instances with some entries replaced; a callable is given the instance.

    >>> with_entries(lambda seed: {"n": seed, "c": 1}, c=lambda x: x["n"] + 1)(4)
    {'n': 4, 'c': 5}
    """

    def sample(seed: int) -> Instance:
        instance = sampler(seed)
        return instance | {k: v(instance) if callable(v) else v for k, v in changes.items()}

    return sample


def with_corner(sampler: Sampler, corner: Sampler) -> Sampler:
    """Return a sampler whose first of every eight instances is the corner.

    >>> [with_corner(lambda seed: {"n": seed}, lambda seed: {"n": -1})(seed)["n"] for seed in (0, 1, 8)]
    [-1, 1, -1]
    """
    return lambda seed: sampler(seed) if seed % 8 else corner(seed)


def wide_integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return integers drawn evenly from `SAMPLE_SET` values, as fractions: points of an identity test."""
    return as_fractions(rng.integers(-SAMPLE_SET // 2, SAMPLE_SET // 2, shape))


def array_source(
    seed: int, wide: bool = False, *, top: int = 3, bottom: int = 2, offset: Any = Fraction(1, 5)
) -> Callable[..., np.ndarray]:
    """Return a source of random arrays by shape: small fractions, or wide integers.

    Args:
        seed: of the draws.
        wide: for the points of an identity test.
        top: largest numerator of the small fractions.
        bottom: their largest denominator.
        offset: added to the small ones; by default it keeps them from being 0.
    """
    rng = np.random.default_rng(seed)
    if wide:
        return lambda *shape: wide_integers(rng, *shape)
    return lambda *shape: random_fractions(rng, *shape, top=top, bottom=bottom) + offset
