"""Numbers as arguments: what is no number, not finite or out of range is refused by name, before any work."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["check_number"]


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    above: int | float | None = None,
    least: int | float | None = None,
    most: int | float | None = None,
) -> None:
    """Refuse what is not a finite number in a range; True and False are no numbers.

    >>> check_number("steps", 0, whole=True, least=1)
    Traceback (most recent call last):
    ...
    ValueError: steps=0: must be at least 1.
    >>> check_number("steps", 2.5, whole=True, least=1)
    Traceback (most recent call last):
    ...
    ValueError: steps=2.5: must be a whole number, at least 1.

    Args:
        name: of the argument.
        value: given.
        whole: whether only whole numbers are allowed.
        above: the number must be larger.
        least: the number must be as large.
        most: the number must not be larger.

    Raises:
        ValueError: with the argument, the value and what is allowed.
    """
    bounds = (("above", above), ("at least", least), ("at most", most))
    limits = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    number: Any = value if isinstance(value, Integral if whole else Real) else None
    if number is None or isinstance(value, bool):
        allowed = ", ".join(part for part in ("a whole number" if whole else "a number", limits) if part)
    elif not math.isfinite(number):
        allowed = ", and ".join(part for part in (limits, "finite") if part)
    elif (
        (above is not None and not number > above)
        or (least is not None and not number >= least)
        or (most is not None and not number <= most)
    ):
        allowed = limits
    else:
        return
    raise ValueError(f"{name}={value!r}: must be {allowed}.")
