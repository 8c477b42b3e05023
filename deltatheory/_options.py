"""Options that are written as NAME=VALUE."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["check_finite", "options_of"]


def options_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Return NAME=VALUE pairs as arguments; a value is JSON where it can be, else a text.

    >>> options_of(["r=8", 'targets=["query"]', "gate=none"])
    {'r': 8, 'targets': ['query'], 'gate': 'none'}
    """
    options: dict[str, Any] = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"option={pair!r}: must be NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
        check_finite(f"option {pair!r}: {name}", options[name])
    return options


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)


def check_finite(name: str, value: Any) -> None:
    """Refuse a value that has NaN or an infinity anywhere.

    Raises:
        ValueError: that names it.
    """
    for number in _numbers(value):
        if not math.isfinite(number):
            raise ValueError(f"{name}={number}: must be finite.")
