"""Texts of two kinds, for contrasts."""

from __future__ import annotations

import numpy as np


def texts(count: int = 48, seed: int = 0) -> tuple[list[str], list[bool]]:
    """Texts of the first letters and, the target, of the last."""
    rng = np.random.default_rng(seed)
    target = [bool(i % 2) for i in range(count)]
    letters = [rng.choice(list("nop" if t else "abc"), 3 + i % 4) for i, t in enumerate(target)]
    return [" ".join(x) for x in letters], target
