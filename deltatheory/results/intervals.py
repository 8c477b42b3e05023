"""Intervals of shares."""

from __future__ import annotations

__all__ = ["wilson"]


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927).

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]

    Args:
        successes: 0 to trials.
        trials: at least 1.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: for numbers out of range.
    """
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)
