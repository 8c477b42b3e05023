"""Instances that meet all hypotheses as coded satisfy the theorem, whatever is done to their entries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import is_dataclass
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest

from deltatheory.theorems import THEOREMS
from deltatheory.theorems.exact import map_numbers

REFUSED = (ValueError, ZeroDivisionError, IndexError, TypeError, OverflowError)
NUMBERS = (lambda x: -x, lambda x: 2 * x, lambda x: x + 1)  # of losses, and of lists of numbers


def spoiled(value: object) -> Iterator[object]:
    """An entry with its sign flipped, scaled, dropped to zero, moved, or put in another order."""
    if isinstance(value, bool | np.bool_):
        yield not value
    elif isinstance(value, int):
        yield from (-value, value + 1, value - 1, 0)
    elif isinstance(value, Fraction):
        yield from (-value, 2 * value, value / 2, value * 0, -value - 1)
    elif isinstance(value, np.ndarray) and value.size:
        yield from (-value, 2 * value, value / 2, value * 0, value[::-1])
        if value.ndim == 2 and value.shape[0] == value.shape[1] > 1:
            yield value.T
            skew = value.copy()
            skew[0, 1] = skew[0, 1] + 3
            yield skew
    elif isinstance(value, list | tuple) and value:
        kind = type(value)
        yield kind(value[::-1])
        if all(isinstance(entry, np.ndarray) for entry in value):
            yield from (kind(-entry for entry in value), kind(2 * entry for entry in value))
        elif any(isinstance(entry, Fraction) for entry in value):
            yield from (map_numbers(change, value) for change in NUMBERS)


def remade(value: object) -> Iterator[object]:
    """A loss with all its numbers changed alike, where there is one."""
    for change in NUMBERS if is_dataclass(value) else ():
        with suppress(ValueError):
            yield map_numbers(change, value)


@pytest.mark.parametrize("theorem", THEOREMS.values(), ids=lambda theorem: theorem.id)
def test_no_entry_can_be_spoiled_unnoticed(theorem) -> None:
    broken = []
    for source in filter(None, (theorem.sampler, theorem.extremal)):
        instance = source(1)
        for name in theorem.entries:
            for value in chain(spoiled(instance[name]), remade(instance[name])):
                try:
                    changed = instance | {name: value}
                    if not theorem.unmet(changed) and theorem.check(changed, exact=True).holds is False:
                        broken.append((name, instance[name], value))
                except REFUSED:
                    continue
    assert broken == []
