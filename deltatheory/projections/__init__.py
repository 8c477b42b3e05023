"""Random linear maps P: R^d -> R^D for training in a subspace, theta = theta0 + P delta."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from deltatheory.projections.base import Projection
from deltatheory.projections.fastfood import Fastfood
from deltatheory.projections.gaussian import Gaussian
from deltatheory.projections.hashed import Hashed, HashedPlain
from deltatheory.projections.identity import Identity
from deltatheory.projections.kronecker import Kronecker
from deltatheory.projections.segments import PartialAdjoint, Segments
from deltatheory.projections.sparse import Sparse
from deltatheory.projections.srdct import SRDCT
from deltatheory.projections.srht import SRHT

__all__ = ["PROJECTIONS", "PartialAdjoint", "Projection", "Segments", "make_projection"]

PROJECTIONS: dict[str, type[Projection]] = {
    "hashed": Hashed,
    "hashed-plain": HashedPlain,
    "srdct": SRDCT,
    "srht": SRHT,
    "kronecker": Kronecker,
    "fastfood": Fastfood,
    "sparse": Sparse,
    "gaussian": Gaussian,
    "identity": Identity,
}


def make_projection(name: str, d: int, D: int, *, seed: int, **options: Any) -> Projection:
    """Make the projection of that name.

    Args:
        name: a key of `PROJECTIONS`.
        d: dimension of the subspace, 1 <= d <= D.
        D: dimension of the space.
        seed: of the random numbers, >= 0.
        options: what the construction takes beyond these; its docstring says.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed.

    PᵀP = I, so the adjoint undoes the map:

    >>> import torch
    >>> P = make_projection("hashed", 2, 128, seed=0)
    >>> [round(float(x), 4) for x in P.adjoint(P.apply(torch.tensor([3.0, 4.0])))]
    [3.0, 4.0]
    """
    if name not in PROJECTIONS:
        near = difflib.get_close_matches(name, PROJECTIONS, cutoff=0.4) or list(PROJECTIONS)
        raise ValueError(f"name={name!r}: no such projection; nearest: {', '.join(near)}.")
    allowed = [
        key for key in inspect.signature(PROJECTIONS[name]).parameters if key not in ("d", "D", "seed")
    ]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{option}={options[option]!r}: {name!r} takes {', '.join(allowed) or 'no options'}."
            )
    return PROJECTIONS[name](d, D, seed=seed, **options)
