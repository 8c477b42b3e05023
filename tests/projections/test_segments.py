"""Any cut of R^D gives the same P: its reads are P δ, and its sums Pᵀ g."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projection_cases import CASES, SUBSPACES

from deltatheory.projections import Projection, make_projection
from deltatheory.projections.segments import Segments


def vector(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def read(projection: Projection, delta: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    segments = projection.segments(delta)
    return torch.cat([segments.read(a, b) for a, b in pairwise(cuts)])


def add(projection: Projection, gradients: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    sums = projection.partial_adjoint(len(gradients), gradients)
    for a, b in reversed(list(pairwise(cuts))):
        sums.add(a, gradients[:, a:b])
    return sums.total()


# A multiple of 64 and not, an end in the middle of a run, within one, nothing, and the tail of D mod 64.
CUTS = [0, 64, 100, 110, 110, 192, 4096 + 17, 8192, 8999, 9001]


@pytest.mark.parametrize("name", CASES)
def test_any_cut_gives_the_same_map(name: str) -> None:
    d = 300 if name in SUBSPACES else 9001
    projection = CASES[name](d, 9001, seed=3)
    delta, gradients = vector(d), vector(2, 9001, seed=1)
    assert torch.equal(read(projection, delta, CUTS), projection.apply(delta))
    base = vector(9001, seed=2).bfloat16()
    moved = projection.segments(delta).read(100, 8000, base[100:8000])
    assert torch.equal(moved, projection.apply(delta, base=base.double())[100:8000])
    expected = torch.stack([projection.adjoint(gradient) for gradient in gradients])
    assert torch.allclose(add(projection, gradients, CUTS), expected, atol=1e-12)
    # What is not added counts as zero, what is added twice twice.
    some = projection.partial_adjoint(1, delta)
    for _ in range(2):
        some.add(100, gradients[:1, 100:7000])
    only = torch.zeros_like(gradients[0])
    only[100:7000] = 2 * gradients[0, 100:7000]
    assert torch.allclose(some.total()[0], projection.adjoint(only), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    D=st.integers(1, 6000),
    share=st.floats(0, 1),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    name=st.sampled_from(["hashed", "hashed-plain"]),
)
def test_hashing_in_segments_at_any_size(D: int, share: float, cuts: list[float], name: str) -> None:
    d = max(1, int(share * D))
    projection = make_projection(name, d, D, seed=0)
    ends = sorted([0, *(int(cut * D) for cut in cuts), D])
    delta, gradients = vector(d), vector(1, D, seed=1)
    assert torch.equal(read(projection, delta, ends), projection.apply(delta))
    expected = projection.adjoint(gradients[0])
    assert torch.allclose(add(projection, gradients, ends)[0], expected, atol=1e-10)


def test_hashing_in_segments_holds_no_whole_vector() -> None:
    projection = make_projection("hashed", 64, 1 << 22, seed=0)
    segments, sums = projection.segments(vector(64)), projection.partial_adjoint(1, vector(1))
    held = [t for part in (segments, sums) for t in vars(part).values() if isinstance(t, torch.Tensor)]
    assert sum(t.nbytes for t in held) < projection.D * 8 / 2


def test_gradients_of_half_precision_are_summed_in_single() -> None:
    projection = make_projection("hashed", 8, 70_000, seed=0)
    gradients = vector(1, 70_000, dtype=torch.float32).bfloat16()
    sums = projection.partial_adjoint(1, torch.zeros(1))
    sums.add(0, gradients)
    assert torch.allclose(sums.total()[0], projection.adjoint(gradients[0].float()), rtol=1e-4, atol=1e-4)


def test_what_is_no_segment_is_named() -> None:
    projection = make_projection("hashed", 4, 100, seed=0)
    segments, sums = projection.segments(vector(4)), projection.partial_adjoint(2, vector(1))
    for message, call in {
        "start=90, stop=101: .*R\\^100": lambda: segments.read(90, 101),
        "start=5, stop=4": lambda: Segments(vector(9)).read(5, 4),
        "start=99, stop=101": lambda: sums.add(99, vector(2, 2)),
        "start=-1": lambda: sums.add(-1, vector(2, 2)),
        "gradients.shape=\\(3, 2\\): must have 2 rows": lambda: sums.add(0, vector(3, 2)),
        "delta.shape": lambda: projection.segments(vector(5)),
        "like.dtype": lambda: projection.partial_adjoint(1, vector(1).half()),
        "rows=0": lambda: projection.partial_adjoint(0, vector(1)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
