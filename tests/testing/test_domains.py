"""Domains hold what they promise, on fractions exactly and on floats."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatheory.testing import (
    Domain,
    attention_heads,
    combine,
    losses,
    ltv_systems,
    matrices,
    pencils,
    projectors,
    psd_matrices,
    quadratics,
    vectors,
)
from deltatheory.theorems.exact import as_float, eye, is_psd, rank

SETTINGS = settings(max_examples=20, deadline=None, database=None, derandomize=True)


@SETTINGS
@given(pencils(3).strategy())
def test_pencils(pencil) -> None:
    assert is_psd(pencil["A"])
    assert is_psd(pencil["B"] - eye(3))


@SETTINGS
@given(projectors(4, 2).strategy())
def test_projectors(P) -> None:
    assert np.all(P @ P == P)
    assert np.all(P == P.T)
    assert rank(P) == 2


@SETTINGS
@given(st.one_of(kind(3, 4, Fraction(1, 2)).strategy() for kind in (quadratics, losses)))
def test_losses(x) -> None:
    assert x["f"].is_smooth(x["L"])
    assert x["f"].is_strongly_convex(x["mu"])
    assert x["f"].is_minimiser(x["star"])


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_systems(stable, n) -> None:
    for seed in range(3):
        system = ltv_systems(n, 2, 2, stable=stable).sample(seed)
        assert system["A"].shape == (2, n, n)
        assert system["B"].shape == (2, n, 2)
        for A in as_float(system["A"]):
            values = np.linalg.svd(A, compute_uv=False)
            assert values[0] < 0.9 if stable else values[-1] >= 1.1 - 1e-12


@pytest.mark.parametrize(
    "domain",
    [
        pencils(2),
        projectors(3, 1),
        attention_heads(3, 2),
        quadratics(2, 3, 1),
        losses(2, 3, 1),
        ltv_systems(2, 1, 2),
    ],
)
def test_floats_and_fractions_build_the_same(domain) -> None:
    vector = domain.vector(5)
    exact, rounded = as_float(domain.build(vector)), domain.build(as_float(vector))

    def compare(a, b) -> None:
        if isinstance(a, dict):
            for key in a:
                compare(a[key], b[key])
        elif hasattr(a, "gradient"):
            for x in np.array([[2.0, -3.0], [0.25, 0.0]]):
                assert a.value(x) == pytest.approx(b.value(x))
                np.testing.assert_allclose(a.gradient(x).astype(float), b.gradient(x), atol=1e-12)
        else:
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), atol=1e-12)

    compare(exact, rounded)


def test_psd_of_a_rank() -> None:
    assert rank(psd_matrices(4, 2).sample(0)) == 2


def test_combined_parts_use_their_own_coordinates() -> None:
    domain = combine(a=vectors(2), b=matrices(2, 2))
    assert domain.size == 6
    x = domain.build(np.arange(6.0))
    assert x["a"].tolist() == [0, 1]
    assert x["b"].tolist() == [[2, 3], [4, 5]]


def test_bad_domains_are_told() -> None:
    with pytest.raises(ValueError, match="d=3"):
        projectors(3, 3)
    with pytest.raises(ValueError, match="mu=5"):
        losses(3, 4, 5)
    with pytest.raises(ValueError, match="size=-1"):
        Domain(-1, lambda v: v)
