"""Bad input to the registry and to bounds, and what a check prints."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from deltatheory.theorems import THEOREMS, Bound, Hypothesis, get_theorem, theorems_of
from deltatheory.theorems.theorem import register


def constant(left, right, **options) -> Bound:
    return Bound(name="mine", sides=lambda x: (left, right), sampler=lambda seed: {}, **options)


def test_unknown_theorems_are_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="T04a"):
        get_theorem("T04")


def test_an_id_is_given_once() -> None:
    with pytest.raises(ValueError, match="already taken"):
        register(THEOREMS["T02"])


def test_a_statement_stands_for_its_parts() -> None:
    assert [theorem.id for theorem in theorems_of("T04")] == ["T04a", "T04b"]
    assert theorems_of("T04b") == [THEOREMS["T04b"]]
    assert {theorem.statement for theorem in theorems_of("T04")} == {"T04"}
    for unknown in ("T0", "", "T04z"):
        with pytest.raises(ValueError, match="no such theorem"):
            theorems_of(unknown)


def test_a_missing_entry_is_told_with_its_meaning() -> None:
    theorem = get_theorem("T02")
    instance = theorem.sampler(0)
    del instance["star"]
    with pytest.raises(ValueError, match=r"T02 .* no 'star' \(x\*, a minimiser of f"):
        theorem.check(instance)
    with pytest.raises(ValueError, match="no 'star'"):
        theorem.unmet(instance)
    with pytest.raises(KeyError, match="other"):  # not an entry: a fault of the bound, not of the instance
        constant(1, 1, hypotheses=(Hypothesis("h", "", lambda x: x["other"], lambda seed: {}),)).unmet({})


def test_nan_and_shapes_are_told() -> None:
    with pytest.raises(ValueError, match="left side is nan"):
        constant(float("nan"), 1.0).check({})
    with pytest.raises(ValueError, match="right side is None"):
        constant(1.0, None).check({})
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        constant(np.zeros(2), np.ones(3)).check({})


def test_exact_checks_need_exact_numbers() -> None:
    with pytest.raises(ValueError, match="no exact number"):
        constant(0.5, Fraction(1)).check({}, exact=True)
    with pytest.raises(ValueError, match="no exact form"):
        constant(0, 1, rational=False).check({}, exact=True)


@pytest.mark.parametrize(
    ("kind", "left", "right", "holds"),
    [
        ("upper", 1, 2, True),
        ("upper", 2, 1, False),
        ("lower", 2, 1, True),
        ("lower", 1, 2, False),
        ("identity", 1, 1, True),
        ("identity", 1, 2, False),
        ("tight", 3, 3, True),
    ],
)
def test_kinds(kind, left, right, holds) -> None:
    bound = constant(Fraction(left), Fraction(right), kind=kind)
    for exact in (False, True):
        assert bound.check({}, exact=exact).holds is holds


def test_no_tolerance_reaches_infinity() -> None:
    for kind, left, right in (("upper", np.inf, 1.0), ("lower", 1.0, np.inf), ("identity", np.inf, 1.0)):
        assert constant(left, right, kind=kind).check({}).holds is False
    assert constant(1.0, np.inf).check({}).holds
    assert constant(np.inf, np.inf).check({}).holds


def test_exact_means_no_tolerance_and_no_rounding() -> None:
    above = 1 + Fraction(1, 10**300)
    assert constant(above, Fraction(1)).check({}).holds
    assert constant(above, Fraction(1)).check({}, exact=True).holds is False
    assert constant(Fraction(1), above).check({}, exact=True).holds


def test_every_check_prints_how_the_theorem_was_checked() -> None:
    theorem = get_theorem("T18")
    result = theorem.check(theorem.sampler(0))
    assert str(theorem.status) in str(result)
    assert str(theorem.status) in str(theorem)
    assert "enumerated(" in str(result)


def test_statuses_are_never_merged() -> None:
    words = {str(t.status).split("(")[0] for t in THEOREMS.values()}
    assert words <= {
        "proved_exact",
        "proved_identity",
        "identity_tested",
        "enumerated",
        "searched",
        "recalled",
    }
    changed = replace(THEOREMS["T02"], status=THEOREMS["T18"].status)
    assert changed.check(changed.sampler(0)).status is THEOREMS["T18"].status
