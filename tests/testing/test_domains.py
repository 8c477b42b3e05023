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
    dimensions,
    integers,
    losses,
    ltv_systems,
    matrices,
    pencils,
    projectors,
    psd_matrices,
    quadratics,
    vectors,
)
from deltatheory.theorems.exact import as_float, as_fractions, eye, is_psd, rank

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
            assert values[0] <= 0.9 + 1e-12 if stable else values[-1] >= 1.1 - 1e-12


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


def test_constants_that_are_promised_are_reached() -> None:
    for kind in (quadratics, losses):
        domain = kind(3, 4, 1)
        for corner, constant in ((0, "mu"), (3, "L")):
            x = domain.build(as_fractions([corner] * domain.size))
            away = as_fractions([1, 2, 3])
            slope = x["f"].gradient(x["star"] + away)
            assert np.all(slope == x[constant] * away)
    gains = as_float(ltv_systems(2, 1, 1).build(as_fractions([3] * 7))["A"][0])
    assert np.linalg.svd(gains, compute_uv=False) == pytest.approx([0.9, 0.9])


def test_whole_numbers_are_all_reached() -> None:
    numbers = integers(2, 6)
    assert {numbers.build(np.array([x])) for x in np.linspace(-3, 3, 61)} == {2, 3, 4, 5, 6}
    assert numbers.build(as_fractions([0])) == 2
    sized = dimensions(1, 4, lambda n: vectors(n).map(lambda v: {"n": n, "v": v}))
    seen = {sized.sample(seed)["n"] for seed in range(40)}
    assert seen == {1, 2, 3, 4}
    assert all(len(x["v"]) == x["n"] for x in map(sized.sample, range(5)))


def test_parts_keep_their_limits() -> None:
    domain = combine(a=vectors(1, bound=1), b=vectors(2, bound=5))
    assert domain.box.tolist() == [1, 5, 5]
    assert all(abs(domain.vector(seed)[0]) <= 1 for seed in range(20))


@SETTINGS
@given(combine(a=vectors(2, bound=1), b=vectors(2, bound=5)).coordinates())
def test_drawn_coordinates_are_in_the_box(vector) -> None:
    assert all(isinstance(x, Fraction) for x in vector)
    assert np.all(abs(vector[:2]) <= 1)
    assert np.all(abs(vector[2:]) <= 5)


def test_bad_domains_are_told() -> None:
    with pytest.raises(ValueError, match="low=3"):
        integers(3, 2)
    with pytest.raises(ValueError, match="low=3"):
        dimensions(3, 2, vectors)
    with pytest.raises(ValueError, match=r"limits=\(1,\)"):
        Domain(2, lambda v: v, limits=(1,))
    with pytest.raises(ValueError, match="d=3"):
        projectors(3, 3)
    with pytest.raises(ValueError, match="mu=5"):
        losses(3, 4, 5)
    with pytest.raises(ValueError, match="size=-1"):
        Domain(-1, lambda v: v)
