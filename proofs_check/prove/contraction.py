"""Quadratic contraction certificates (T41): a metric P by a semidefinite program, rounded to integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from proofs_check.prove import Found
from proofs_check.rational import Matrix, identity, matrix, product, solve, transpose


def certificate_data(
    name: str, vertices: list[Matrix], metric: Matrix, rate: Fraction, word: list[int], vector: list[Fraction]
) -> dict:
    """Write it in integers; a word and a vector that it returns to show the rate to be tight."""
    scaled = []
    for a in vertices:
        scale = np.lcm.reduce([entry.denominator for row in a for entry in row])
        scaled.append(
            {"scale": [1, int(scale)], "rows": [[int(entry * int(scale)) for entry in row] for row in a]}
        )
    return {
        "name": name,
        "vertices": scaled,
        "metric": [[int(entry) for entry in row] for row in metric],
        "rate": [rate.numerator, rate.denominator],
        "tight": int(bool(word)),
        "witness": {"word": word, "vector": [[x.numerator, x.denominator] for x in vector]},
    }


def switched(n: int = 5, seed: int = 0) -> dict:
    """Two random vertices with norms above one that still contract, rho = .98, P from the solver."""
    import cvxpy as cp

    rng, rate = np.random.default_rng(seed), Fraction(98, 100) ** 2
    while True:
        base = rng.normal(size=(n, n))
        vertices = [base + 0.5 * rng.normal(size=(n, n)) for _ in range(2)]
        radius = max(np.abs(np.linalg.eigvals(a)).max() for a in vertices)
        exact = [
            matrix([[Fraction(round(x * 1000 * 0.74 / radius), 1000) for x in row] for row in a])
            for a in vertices
        ]
        numbers = [np.array([[float(x) for x in row] for row in a]) for a in exact]
        p, margin = cp.Variable((n, n), symmetric=True), cp.Variable()
        lmis = [float(rate) * p - a.T @ p @ a >> margin * np.eye(n) for a in numbers]
        problem = cp.Problem(cp.Maximize(margin), [p >> np.eye(n), p << 100 * np.eye(n), *lmis])
        problem.solve(solver=cp.CLARABEL)
        growing = min(np.linalg.norm(a, 2) for a in numbers) > 1
        if growing and p.value is not None and (margin.value or 0) > 0.01:
            rounded = np.rint(1000 * (p.value + p.value.T) / 2).astype(int).tolist()
            return certificate_data("switched", exact, matrix(rounded), rate, [], [Fraction()] * n)


def reflections(n: int = 3) -> dict:
    """Take reflections in the metric M'M, times 9/10: products are isometries times (9/10)^k."""
    m = matrix([[Fraction(1 if i == j else max(j - i, 0) * 2) for j in range(n)] for i in range(n)])
    vertices, fixed = [], []
    for axis in ([1, 2, 2], [2, -1, 2]):
        v = [Fraction(x) for x in axis[:n]]
        length = sum(x * x for x in v)
        reflection = [[identity(n)[i][j] - 2 * v[i] * v[j] / length for j in range(n)] for i in range(n)]
        vertices.append([[Fraction(9, 10) * x for x in row] for row in solve(m, product(reflection, m))])
        fixed.append([row[0] for row in solve(m, transpose([v]))])
    return certificate_data(
        "reflections", vertices, product(transpose(m), m), Fraction(81, 100), [0], fixed[0]
    )


def switched_systems() -> Found:
    """T41: a switched system whose metric a solver finds, and one whose rate is exact."""
    yield "switched", "contraction", [switched()]
    yield "tight", "contraction", [reflections()]
