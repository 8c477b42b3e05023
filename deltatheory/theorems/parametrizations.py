"""What few parameters reach, and what the landscape of two factors hides (T30, X1)."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import (
    as_fractions,
    eye,
    inverse,
    random_fractions,
    random_full_rank,
    random_orthogonal,
    squared_norm,
)
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T30: measure zero ----


def _t30(x: Instance, spare: int = 0):
    """Return how many boxes of side L/N the sampled images meet, and 2^m N^d."""
    N, boxes = x["N"], {tuple(math.floor(y * x["N"] / x["L"]) for y in image) for image in x["images"]}
    return len(boxes), 2 ** x["images"].shape[1] * N ** (x["d"] - spare)


def _spread(points: np.ndarray) -> np.ndarray:
    """Return the distances of all pairs in the maximum norm."""
    rows, columns = np.triu_indices(len(points), 1)
    return abs(points[rows] - points[columns]).max(1)


def _is_lipschitz(x: Instance) -> bool:
    return bool(np.all(_spread(x["images"]) <= x["L"] * _spread(x["parameters"])))


def _grid(d: int, steps: int) -> np.ndarray:
    return as_fractions(list(product(range(steps + 1), repeat=d))) / steps


def _bent(seed: int) -> Instance:
    """Return the images |M δ - c| of a grid of δ in [0, 1]^d: piecewise linear, so Lipschitz, and bent."""
    rng = np.random.default_rng(seed)
    d, m = int(rng.integers(1, 3)), 3
    M, c = random_fractions(rng, m, d), random_fractions(rng, m)
    M[0, 0] += 7
    parameters = _grid(d, 24 if d == 1 else 5)
    L = max(abs(M).sum(1))
    images = abs(parameters @ M.T - c)
    return {"parameters": parameters, "images": images, "L": L, "N": int(rng.integers(1, 9)), "d": d}


def _hilbert(order: int) -> list[tuple[int, int]]:
    """Return the cells of a square of side 2^order in the order of Hilbert's curve (1891)."""
    if order == 0:
        return [(0, 0)]
    cells, side = _hilbert(order - 1), 2 ** (order - 1)
    first, last = [(y, x) for x, y in cells], [(2 * side - 1 - y, side - 1 - x) for x, y in cells]
    middle = [(x, y + side) for x, y in cells] + [(x + side, y + side) for x, y in cells]
    return first + middle + last


def _space_filling(seed: int) -> Instance:
    """Return 4^3 points of Hilbert's curve: continuous in the limit, and every cell of the square is met."""
    order = 3
    cells = _hilbert(order)
    parameters = as_fractions([[i] for i in range(len(cells))]) / (len(cells) - 1)
    images = (as_fractions(cells) * 2 + 1) / 2 ** (order + 1)
    return {"parameters": parameters, "images": images, "L": F(1), "N": 2**order + seed, "d": 1}


def _line(seed: int) -> Instance:
    t = _grid(1, 40)
    return {"parameters": t, "images": np.concatenate([t, t], 1), "L": F(1), "N": 20 + seed, "d": 1}


def _square(seed: int) -> Instance:
    parameters = _grid(2, 6)
    return {"parameters": parameters, "images": parameters, "L": F(1), "N": 6 - seed % 5, "d": 1}


def _between_boxes(seed: int) -> Instance:
    """Return a segment of length L, or a square of side L, half a box off: it meets two boxes a side."""
    parameters, L = _grid(seed % 2 + 1, 4), F(seed + 1)
    return {"parameters": parameters, "images": L * (parameters + F(1, 2)), "L": L, "N": 1, "d": seed % 2 + 1}


T30 = register(
    Theorem(
        id="T30",
        name="few parameters reach a set of measure zero",
        latex=r"\#\{\text{boxes of side }L/N\text{ met by }\psi([0,1]^d)\subset R^m\}\le2^mN^d,\quad"
        r"\mathrm{vol}\,\psi([0,1]^d)\le2^mL^mN^{d-m}\to0\text{ for }d<m",
        words="the joint outputs on n texts that d parameters give have measure zero as soon as there are "
        "more outputs than parameters; counted on sampled images of a Lipschitz map, maximum norm",
        kind="upper",
        entries={
            "parameters": "points of [0, 1]^d, (points, d)",
            "images": "of ψ at them, (points, m)",
            "L": "Lipschitz constant",
            "N": "boxes a side of length L",
            "d": "number of parameters",
        },
        sides=_t30,
        sampler=_bent,
        hypotheses=(
            Hypothesis(
                "Lipschitz",
                r"$\psi$ is $L$-Lipschitz on $[0,1]^d$, as $C^1$ maps are (Hilbert's curve is not)",
                _is_lipschitz,
                _space_filling,
            ),
            Hypothesis(
                "number of parameters",
                r"$\psi$ has $d$ parameters, in $[0,1]^d$; $N\ge1$",
                lambda x: (
                    x["N"] >= 1
                    and x["parameters"].shape[1] <= x["d"]
                    and bool(np.all(abs(2 * x["parameters"] - 1) <= 1))
                ),
                _square,
            ),
        ),
        mutant=Mutant("one parameter fewer", lambda x: _t30(x, 1), _line),
        extremal=_between_boxes,
        proof="[0,1]^d has N^d cubes of side 1/N; the image of one has diameter L/N, and meets 2 boxes a "
        "coordinate at most.",
        source="classical (the easy case of Sard's theorem)",
        status=ProofStatus.searched(),
    )
)


# ---- X1: the landscape of BA ----


def _loss_curvature(x: Instance, X: np.ndarray, Y: np.ndarray) -> Any:
    """Return D²f[(X, Y), (X, Y)] of f = ½‖BA - W‖²: ‖XA + BY‖² + 2 <XY, BA - W>."""
    return squared_norm(X @ x["A"] + x["B"] @ Y) + 2 * (X @ Y * _residual(x)).sum()


def _residual(x: Instance) -> np.ndarray:
    return x["B"] @ x["A"] - x["U"] @ np.diag(x["s"]) @ x["V"].T


def _x1(x: Instance, factor: int = 1):
    i, s = x["missing"], x["s"]
    X = np.outer(x["U"][:, i], x["G"][-1])
    Y = s[i] * np.outer(inverse(x["G"])[:, -1], x["V"][:, i])
    gain = 2 * s[i] ** 2 if x["deficient"] else s[i] ** 2 - s[x["kept"][-1]] ** 2
    return _loss_curvature(x, X, Y), -factor * gain


def _normal_form(x: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Return U_S G and G^{-1} diag(s_S) V_Sᵀ, without the last component where it is not kept."""
    kept, present = list(x["kept"]), np.array([1] * (len(x["kept"]) - 1) + [int(not x["deficient"])])
    left, right = x["U"][:, kept] * present, np.diag(x["s"][kept] * present) @ x["V"][:, kept].T
    return left @ x["G"], inverse(x["G"]) @ right


def _is_normal(x: Instance) -> bool:
    B, A = _normal_form(x)
    unit = eye(len(x["s"]))
    orthogonal = np.all(x["U"].T @ x["U"] == unit) and np.all(x["V"].T @ x["V"] == unit)
    return bool(orthogonal and np.all(x["B"] == B) and np.all(x["A"] == A))


def _stationary_point(seed: int, kept: tuple[int, ...] | None = None, missing: int | None = None) -> Instance:
    """Return B = U_S G and A = G^{-1} diag(s_S) V_Sᵀ for r = 2 of n singular values, one of them 0 at times.

    `kept` is S, its smallest last; `missing` is a larger one that is not in S.
    """
    rng = np.random.default_rng(seed)
    n = 4
    s = as_fractions(sorted(rng.choice(np.arange(1, 12), n, replace=False), reverse=True))
    picked = (int(rng.integers(0, 2)) * 2, 3) if kept is None else kept
    U, V, G = random_orthogonal(rng, n), random_orthogonal(rng, n), random_full_rank(rng, 2, 2)
    deficient = seed % 3 == 0 and kept is None
    x = {"U": U, "V": V, "s": s, "G": G, "kept": picked, "deficient": deficient}
    B, A = _normal_form(x)
    return x | {"B": B, "A": A, "missing": 1 if missing is None else missing}


def _plain_point(seed: int) -> Instance:
    """Return W = diag(4, 3, 1) with the first and the last component kept, G = I."""
    s, kept = as_fractions([4 + seed, 3 + seed, 1]), [0, 2]
    x = {"U": eye(3), "V": eye(3), "s": s, "G": eye(2), "kept": (0, 2), "deficient": False, "missing": 1}
    return x | {"B": eye(3)[:, kept], "A": np.diag(s[kept]) @ eye(3)[kept]}


X1 = register(
    Theorem(
        id="X1",
        name="two factors hide no local minimum",
        latex=r"D^2f[X,Y]=-(s_i^2-s_j^2),\quad f=\tfrac12\|BA-W\|_F^2,\ X=u_i(G^\top e_j)^\top,"
        r"\ Y=s_iG^{-1}e_jv_i^\top",
        words="a stationary point of LoRA's least squares keeps some singular components of an invertible W; "
        "where it lacks a larger one, exchanging it for the smallest kept (or, at -2 s_i², for an empty "
        "column) goes down, so every local minimum is global",
        kind="identity",
        entries={
            "U": "left singular vectors of W, (n, n)",
            "V": "right ones, (n, n)",
            "s": "singular values, decreasing, (n,)",
            "B": "(n, r)",
            "A": "(r, n)",
            "G": "change of basis between U_S and B, (r, r)",
            "kept": "components that BA keeps, the smallest last",
            "missing": "i, one that it lacks",
            "deficient": "whether a column of B is empty in their place",
        },
        sides=_x1,
        sampler=_stationary_point,
        hypotheses=(
            Hypothesis(
                "stationary",
                r"$B=U_SG$, $A=G^{-1}\mathrm{diag}(s_S)V_S^\top$ (singular $W$ have others)",
                _is_normal,
                with_entries(_plain_point, B=lambda x: 10 * x["B"]),
            ),
            Hypothesis(
                "missing",
                "$i$ is not kept",
                lambda x: x["missing"] in {*range(len(x["s"]))} - {*x["kept"]},
                with_entries(_plain_point, missing=0),
            ),
        ),
        mutant=Mutant("three times the curvature", lambda x: _x1(x, 3), _plain_point),
        proof="The two parts of XA + BY are orthogonal, and (BA - W) v_i = -s_i u_i: the form is "
        "s_j² + s_i² - 2 s_i² for a kept j, and -2 s_i² for an empty column. Every stationary point has this "
        "form if W is invertible (Baldi and Hornik 1989); for a singular W, B = 0 with the rows of "
        "A in its kernel is stationary as well.",
        source="Baldi and Hornik 1989",
        status=ProofStatus.searched(),
    )
)
