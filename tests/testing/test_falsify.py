"""Property tests and the search: false bounds fall, true ones stand, bad input is told."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from deltatheory.testing import (
    check,
    claim,
    combine,
    falsify,
    losses,
    ltv_systems,
    psd_matrices,
    quadratics,
    vectors,
    write_tests,
)
from deltatheory.theorems import Bound, get_theorem
from deltatheory.theorems.exact import as_fractions, inverse, trace
from deltatheory.theorems.intervals import exp

CONTEXT = combine(keys=vectors(3))


def turning(share):
    """The variance of keys under their own softmax, at most `share` of their squared range."""

    def sides(x):
        weights = [exp(k) for k in x["keys"]]
        p = [w / sum(weights) for w in weights]
        mean = sum(p * x["keys"])
        spread = max(x["keys"]) - min(x["keys"])
        return sum(p * (x["keys"] - mean) ** 2), share * spread**2

    return sides


def greedy_by_trace(x):
    """Diminishing returns of -tr of the inverse: plausible, published, false."""
    small = x["A"] + np.eye(2, dtype=int)
    large = small + x["B"]
    gains = [trace(inverse(S)) - trace(inverse(S + x["W"])) for S in (large, small)]
    return gains[0], gains[1]


GRAMIANS = combine(A=psd_matrices(2, 1), B=psd_matrices(2, 1), W=psd_matrices(2, 1))


def test_the_documented_example() -> None:
    module = importlib.import_module("deltatheory.testing.falsify")
    result = doctest.testmod(module)
    assert result.attempted >= 5
    assert result.failed == 0


@pytest.mark.parametrize(
    ("sides", "domain"), [(turning(Fraction(19, 80)), CONTEXT), (greedy_by_trace, GRAMIANS)]
)
def test_false_bounds_are_refuted_and_confirmed_without_rounding(sides, domain) -> None:
    found = falsify(claim("false", sides, domain), evaluations=2000)
    assert found.refuted
    assert found.confirmed == "exactly"
    left, right = (side if isinstance(side, Fraction) else side.low for side in sides(found.witness))
    assert left > right
    assert "REFUTED exactly" in str(found)


def test_witnesses_are_simple() -> None:
    found = falsify(claim("false", greedy_by_trace, GRAMIANS), evaluations=1000)
    entries = [entry for matrix in found.witness.values() for entry in matrix.ravel()]
    assert max(entry.denominator for entry in entries) <= 4


def test_true_bounds_stand() -> None:
    bound = claim("true", turning(Fraction(1, 4)), CONTEXT)
    assert not falsify(bound, evaluations=300).refuted
    assert check(bound, examples=30).holds
    theorem = get_theorem("T03")
    assert not falsify(theorem, evaluations=20).refuted
    assert check(theorem, examples=10).holds


def test_a_violation_in_floats_is_not_believed_where_fractions_deny_it() -> None:
    """0.1 + 0.2 > 0.3 in floats only, by more than the tolerance once it is scaled up."""
    bound = claim("rounding", lambda x: ((x["v"][0] + 10**17) - 10**17, x["v"][0]), combine(v=vectors(1)))
    assert not falsify(bound, evaluations=200).refuted
    assert check(bound, examples=30).holds


def test_check_shrinks_with_hypothesis_and_uses_given_instances() -> None:
    bound = claim("small", lambda x: (x["v"][0], Fraction(1)), combine(v=vectors(1)))
    report = check(bound, examples=100)
    assert not report.holds
    assert report.counterexample["v"][0] == Fraction(9, 8)  # the smallest above 1 that is drawn
    assert "VIOLATED" in str(report)
    given = {"v": np.array([Fraction(3)], dtype=object)}
    assert check(bound, also=[given]).counterexample is given


def test_without_fractions_a_violation_is_confirmed_in_floats() -> None:
    bound = claim("floats", lambda x: (np.sin(x["v"][0]), 0.9), combine(v=vectors(1)), rational=False)
    found = falsify(bound, evaluations=300)
    assert found.confirmed == "in floats"
    assert np.sin(float(found.witness["v"][0])) > 0.9


@pytest.mark.parametrize("run", [check, falsify])
def test_bad_bounds_are_told(run) -> None:
    nan = claim("nan", lambda x: (float("nan"), 1.0), combine(v=vectors(1)))
    with pytest.raises(ValueError, match="left side is nan"):
        run(nan)
    for sides in (3.0, (1, 2, 3), None):
        with pytest.raises(ValueError, match=r"a pair \(left, right\)"):
            run(claim("no pair", lambda x, sides=sides: sides, combine(v=vectors(1))))
    shapes = claim("shapes", lambda x: (np.zeros(2), np.zeros(3)), combine(v=vectors(1)))
    with pytest.raises(ValueError, match="one shape"):
        run(shapes)


@pytest.mark.parametrize(
    "run", [partial(check, examples=20), partial(falsify, evaluations=150)], ids=["check", "falsify"]
)
def test_where_a_side_has_no_value_nothing_is_claimed(run) -> None:
    """A singular inverse or 0/0 is passed over, in floats and in fractions; if that is all, it is told."""

    def inverted(x):
        A = np.outer(x["v"], x["v"]) + x["v"][0] * np.eye(2, dtype=int)
        return x["v"] @ inverse(A) @ x["v"], x["v"][0] * 0 + 4

    def quotient(x):
        return x["v"][0] / x["v"][0], x["v"][0] * 0 + 1

    domain = combine(v=vectors(2))
    for sides in (inverted, quotient):
        assert "undecided" not in str(run(claim("partly", sides, domain)))
    with pytest.raises(ValueError, match="no value on any of"):
        run(claim("never", lambda x: (1 / (x["v"][0] - x["v"][0]), x["v"][0]), domain))


def test_a_value_in_floats_only_is_no_violation_of_a_theorem() -> None:
    """Floats give a singular matrix a pseudo-inverse, fractions none."""

    def sides(x):
        return inverse(x["A"])[0, 0], x["A"][0, 0] * 0

    singular = Bound(name="singular", sides=sides, sampler=lambda seed: {"A": as_fractions([[1, 1], [1, 1]])})
    assert not falsify(singular, evaluations=9).refuted


def test_small_sides_are_compared_by_their_ratio() -> None:
    """A violation below the absolute tolerance of floats is confirmed in fractions."""

    def tiny(x):
        return x["v"][0] ** 2 / 10**12, x["v"][0] ** 2 / (2 * 10**12)

    bound = claim("tiny", tiny, combine(v=vectors(1)))
    assert falsify(bound).confirmed == "exactly"
    assert not check(bound, examples=20).holds


def test_tolerances_of_floats_are_one_s_own() -> None:
    def off(x):
        return x["v"][0] ** 2 + 1e-4, x["v"][0] ** 2

    domain = combine(v=vectors(1))
    for tolerances in ({"atol": 1e-3}, {"rtol": 1e-3, "atol": 1e-4}):
        assert not falsify(claim("off", off, domain, rational=False, **tolerances), evaluations=200).refuted
    assert falsify(claim("off", off, domain, rational=False), evaluations=200).refuted
    with pytest.raises(ValueError, match="atol=-1"):
        claim("off", off, domain, atol=-1.0)


def test_a_theorem_is_searched_beyond_its_samples() -> None:
    """Numbers of an instance are moved as long as its hypotheses hold: |x0|^2 <= 8 falls, from 1/4."""
    theorem = get_theorem("T02")

    def near(seed):
        x = theorem.extremal(seed)
        return x | {"x0": x["x0"] * 0 + Fraction(1, 4)}

    def sides(x):
        return (x["x0"] @ x["x0"]), x["x0"][0] * 0 + 8

    found = falsify(replace(theorem, sides=sides, sampler=near, extremal=None))
    assert found.refuted
    assert theorem.unmet(found.witness) == ()


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="kind='below'"):
        claim("x", turning(1), CONTEXT, kind="below")
    with pytest.raises(ValueError, match="evaluations=0"):
        falsify(claim("x", turning(1), CONTEXT), evaluations=0)
    with pytest.raises(ValueError, match="no such theorem"):
        write_tests("T99")


def test_stability_is_what_it_says() -> None:
    """All states shrink in stable systems, so a bound on the norm stands; in unstable ones it falls."""

    def growth(x):
        return sum((x["A"][0] @ x["v"]) ** 2), sum(x["v"] ** 2)

    for stable in (True, False):
        domain = combine(S=ltv_systems(2, 1, 1, stable=stable), v=vectors(2))
        bound = claim("growth", growth, domain.map(lambda x: {"A": x["S"]["A"], "v": x["v"]}))
        assert falsify(bound, evaluations=200).refuted is not stable


def test_users_bounds_on_losses() -> None:
    """Smoothness bounds the gap; a claim with mu in its place falls."""

    def gap(constant):
        def sides(x):
            away = x["x0"] - x["star"]
            return x["f"].value(x["x0"]), x[constant] / 2 * sum(away * away)

        return sides

    for domain in (quadratics(2, 4, 1), losses(2, 4, 1)):
        assert check(claim("smooth", gap("L"), domain), examples=30).holds
        assert falsify(claim("wrong", gap("mu"), domain), evaluations=300).refuted


def test_what_holds_for_quadratics_alone_falls_on_losses() -> None:
    """f - f* <= ½ ∇f·(x - x*) is an equality for quadratics."""

    def sides(x):
        slope = x["f"].gradient(x["x0"]) @ (x["x0"] - x["star"])
        return x["f"].value(x["x0"]) - x["f"].minimum, slope / 2

    assert check(claim("half the slope", sides, quadratics(2, 4, 1)), examples=30).holds
    assert falsify(claim("half the slope", sides, losses(2, 4, 1)), evaluations=300).refuted


@pytest.mark.parametrize("id", ["T02", "T24", "T41"])
def test_written_tests_pass_and_have_one_for_each_hypothesis(id) -> None:
    text = write_tests(id, examples=3)
    compile(text, id, "exec")
    assert text.count("def test_it_needs_") == len(get_theorem(id).hypotheses)
    namespace: dict = {"__name__": "written"}
    exec(text, namespace)
    for name, function in namespace.items():
        if name.startswith("test_it_needs_"):
            function(0)
        elif name.startswith("test_"):
            function()
