"""Settings of a solver, held against the annotations of its dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from deltatheory._numbers import check_number

__all__ = ["check_settings"]

_NUMBERS = {float: (Real, "a number"), int: (Integral, "a whole number")}


def check_settings(solver: Any, positive: Iterable[str] = ()) -> None:
    """Refuse settings that are not of their declared types or out of range.

    Where a tuple is declared a list is as good: JSON has no tuples.

    Args:
        solver: an instance of a dataclass.
        positive: names of settings that must be above 0 where they are numbers; an energy weight must be at
            least 0, and all must be finite.

    Raises:
        ValueError: for the first setting that does not fit; it says what is allowed.
    """
    hints = _hints(type(solver))
    for field in fields(solver):
        name, value = field.name, getattr(solver, field.name)
        if not _fits(value, hints[name]):
            raise ValueError(f"{name}={value!r}: allowed is {_text(hints[name])}.")
        if isinstance(value, Real) and not isinstance(value, bool):
            above, least = (0 if name in positive else None), (0 if name == "energy_weight" else None)
            check_number(name, value, above=above, least=least)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint][0]) and not isinstance(value, bool)
    return isinstance(value, hint)


def _text(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_text, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"({', '.join('...' if part is Ellipsis else _text(part) for part in parts)})"
    if hint is NoneType:
        return "None"
    return _NUMBERS[hint][1] if hint in _NUMBERS else hint.__name__
