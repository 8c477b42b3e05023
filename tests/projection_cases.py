"""Every example of every construction, by a name such as "hashed-plain s=4"."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deltatheory.projections import PROJECTIONS, Projection, make_projection

CASES: dict[str, Callable[..., Projection]] = {
    " ".join([name, *(f"{key}={value}" for key, value in options.items())]): partial(
        make_projection, name, **options
    )
    for name, kind in PROJECTIONS.items()
    for options in kind.examples
}


def _of_less_than_all(case: str) -> bool:
    try:
        CASES[case](8, 100, seed=0)
    except ValueError:
        return False
    return True


SUBSPACES = [case for case in CASES if _of_less_than_all(case)]
NESTED = [case for case in SUBSPACES if CASES[case](8, 100, seed=0).nested]
# P^T P = I, but for rounding, at a D that is prime too.
EXACT = [case for case in CASES if CASES[case](8 if case in SUBSPACES else 9001, 9001, seed=0).isometry == 0]
