"""Folds: which examples are held out together, wherever something is judged on examples it has not seen."""

from __future__ import annotations

__all__ = ["folds"]


def folds(examples: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Return (kept, held out) for each of `count` folds, or for each example where there are fewer.

    Neighbours go to different folds: in a stratified order classes stay balanced.

    Args:
        examples: how many there are.
        count: of the folds.

    >>> folds(5, 2)
    [([1, 3], [0, 2, 4]), ([0, 2, 4], [1, 3])]
    """
    count = min(count, examples)
    return [
        ([i for i in range(examples) if i % count != k], list(range(k, examples, count)))
        for k in range(count)
    ]
