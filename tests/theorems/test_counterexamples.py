"""Instances that once met all coded hypotheses and violated the theorem: now a hypothesis tells."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest

from deltatheory.theorems import get_theorem
from deltatheory.theorems.exact import as_fractions, diagonal, eye, is_psd, zeros
from deltatheory.theorems.instances import Instance
from deltatheory.theorems.loss_functions import Quadratic


def edge(id: str) -> Instance:
    """An instance where the bound is attained."""
    return get_theorem(id).extremal(0)


def sample(id: str, seed: int = 0) -> Instance:
    return get_theorem(id).sampler(seed)


def saddle(D: int) -> Quadratic:
    return Quadratic(diagonal([-1] + [1] * (D - 1)), zeros(D))


ATTENTION = {"X": eye(2), "M": zeros(2, 2), "V": eye(2), "dX": as_fractions([[1, 0], [1, 0]]), "R": F(1)}
TWO = {"U": eye(2), "V": eye(2), "s": as_fractions([1, 5]), "r": 1, "M": diagonal([0, 5])}
E1, E2 = eye(3)[:, :1], eye(3)[:, 1:2]
THREE = np.concatenate([E1, E2, E1], 1)
AFFINE = {
    "b": zeros(2),
    "B": as_fractions([1, 0]),
    "e": zeros(2),
    "Q": eye(2),
    "r": F(0),
    "l": F(0),
    "bound": F(1),
}
SHIFTED = AFFINE | {"b": as_fractions([F(1, 20), 0]), "w": zeros(2), "u": F(0), "v": F(-1)}
SINGULAR = {"U": eye(2), "V": eye(2), "s": as_fractions([1, 0]), "G": eye(1), "B": zeros(2, 1)}
FLAT = {"f": saddle(2), "L": F(1), "x0": as_fractions([1, 0]), "star": zeros(2), "lowest": F(0)}

# (theorem, what is wrong with the instance, the hypothesis that tells, the instance)
CASES = [
    ("T01b", "mu < 0", "strongly convex", lambda: edge("T01b") | {"mu": F(-1)}),
    ("T01c", "mu < 0", "strongly convex", lambda: edge("T01c") | {"mu": F(-1)}),
    ("T04a", "mu < 0", "PL", lambda: edge("T04a") | {"mu": F(-1)}),
    ("T06", "mu < 0", "PL", lambda: edge("T06") | {"mu": F(-1)}),
    ("T16b", "mu < 0", "strongly convex", lambda: edge("T16b") | {"h": zeros(2, 2) - 1, "mu": F(-1)}),
    ("T39", "alpha < 0", "score bound", lambda: edge("T39") | {"alpha": -edge("T39")["alpha"]}),
    ("T41", "rho < 0", "common norm", lambda: edge("T41") | {"rho": -edge("T41")["rho"]}),
    ("T46", "a < 0", "score matrix", lambda: ATTENTION | {"v": F(1), "a": F(-585786, 10**6)}),
    ("T47a", "s^2 < 0", "local deviation", lambda: edge("T47a") | {"local": F(-1)}),
    ("T47b", "floor < 0", "epsilon", lambda: edge("T47b") | {"floor": F(-1)}),
    ("T42a", "eps < 0", "Gramians", lambda: sample("T42a", 3) | {"eps": F(-3, 2)}),
    (
        "T43a",
        "a weight < 0",
        "normalised",
        lambda: edge("T43a") | {"w": as_fractions([3, -2]), "normaliser": F(1)},
    ),
    ("T43b", "power < 0", "temperature", lambda: edge("T43b") | {"power": -5}),
    ("T44a", "a weight < 0", "fixed context", lambda: edge("T44a") | {"w": as_fractions([3, -2])}),
    ("T44b", "a weight < 0", "fixed context", lambda: edge("T44b") | {"w": as_fractions([3, -2])}),
    (
        "T36b",
        "the bound is of another Gramian",
        "largest eigenvalue",
        lambda: edge("T36b") | {"W": -4 * eye(2), "J": 2 * edge("T36b")["J"], "gap": 2 * edge("T36b")["gap"]},
    ),
    ("T11", "eps < 0", "deviation", lambda: sample("T11") | {"eps": F(-1, 2)}),
    ("T13", "t < 0", "margin", lambda: sample("T13") | {"t": F(-1)}),
    ("X2", "U not orthogonal", "in the range", lambda: edge("X2") | {"U": eye(2) / 2}),
    ("X2", "t < 0", "rate", lambda: edge("X2") | {"t": F(-1)}),
    ("T08", "k is not the rank", "enough dimensions", lambda: sample("T08") | {"k": 0}),
    ("T15", "s not decreasing", "singular values", lambda: TWO),
    (
        "T16b",
        "s not decreasing",
        "singular values",
        lambda: edge("T16b") | TWO | {"h": zeros(2, 2) + 3, "G": zeros(2, 2)},
    ),
    ("T20b", "another target", "target", lambda: edge("T20b") | {"target": 2 * edge("T20b")["target"]}),
    (
        "T21",
        "a column too many",
        "enough rank",
        lambda: {"W1": eye(3), "W2": eye(3), "e": THREE, "f": THREE.T, "r1": 1, "r2": 1},
    ),
    ("T34b", "disturbed", "no disturbance", lambda: sample("T34b") | {"w": as_fractions([[1, 0], [0, 0]])}),
    ("T32b", "v outside", "admissible", lambda: AFFINE | {"w": as_fractions([-5, 0]), "u": F(1), "v": F(2)}),
    ("T32b", "best on a grid only", "minimum", lambda: SHIFTED),
    ("T32a", "best on a grid only", "minimum", lambda: SHIFTED),
    ("T04b", "no infimum", "infimum", lambda: FLAT | {"x": FLAT["x0"], "A": eye(2)[:, 1:]}),
    (
        "T05b",
        "no infimum",
        "infimum over S",
        lambda: FLAT | {"A": eye(2)[:, :1], "G": diagonal([1, 0]), "step": F(1), "N": 1},
    ),
    (
        "T06",
        "no projectors",
        "unbiased",
        lambda: edge("T06") | {"projectors": [10 * eye(3), F(-28, 3) * eye(3)]},
    ),
    (
        "T30",
        "outside of the cube",
        "number of parameters",
        lambda: sample("T30") | {"parameters": sample("T30")["parameters"] * 9},
    ),
    (
        "T02",
        "H not symmetric",
        "L-smooth",
        lambda: (
            edge("T02")
            | {
                "f": Quadratic(as_fractions([[1, 100], [0, 1]]), zeros(2)),
                "x0": as_fractions([1, 1]),
                "star": zeros(2),
                "A": eye(2)[:, :1],
            }
        ),
    ),
    (
        "X1",
        "W singular",
        "stationary",
        lambda: SINGULAR | {"A": as_fractions([[0, 10]]), "kept": (1,), "deficient": True, "missing": 0},
    ),
    (
        "X1",
        "others kept",
        "stationary",
        lambda: get_theorem("X1").mutant.instance(0) | {"kept": (1, 2), "missing": 0},
    ),
    (
        "T35",
        "redundant controls",
        "regular",
        lambda: sample("T35") | {"B": 0 * sample("T35")["B"], "E": 0 * sample("T35")["E"]},
    ),
]


@pytest.mark.parametrize(
    ("id", "hypothesis", "make"),
    [(i, h, m) for i, _, h, m in CASES],
    ids=[f"{i}-{why}" for i, why, *_ in CASES],
)
def test_a_hypothesis_tells(id: str, hypothesis: str, make) -> None:
    assert hypothesis in get_theorem(id).unmet(make())


@pytest.mark.parametrize(
    ("id", "changes", "message"),
    [
        ("T12", {"d": 1, "D": 10}, "even d"),
        ("T12", {"d": 4, "D": 5}, "even d and even D - d"),
        ("T14", {"d": 1, "D": 41}, "even d"),
        ("T13", {"k": 3}, "k = 1 and 2"),
    ],
)
def test_an_evaluator_refuses_what_it_cannot_evaluate(id: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_theorem(id).check(sample(id) | changes, exact=True)


def test_what_holds_trivially_holds() -> None:
    """T13 beyond √d - √k; T20b whatever rank is named; T31 with the controls in any order."""
    rows = {"d": 4, "k": 1, "variance": F(1, 4), "independent_rows": 4, "adapted": False}
    assert get_theorem("T13").check(rows | {"t": F(10)}, exact=True).holds
    assert get_theorem("T20b").check(edge("T20b") | {"r": 0}, exact=True).holds
    assert get_theorem("T31").check(sample("T31") | {"uses": [2, 0, 1]}, exact=True).holds


def test_semidefinite_is_symmetric_first() -> None:
    assert not is_psd(as_fractions([[1, 100], [0, 1]]))
    assert not is_psd(np.array([[1.0, 100.0], [0.0, 1.0]]))
    assert is_psd(np.array([[1.0, 0.5 + 1e-15], [0.5, 1.0]]))
