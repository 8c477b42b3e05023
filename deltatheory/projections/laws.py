"""The laws of a projection, as one call for a construction of your own: `check_projection(MyProjection)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from scipy.optimize import brentq
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.projections.base import Projection

__all__ = ["LawBroken", "LawReport", "check_projection", "subspace_quality"]

Factory = Callable[..., Projection]
Layout = Literal["scattered", "run", "channel"]

# One coordinate; a perfect square; d more than a run of 64; D with a last block of odd length.
_SIZES = ((1, 100), (9, 1000), (80, 2000), (16, 4099))


class LawBroken(AssertionError):
    """A projection breaks a law; the message begins with the name of the law."""


@dataclass(frozen=True)
class LawReport:
    """What `check_projection` measured, the worst over its sizes.

    Attributes:
        adjoint_error: largest |P - (P^T)^T| against the largest entry of P.
        isometry_error: spectral norm of P^T P - I.
        condition: largest over smallest singular value, at the sizes with 40 d <= D.
        lightest_row: smallest squared norm of a row against the mean one.
        quality: least `subspace_quality` over the layouts, None where d = D alone was asked for.

    """

    adjoint_error: float
    isometry_error: float
    condition: float
    lightest_row: float
    quality: float | None


def check_projection(factory: Factory, sizes: Sequence[tuple[int, int]] = _SIZES) -> LawReport:
    """Hold a projection to the laws; the first broken one raises.

    In float64: `adjoint` is the transpose of `apply` to 1e-6; `apply` is linear, writes into `out` and adds
    `base`; the same seed gives the same bits and another seed another subspace; columns have length 1
    whatever d is; every parameter moves; P^T P - I keeps to `isometry`, and P is well conditioned; `lift`
    is exact; float32 agrees.

    Args:
        factory: makes a projection from (d, D, seed=...), for instance its class.
        sizes: pairs (d, D), all D at most a few thousand: the laws look at P as a matrix.

    Raises:
        LawBroken: a law does not hold.

    """
    reports = [_check_size(factory, d, D) for d, D in sizes]
    quality = None
    if any(d < D for d, D in sizes):
        quality = min(subspace_quality(factory, *get_args(Layout)).values())
        _law("subspace quality", quality > 0.5, f"as good as a Gaussian of {quality:.2f} d dimensions")
    adjoint, isometry, condition, lightest = zip(*reports, strict=True)
    return LawReport(max(adjoint), max(isometry), max(condition), min(lightest), quality)


def subspace_quality(factory: Factory, *layouts: Layout, seeds: int = 10) -> dict[Layout, float]:
    """Effective d over d, against dense Gaussian columns, where few parameters carry the whole gradient.

    60 of 8192 parameters are heavy, with eigenvalues 1 / i. The least squares loss within the subspace,
    averaged over seeds, is read off the Gaussian theory sum_i k / (lambda_i + k) with sum_i lambda_i /
    (lambda_i + k) = d (Derezinski et al., 2020). A Gaussian gives 1 up to a few percent of noise; one-hot
    hashing about 0.8.

    Args:
        factory: makes a projection from (d, D, seed=...).
        layouts: heavy parameters at random ("scattered"), next to one another, or 128 apart; each in the
            same subspaces.
        seeds: how many subspaces.

    """
    heavy, d, D = 60, 36, 1 << 13
    eigenvalues = 1 / torch.arange(1, heavy + 1, dtype=torch.float64)
    losses: dict[Layout, list[float]] = {layout: [] for layout in layouts}
    for seed in range(seeds):
        projection = factory(d, D, seed=seed)
        matrix = torch.stack([projection.apply(column) for column in torch.eye(d, dtype=torch.float64)], 1)
        for layout, found in losses.items():
            generator = torch.Generator().manual_seed(seed)
            places = _places(layout, heavy, D, generator)
            # Signs, so that a map that ties parameters does not fit a constant residual by luck.
            residual = 1.0 - 2.0 * torch.randint(0, 2, (heavy,), generator=generator).double()
            basis = torch.linalg.svd(eigenvalues.sqrt()[:, None] * matrix[places], full_matrices=False)
            kept = basis.U[:, 1e-9 * basis.S[0] < basis.S]
            found.append(heavy - float((kept.T @ residual).square().sum()))
    return {layout: _gaussian_dimension(eigenvalues, sum(x) / seeds) / d for layout, x in losses.items()}


def _gaussian_dimension(eigenvalues: Float[Tensor, " n"], loss: float) -> float:
    """Find the d at which Gaussian columns reach a loss, from residuals of size 1."""

    def excess(log_k: float) -> float:
        k = torch.tensor(log_k, dtype=torch.float64).exp()
        return (k / (eigenvalues + k)).sum().item() - loss

    k = torch.tensor(brentq(excess, -60.0, 60.0), dtype=torch.float64).exp()
    return (eigenvalues / (eigenvalues + k)).sum().item()


def _places(layout: Layout, heavy: int, D: int, generator: torch.Generator) -> Int[Tensor, " heavy"]:
    if layout == "scattered":
        return torch.randperm(D, generator=generator)[:heavy]
    stride = 1 if layout == "run" else 128
    first = torch.randint(0, D - stride * (heavy - 1), (1,), generator=generator)
    return first + stride * torch.arange(heavy)


def _check_size(factory: Factory, d: int, D: int) -> tuple[float, float, float, float]:
    projection, again, other = factory(d, D, seed=1), factory(d, D, seed=1), factory(d, D, seed=2)
    where = f"d={d}, D={D}"
    unit = torch.eye(d, dtype=torch.float64)
    matrix = torch.stack([projection.apply(column) for column in unit], dim=1)
    largest = matrix.abs().max()

    x, y = _vector(d, 1), _vector(D, 2)
    picked = torch.randperm(D, generator=torch.Generator().manual_seed(3))[:60]
    picked = torch.cat([picked, torch.tensor([0, D - 1])])
    zero = torch.zeros_like(y)
    transposed = torch.stack([projection.adjoint(zero.index_fill(0, row, 1.0)) for row in picked])
    adjoint_error = ((matrix[picked] - transposed).abs().max() / largest).item()
    _law("adjoint", adjoint_error < 1e-6, f"relative error {adjoint_error:.1e} at {where}")
    _law(
        "linearity",
        _near(projection.apply(x), matrix @ x),
        f"apply(x) is not sum_j x_j apply(e_j) at {where}",
    )
    _law("linearity", _near(projection.adjoint(y), matrix.T @ y), f"adjoint is not linear at {where}")
    _check_storage(projection, x, y, where)
    single = projection.apply(x.float()).double()
    _law("float32", _near(single, matrix @ x, 1e-5), f"float32 differs from float64 at {where}")

    same = torch.equal(again.apply(x), projection.apply(x)) and torch.equal(
        again.adjoint(y), projection.adjoint(y)
    )
    _law("seed", same, f"the same seed gives another map at {where}")
    if d < D:
        differ = torch.stack([other.apply(column) for column in unit], dim=1)
        overlap = _overlap(matrix, differ)
        _law("seed", overlap < (1 + d / D) / 2, f"seeds 1 and 2 share {overlap:.0%} of a subspace at {where}")

    rows = matrix.square().sum(1)
    lightest = (rows.min() / rows.mean()).item()
    _law("moved", lightest > 1e-15, f"parameter {int(rows.argmin())} never moves at {where}")
    spectrum = torch.linalg.svdvals(matrix)
    isometry_error = (spectrum.square() - 1).abs().max().item()
    bound = projection.isometry
    _law(
        "isometry",
        isometry_error < bound + 1e-6,
        f"|P^T P - I| = {isometry_error:.2g} > {bound:.2g} at {where}",
    )
    condition = 1.0
    if max(1000, 40 * d) <= D:
        mean = spectrum.square().mean().item()
        _law("norm", abs(mean - 1) < 0.25, f"mean squared length of a column is {mean:.2g} at {where}")
        condition = (spectrum[0] / spectrum[-1]).item()
        _law("conditioning", condition < 2, f"condition {condition:.2g} at {where}")
    if projection.nested and 2 * d <= D and d % 16 == 0:
        larger = factory(2 * d, D, seed=1)
        lifted = larger.apply(projection.lift(x, larger))
        _law("nesting", _near(lifted, matrix @ x), f"lift(delta) is another point at {where}")
    return adjoint_error, isometry_error, condition, lightest


def _check_storage(projection: Projection, x: Tensor, y: Tensor, where: str) -> None:
    out, expected = torch.full_like(y, torch.nan), projection.apply(x) + y
    base = y.clone()
    returned = projection.apply(x, out, base)
    _law("storage", returned is out and _near(out, expected), f"out is not base + P delta at {where}")
    _law("storage", torch.equal(base, y), f"apply changed base at {where}")
    _law(
        "storage",
        _near(projection.apply(x, base, base), expected),
        f"out = base gives another value at {where}",
    )
    fresh = projection.apply(x, torch.full_like(y, torch.nan))
    _law("storage", _near(fresh + y, expected), f"out keeps old values without base at {where}")


def _overlap(one: Tensor, two: Tensor) -> float:
    """Mean squared cosine between two column spaces: about d / D for independent ones."""
    return (torch.linalg.qr(one).Q.T @ torch.linalg.qr(two).Q).square().sum().item() / one.shape[1]


def _vector(length: int, seed: int) -> Tensor:
    return torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _near(value: Tensor, expected: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((value - expected).norm() <= tolerance * expected.norm())


def _law(name: str, holds: bool, finding: str) -> None:
    if not holds:
        raise LawBroken(f"{name}: {finding}.")
