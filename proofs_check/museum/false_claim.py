"""What hangs in the museum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refutation:
    """A counterexample.

    Args:
        how: "exact" (rational arithmetic) or "intervals".
        witness: the instance.
        text: the instance and what it breaks, in words.

    """

    how: str
    witness: dict[str, Any]
    text: str


@dataclass(frozen=True)
class FalseClaim:
    """A false claim, where it was made, the theorem that holds instead, and a search for counterexamples."""

    statement: str
    source: str
    instead: str
    search: Callable[[], Refutation | None]
