"""Planted faults of every kind are found; the bounds that are true stand."""

from __future__ import annotations

import pytest

from deltatheory.testing import falsify
from experiments.benchmarks.falsification import OWN, SIX, TRUE


def label(planted) -> str:
    return planted.bound.label.replace(" ", "-")


@pytest.mark.parametrize("planted", [*SIX, *OWN], ids=label)
def test_a_planted_fault_is_found(planted) -> None:
    found = falsify(planted.bound)
    assert found.refuted
    assert found.confirmed == ("in floats" if planted.kind == "floats only" else "exactly")


@pytest.mark.parametrize("planted", TRUE, ids=label)
def test_what_is_true_and_tight_stands(planted) -> None:
    assert not falsify(planted.bound, evaluations=150).refuted


def test_there_are_three_of_each_kind() -> None:
    kinds = [planted.kind for planted in OWN]
    assert len(SIX) == 6
    assert {kinds.count(kind) for kind in kinds} == {3}
