"""Faults of public implementations, each as a test that ours does not have it."""

from __future__ import annotations

import math

import pytest
import torch
from projection_cases import CASES, EXACT, SUBSPACES

from deltatheory.projections import PROJECTIONS, make_projection
from deltatheory.projections.hashed import Hashed
from deltatheory.projections.sparse import Sparse


def vector(length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(length, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SUBSPACES)
@pytest.mark.parametrize("D", [768, 1024, 30_000])
def test_adjoint_not_off_by_block_length(name: str, D: int) -> None:
    # Compacter's Fastfood: <x, P^T g> / <P x, g> is 2^-10 at D = 768 and 2^-20 at D = 589,824.
    projection = CASES[name](20, D, seed=1)
    x = vector(20)
    image = projection.apply(x)
    assert x @ projection.adjoint(image) == pytest.approx((image @ image).item(), rel=1e-9)


@pytest.mark.parametrize("name", SUBSPACES)
def test_norm_independent_of_d(name: str) -> None:
    # tight-pac-bayes' Fastfood: |Px| / |x| is .51 at d = 100 and .25 at d = 130, for D = 12,345.
    ratios = []
    for d in (10, 100, 130, 1000):
        x = vector(d, d)
        ratios.append((CASES[name](d, 12_345, seed=1).apply(x).norm() / x.norm()).item())
    assert ratios == pytest.approx([1.0] * 4, abs=1e-9 if name in EXACT else 0.12)


@pytest.mark.parametrize("name", SUBSPACES)
@pytest.mark.parametrize("d", [100, 121])
def test_no_row_frozen_when_d_is_a_perfect_square(name: str, d: int) -> None:
    # tight-pac-bayes' rdkron: D - isqrt(D)^2 parameters, 24 of 12,345, never move.
    projection = CASES[name](d, 12_345, seed=1)
    moved = sum(projection.apply(vector(d, seed)).abs() for seed in range(3))
    assert moved.min() > 1e-6 * moved.mean()


def test_no_row_frozen_when_columns_are_sparse() -> None:
    # Columns of density 1 / sqrt(D) leave exp(-d / sqrt D) of the parameters still: 36 % here.
    assert (Sparse(100, 10_000, seed=0).apply(vector(100)) != 0).all()


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["hashed", "hashed-plain s=4", "srdct", "srht"])
def test_no_row_frozen_by_cancelling_copies(name: str, d: int) -> None:
    # Equal weights: the 64 signed copies of one coordinate in a window cancel in one parameter of ten.
    projection = CASES[name](d, 70_001, seed=0)
    rows = sum(projection.apply(unit).square() for unit in torch.eye(d, dtype=torch.float64))
    assert rows.min() > 1e-12 * rows.mean()


def test_weights_of_copies_are_independent_over_the_integers() -> None:
    def square_free(n: int) -> int:
        for k in range(2, math.isqrt(n) + 1):
            while n % k**2 == 0:
                n //= k**2
        return n

    assert len({square_free(449 + 2 * j) for j in range(64)}) == 64


@pytest.mark.parametrize("name", SUBSPACES)
def test_repeats_do_not_share_a_subspace(name: str) -> None:
    # The scripts of Li et al. pass no seed to their repeats, so all three train in one subspace.
    one, two = CASES[name](50, 5000, seed=0), CASES[name](50, 5000, seed=1)
    cosine = torch.stack([two.adjoint(one.apply(unit)) for unit in torch.eye(50, dtype=torch.float64)])
    assert cosine.square().sum() / 50 < 0.05


@pytest.mark.parametrize("name", SUBSPACES)
def test_global_generator_is_left_alone(name: str) -> None:
    # A context manager around torch's generator gives another P on a GPU, and after any other draw.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = CASES[name](10, 1000, seed=3).apply(vector(10))
    torch.rand(5)
    assert torch.equal(CASES[name](10, 1000, seed=3).apply(vector(10)), first)
    torch.manual_seed(0)
    CASES[name](10, 1000, seed=3).apply(vector(10))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SUBSPACES)
def test_apply_writes_into_storage_anywhere(name: str) -> None:
    # The model's own parameters begin at any offset of one flat buffer.
    projection = CASES[name](20, 3001, seed=1)
    buffer, x = torch.full((3010,), 7.0, dtype=torch.float64), vector(20)
    out = buffer[3:3004]
    assert projection.apply(x, out=out) is out
    assert torch.equal(out, projection.apply(x))
    assert torch.allclose(projection.adjoint(out), projection.adjoint(out.clone()), atol=1e-12)
    assert (buffer[:3] == 7).all()
    assert (buffer[3004:] == 7).all()


@pytest.mark.parametrize("name", SUBSPACES)
def test_stored_memory_does_not_grow_like_a_matrix(name: str) -> None:
    # 8 to 400 bytes a parameter in the public implementations, 27 to 34 for Fastfood.
    projection = CASES[name](100, 1_000_000, seed=0)
    projection.apply(vector(100))
    held = projection._state[1] if projection._state else ()
    tensors = [held] if isinstance(held, torch.Tensor) else held
    assert sum(t.numel() * t.element_size() for t in tensors) < 2 * 1_000_000


def test_buckets_split_when_d_doubles() -> None:
    # Uni-LoRA in PEFT reshuffles every parameter when d changes, so no run warm-starts another.
    small, large = (make_projection("hashed-plain", d, 10_000, seed=0) for d in (32, 64))
    for j in range(32):
        unit = torch.zeros(32, dtype=torch.float64)
        unit[j] = 1.0
        halves = small.lift(unit, large)
        assert halves.nonzero().flatten().tolist() == [2 * j, 2 * j + 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": 0, "D": 10}, "d=0"),
        ({"d": 11, "D": 10}, "d=11"),
        ({"d": 1, "D": 0}, "D=0"),
        ({"d": 1, "D": 10, "seed": -1}, "seed=-1"),
        ({"name": "hashed-plain", "d": 1, "D": 10, "s": 3}, "s=3"),
        ({"name": "sparse", "d": 1, "D": 10, "s": 0}, "s=0"),
        ({"name": "identity", "d": 1, "D": 10}, "d=1"),
        ({"name": "hash", "d": 1, "D": 10}, "name='hash'.*hashed"),
        ({"d": 1, "D": 10, "s": 2}, "s=2.*no options"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_projection(**{"name": "hashed", "seed": 0, **arguments})


def test_bad_vectors_are_named() -> None:
    projection = Hashed(4, 100, seed=0)
    x, y = vector(4), vector(100)
    kronecker = [CASES["kronecker"](d, 100, seed=0) for d in (4, 8)]
    for message, call in {
        "out.stride": lambda: projection.apply(x, out=vector(200)[::2]),
        "base.dtype": lambda: projection.apply(x, base=y.float()),
        "delta.dtype": lambda: projection.apply(x.half()),
        "out.device": lambda: projection.apply(x, out=y.to("meta")),
        "larger=Hashed.*d only": lambda: projection.lift(x, Hashed(8, 100, seed=1)),
        "larger.d=6": lambda: projection.lift(x, Hashed(6, 100, seed=0)),
        "larger.d=2": lambda: projection.lift(x, Hashed(2, 100, seed=0)),
        "name='kronecker'": lambda: kronecker[0].lift(x, kronecker[1]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", CASES)
def test_repr_rebuilds(name: str) -> None:
    projection = CASES[name](9, 9, seed=4)
    rebuilt = eval(repr(projection), {kind.__name__: kind for kind in PROJECTIONS.values()})
    assert torch.equal(rebuilt.apply(vector(9)), projection.apply(vector(9)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SUBSPACES)
def test_a_gpu_has_the_same_p(name: str) -> None:
    projection, x, y = CASES[name](300, 70_001, seed=2), vector(300), vector(70_001, 1)
    on_gpu = CASES[name](300, 70_001, seed=2)
    assert torch.allclose(on_gpu.apply(x.cuda()).cpu(), projection.apply(x), atol=1e-7)
    assert torch.allclose(on_gpu.adjoint(y.cuda()).cpu(), projection.adjoint(y), atol=1e-7)
