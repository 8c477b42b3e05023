"""Hashed projections: every parameter is a signed copy, or a mixture, of few coordinates of delta."""

from __future__ import annotations

from typing import ClassVar

from deltatheory.projections.windows import WindowHash

__all__ = ["Hashed", "HashedPlain"]


class Hashed(WindowHash):
    """Hashing and a 64-point Hadamard matrix on every run of 64 parameters: the default.

    Each parameter mixes up to 64 coordinates of delta, which spreads the few heavy parameters of a spiky gradient as a
    dense P does, at nearly the price of plain hashing. The D mod 64 last parameters are hashed plainly.
    Exactly isometric, nested where one d divides the other and both are at most 2^14 (or share the power of two above).

    Source: Uni-LoRA (Li et al., 2025) for the one-hot hash, Ailon and Chazelle (2009) for the Hadamard mixing.
    """

    name: ClassVar[str] = "hashed"

    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=seed, points=64, weighted=True)


class HashedPlain(WindowHash):
    """Hashing with s non-zeros a row; s = 1, one coordinate a parameter, is the form of Uni-LoRA (Li et al., 2025).

    Where one parameter in a hundred carries most of the gradient, s = 1 spans a poorer subspace: in a least-squares
    trial its loss was up to 45 % above a Gaussian's at the same d. Prefer `Hashed` unless speed is all.
    Exactly isometric and nested as `Hashed` is.

    Args:
        d: dimension of the subspace.
        D: dimension of the space.
        seed: of the random numbers.
        s: 1, 2, 4, ... or 64; mixing is an s-point Hadamard matrix, so the isometry stays exact.

    Raises:
        ValueError: s is not one of these.
    """

    name: ClassVar[str] = "hashed-plain"

    def __init__(self, d: int, D: int, *, seed: int, s: int = 1) -> None:
        if s not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"s={s}: the non-zeros a row are a power of two from 1 to 64.")
        super().__init__(d, D, seed=seed, points=s, weighted=s > 1, s=s)
