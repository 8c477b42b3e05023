"""False claims about Lipschitz constants."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np

from proofs_check.intervals import Interval, enclose, erf, sqrt
from proofs_check.museum.false_claim import FalseClaim, Refutation
from proofs_check.rational import Matrix, combination, inner, matrix, product, semidefinite, transpose


def _relu_network(w0: Matrix, w1: Matrix, x: list[Fraction]) -> Fraction:
    return inner(w1[0], [max(inner(row, x), Fraction(0)) for row in w0])


def _network_lmi(w0: Matrix, w1: Matrix, t: Matrix, bound: Fraction) -> Matrix:
    """Return [[L^2 I, -W0'T], [-TW0, 2T - W1'W1]]."""
    cross = combination((-1, product(t, w0)))
    corner = combination((2, t), (-1, product(transpose(w1), w1)))
    top = [[bound * (i == j) for j in range(2)] + row for i, row in enumerate(transpose(cross))]
    return top + [row + tail for row, tail in zip(cross, corner, strict=True)]


def lipsdp_network() -> Refutation | None:
    """Draw networks with two hidden units and multipliers of the claimed cone; compare with two points."""
    rng = random.Random(0)
    for _ in range(20000):
        w0 = [[rng.randint(-2, 2) for _ in range(2)] for _ in range(2)]
        w1 = [[rng.choice((-2, -1, 1, 2)) for _ in range(2)]]
        a, b, c = rng.randint(0, 3), rng.randint(0, 3), rng.randint(1, 8)
        t = np.array([[a + c, -c], [-c, b + c]])  # a e1e1' + b e2e2' + c (e1 - e2)(e1 - e2)'
        rest = 2 * t - np.outer(w1, w1)
        if np.linalg.eigvalsh(rest)[0] < 0.01:
            continue
        through = t @ np.array(w0)
        promised = np.linalg.eigvalsh(through.T @ np.linalg.solve(rest, through))[-1]
        for active in ((1, 0), (0, 1), (1, 1)):
            slope = np.array(w1[0]) * active @ np.array(w0)
            if slope @ slope > promised + 0.1:
                found = _two_points(rng, matrix(w0), matrix(w1), active, slope)
                bound = Fraction(math.ceil(promised * 100 + 1), 100)
                lmi = _network_lmi(matrix(w0), matrix(w1), matrix(t.tolist()), bound)
                if found and semidefinite(lmi)[1] is None and found[2] > bound:
                    x, y, ratio = found
                    return Refutation(
                        "exact",
                        {"W0": w0, "W1": w1, "T": t.tolist(), "bound": bound, "x": x, "y": y, "ratio": ratio},
                        f"W0={w0}, W1={w1}, ReLU: T={t.tolist()} certifies L^2 <= {bound} by an exact LMI, "
                        f"but |f(x)-f(y)|^2/|x-y|^2 = {ratio} at x={_text(x)}, y={_text(y)}",
                    )
    return None


def _two_points(
    rng: random.Random, w0: Matrix, w1: Matrix, active: tuple[int, int], slope: np.ndarray
) -> tuple[list[Fraction], list[Fraction], Fraction] | None:
    """Two rational points in the region of an activation pattern, one from the other along the gradient."""
    for _ in range(40):
        x = [Fraction(rng.randint(-8, 8), 2) for _ in range(2)]
        if all((inner(row, x) > 0) == bool(on) and inner(row, x) for row, on in zip(w0, active, strict=True)):
            y = [entry + Fraction(int(s), 100) for entry, s in zip(x, slope, strict=True)]
            gap = [p - q for p, q in zip(x, y, strict=True)]
            rise = _relu_network(w0, w1, x) - _relu_network(w0, w1, y)
            return x, y, rise**2 / inner(gap, gap)
    return None


def _gelu(x: Fraction) -> Interval:
    point = enclose(x)
    return point * (enclose(1) + erf(point / sqrt(enclose(2)))) * enclose(Fraction(1, 2))


def gelu_one_lipschitz() -> Refutation | None:
    """Look for the steepest chord on a grid in floating point, and certify it by intervals."""
    grid = [Fraction(i, 8) for i in range(-40, 41)]
    values = {x: float(x) * (1 + math.erf(float(x) / math.sqrt(2))) / 2 for x in grid}
    x, y = max(
        ((a, b) for a in grid for b in grid if a < b),
        key=lambda pair: abs(values[pair[1]] - values[pair[0]]) / float(pair[1] - pair[0]),
    )
    rise = _gelu(y) - _gelu(x)
    if rise.low <= y - x:
        return None
    ratio = rise.low / (y - x)
    return Refutation(
        "intervals",
        {"x": x, "y": y, "ratio": ratio},
        f"GELU({y}) - GELU({x}) >= {float(ratio):.9f} ({y} - {x})",
    )


def _text(v: list[Fraction]) -> str:
    return f"({', '.join(map(str, v))})"


CLAIMS = {
    "lipsdp-network": FalseClaim(
        "For ReLU and any T = sum l_i e_i e_i' + sum l_ij (e_i - e_j)(e_i - e_j)' with l >= 0, "
        "[[L^2 I, -W0'T], [-TW0, 2T - W1'W1]] >= 0 implies that W1 relu(W0 x) is L-Lipschitz.",
        "Fazlyab et al. (2019), LipSDP-Network, and its code's `network` mode",
        "X3: with diagonal T it does",
        lipsdp_network,
    ),
    "gelu-one-lipschitz": FalseClaim(
        "GELU is 1-Lipschitz.",
        "said of activations in general",
        "T48: the constant is 1.12890...",
        gelu_one_lipschitz,
    ),
}
