"""Every construction keeps every law, and a projection that breaks one is caught."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_cases import CASES, EXACT, NESTED, SUBSPACES

from deltatheory.projections import PROJECTIONS
from deltatheory.projections.gaussian import Gaussian
from deltatheory.projections.hashed import Hashed, HashedPlain
from deltatheory.projections.laws import LawBroken, check_projection, subspace_quality


def vector(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_construction_has_an_example() -> None:
    assert all(kind.examples for kind in PROJECTIONS.values())


@pytest.mark.parametrize("name", CASES)
def test_laws(name: str) -> None:
    report = check_projection(CASES[name], **({} if name in SUBSPACES else {"sizes": ((1, 1), (64, 64))}))
    assert report.adjoint_error < 1e-12
    if name in EXACT:
        assert report.isometry_error < 1e-12


@pytest.mark.parametrize("name", SUBSPACES)
@pytest.mark.parametrize(
    ("d", "D"), [(1, 1), (1, 2), (3, 3), (63, 63), (64, 64), (65, 130), (100, 100), (1000, 9001)]
)
def test_shapes_at_the_edges(name: str, d: int, D: int) -> None:
    projection = CASES[name](d, D, seed=5)
    x, y = vector(d), vector(D, 1)
    image = projection.apply(x)
    assert abs(image @ y - x @ projection.adjoint(y)) <= 1e-9 * image.norm() * y.norm()
    assert (image != 0).all()
    if name in EXACT:
        assert torch.allclose(projection.adjoint(image), x, atol=1e-12)


@pytest.mark.parametrize("name", SUBSPACES)
def test_adjoint_across_many_blocks(name: str) -> None:
    # More than one block of the CPU's 2^16, an odd rest, float32; d above the least number of slots for
    # hashing.
    d, D = (40, 131_072 + 4096 + 77) if name in ("gaussian", "sparse") else (20_000, 140_003)
    projection = CASES[name](d, D, seed=3)
    x, y = vector(d).float(), vector(D, 1).float()
    image, back = projection.apply(x).double(), projection.adjoint(y).double()
    assert abs(image @ y.double() - x.double() @ back) <= 1e-6 * image.norm() * y.double().norm()
    assert torch.allclose(projection.apply(x, base=y).double(), image + y, atol=1e-5)


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize(("d", "larger"), [(16, 32), (16, 160), (64, 64)])
def test_lift_moves_nothing(name: str, d: int, larger: int) -> None:
    small, big = CASES[name](d, 30_000, seed=7), CASES[name](larger, 30_000, seed=7)
    x = vector(d)
    assert torch.allclose(big.apply(small.lift(x, big)), small.apply(x), atol=1e-12)


def test_nested_is_said_truly() -> None:
    assert {name for name in SUBSPACES if CASES[name](8, 100, seed=0).nested} == set(NESTED)


@pytest.mark.parametrize("name", SUBSPACES)
def test_linear_operator_is_p(name: str) -> None:
    projection = CASES[name](12, 500, seed=2)
    operator = projection.linear_operator()
    x, y = vector(12), vector(500, 1)
    assert operator.shape == (500, 12)
    np.testing.assert_allclose(operator @ x.numpy(), projection.apply(x), rtol=0, atol=1e-12)
    np.testing.assert_allclose(operator.T @ y.numpy(), projection.adjoint(y), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(D=st.integers(1, 6000), share=st.floats(0, 1), seed=st.integers(0, 2**70))
def test_hashing_is_isometric_at_any_size(D: int, share: float, seed: int) -> None:
    d = max(1, int(share * D))
    projection = Hashed(d, D, seed=seed)
    x = vector(d)
    assert torch.allclose(projection.adjoint(projection.apply(x)), x, atol=1e-10)


def test_gaussian_is_its_own_theory() -> None:
    assert subspace_quality(Gaussian, "scattered") == {"scattered": pytest.approx(1.0, abs=0.08)}


def test_mixing_mends_what_one_hot_hashing_loses() -> None:
    plain, mixed = (
        subspace_quality(p, "scattered", "run", "channel", seeds=30) for p in (HashedPlain, Hashed)
    )
    assert max(plain.values()) < 0.9 < min(mixed.values())


class ScaledAdjoint(Gaussian):
    def _gather(self, gradient: torch.Tensor) -> torch.Tensor:
        return super()._gather(gradient) / 1024


class GrowingNorm(Gaussian):
    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        super()._write(delta * self.d**0.5, out, base)

    def _gather(self, gradient: torch.Tensor) -> torch.Tensor:
        return super()._gather(gradient) * self.d**0.5

    isometry = property(lambda self: 1e9)


class FrozenRows(Gaussian):
    """As `rdkron` for d a perfect square: the D - isqrt(D)^2 left-over rows are zero."""

    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        base = None if base is None else base.clone()
        super()._write(delta, out, base)
        cut = int(self.D**0.5) ** 2
        out[cut:] = 0 if base is None else base[cut:]

    def _gather(self, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[int(self.D**0.5) ** 2 :] = 0
        return super()._gather(gradient)


class SharedSubspace(Gaussian):
    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=0)


class GlobalSeed(Gaussian):
    def __init__(self, d: int, D: int, *, seed: int) -> None:
        super().__init__(d, D, seed=int(torch.randint(1 << 30, ())))


class FreshVector(Gaussian):
    def apply(self, delta, out=None, base=None):
        return super().apply(delta, None, base)


class DropsBase(Gaussian):
    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        super()._write(delta, out, None)


class FalseCertificate(Gaussian):
    isometry = property(lambda self: 1e-3)


class Unequal(Gaussian):
    """Condition 4, as for the unorthonormalised Kronecker of rkron."""

    def scale(self, like: torch.Tensor) -> torch.Tensor:
        return torch.linspace(0.4, 1.6, self.d, dtype=like.dtype) if self.d > 1 else torch.ones_like(like[:1])

    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        super()._write(delta * self.scale(delta), out, base)

    def _gather(self, gradient: torch.Tensor) -> torch.Tensor:
        return super()._gather(gradient) * self.scale(gradient)

    isometry = property(lambda self: 1e9)


class FalseNesting(Gaussian):
    def _lift(self, delta: torch.Tensor, larger: Gaussian) -> torch.Tensor:
        return delta.repeat_interleave(larger.d // self.d)


class Affine(Gaussian):
    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        super()._write(delta.abs(), out, base)


class HalfPrecision(Gaussian):
    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        super()._write(delta.half().to(delta) if delta.dtype == torch.float32 else delta, out, base)


class OneDirection(HashedPlain):
    """Exactly isometric, but a run of 128 parameters shares one coordinate."""

    def _write(self, delta: torch.Tensor, out: torch.Tensor, base: torch.Tensor | None) -> None:
        values = delta.index_select(0, torch.arange(self.D) // 128 % self.d) / self.count
        out.copy_(values if base is None else base + values)

    def _gather(self, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.new_zeros(self.d).index_add_(0, torch.arange(self.D) // 128 % self.d, gradient)
        return total / self.count

    @property
    def count(self) -> float:
        return (self.D / self.d) ** 0.5

    isometry = property(lambda self: 1e9)


MUTANTS = {
    ScaledAdjoint: "adjoint",
    GrowingNorm: "norm",
    FrozenRows: "moved",
    SharedSubspace: "seed",
    GlobalSeed: "seed",
    FreshVector: "storage",
    DropsBase: "storage",
    FalseCertificate: "isometry",
    Unequal: "conditioning",
    FalseNesting: "nesting",
    Affine: "linearity",
    HalfPrecision: "float32",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_broken_projection_is_rejected(mutant: type) -> None:
    with pytest.raises(LawBroken, match=f"^{MUTANTS[mutant]}:"):
        check_projection(mutant)


def test_a_poor_subspace_is_rejected() -> None:
    assert subspace_quality(OneDirection, "run")["run"] < 0.5
