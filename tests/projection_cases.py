"""The constructions every law is tested on: add a row for a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deltatheory.projections import Projection, make_projection

NESTED = ("hashed", "hashed-plain", "hashed-plain s=4", "srdct", "srht", "fastfood", "sparse", "gaussian")
EXACT = ("hashed", "hashed-plain", "hashed-plain s=4", "srdct", "srht", "identity")

CASES: dict[str, Callable[..., Projection]] = {
    "hashed": partial(make_projection, "hashed"),
    "hashed-plain": partial(make_projection, "hashed-plain"),
    "hashed-plain s=4": partial(make_projection, "hashed-plain", s=4),
    "srdct": partial(make_projection, "srdct"),
    "srht": partial(make_projection, "srht"),
    "kronecker": partial(make_projection, "kronecker"),
    "fastfood": partial(make_projection, "fastfood"),
    "sparse": partial(make_projection, "sparse"),
    "gaussian": partial(make_projection, "gaussian"),
    "identity": partial(make_projection, "identity"),
}
SUBSPACES = [name for name in CASES if name != "identity"]
