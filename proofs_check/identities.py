"""Identities of theorems, built from their definitions as rational functions, both sides.

exp(s_j) of a score enters only as a positive number, so it is a symbol E_j; likewise Phi(x), phi(x) and the
square root of a variance, each with the rate at which it moves. A certificate gives the sides as trees that
SymPy has derived; they have to be these, and equal. An equation of quadratic forms of vectors is written for
numbers: <x, g> is the monomial x g.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import prod
from operator import mul

from proofs_check import assembler
from proofs_check.expressions import Quotient, quotient, symbol
from proofs_check.rational import Matrix, combination, product, transpose

Pairs = list[tuple[Quotient, Quotient]]
HALF = Fraction(1, 2)


def _symbols(name: str, size: int) -> list[Quotient]:
    return [symbol(f"{name}{i}") for i in range(size)]


def _column(name: str, size: int) -> Matrix:
    return transpose([_symbols(name, size)])


def _matrix(name: str, rows: int, columns: int) -> Matrix:
    return [_symbols(f"{name}{i}", columns) for i in range(rows)]


def _symmetric(name: str) -> Matrix:
    a, b, c = (symbol(f"{name}{at}") for at in ("00", "01", "11"))
    return [[a, b], [b, c]]


def _entries(left: Matrix, right: Matrix) -> Pairs:
    return [pair for rows in zip(left, right, strict=True) for pair in zip(*rows, strict=True)]


def _sum(terms: Iterable[Quotient]) -> Quotient:
    return sum(terms, quotient(0))


def _attended(weights: Sequence[Quotient], values: Sequence[Quotient | int]) -> Quotient:
    return _sum(e * v for e, v in zip(weights, values, strict=True)) / _sum(weights)


def _interpolated(i: Sequence[Quotient | int], j: Sequence[Quotient | int]) -> Quotient:
    """Return the interpolation inequality "i > j" of convex 1-smooth functions at (x, g, f), f in numbers."""
    names = [[f"{name}{k}" for name in "xgf"] for k in "ij"]
    points = [
        assembler.Point(assembler.symbol("P", x), assembler.symbol("P", g), assembler.value(f))
        for x, g, f in names
    ]
    given = dict(zip(names[0] + names[1], [*i, *j], strict=True))
    vectors = {("P", name): [quotient(value)] for name, value in given.items()}
    return assembler.evaluate(assembler.interpolation(points[0], points[1], 0), vectors, given)


def gradient_descent_every_n() -> Pairs:
    """T09: h = 1, every N: V_(k-1) - V_k is a weighted sum of valid inequalities and a square.

    With F* = x* = 0, L = 1, m_k = k/(2N+1-k), t_k = m_(k+1) - m_k, a_k = (2N+1-2k)/(2(2N+1-k)^2) and
    V_k = m_k (f_k + |g_k|^2/2) + a_k |x_k|^2, the steps are
    V_(k-1) - V_k = t_(k-1) (* > k-1) + m_k (k-1 > k) + d_(k-1) |g_(k-1) - x_(k-1)/(2N+2-k)|^2,
    f_N + (1 - m_N) (* > N) + |g_N - x_N/(N+1)|^2/2 = V_N, and V_0 = |x_0|^2/(4N+2). So f_N <= |x_0|^2/(4N+2).
    """
    n, k, x, g, f = map(symbol, ("N", "k", "x", "g", "f"))
    p, q = symbol("g_next"), symbol("f_next")

    def m(k: Quotient) -> Quotient:
        return k / (2 * n + 1 - k)

    def a(k: Quotient) -> Quotient:
        return (2 * n + 1 - 2 * k) / (2 * (2 * n + 1 - k) ** 2)

    def above(k: Quotient) -> Quotient:
        return 2 * n + 1 + 4 * n * k - 2 * k**2

    star, chain = _interpolated((0, 0, 0), (x, g, f)), _interpolated((x, g, f), (x - g, p, q))
    before = m(k - 1) * (f + g**2 / 2) + a(k - 1) * x**2
    after = m(k) * (q + p**2 / 2) + a(k) * (x - g) ** 2
    square = above(k - 1) / (2 * (2 * n + 1 - k) ** 2) * (g - x / (2 * n + 2 - k)) ** 2
    end = f + (1 - m(n)) * star + (g - x / (n + 1)) ** 2 / 2
    return [
        (after + (m(k) - m(k - 1)) * star + m(k) * chain + square, before),
        (end, m(n) * (f + g**2 / 2) + a(n) * x**2),
        (a(quotient(0)), 1 / (4 * n + 2)),
        (above(k), 2 * n + 1 + 2 * k**2 + 4 * k * (n - k)),
        (m(k + 1) - m(k), (2 * n + 1) / ((2 * n + 1 - k) * (2 * n - k))),
    ]


def lifting() -> Pairs:
    """T10: in block Q, N = 3, w = Q(x0-x*): what is left is a sum of squares, for any m_k and sum t_k = 1."""
    w, g, m, t = symbol("w"), _symbols("g", 4), _symbols("m", 4), _symbols("t", 3)
    t.append(1 - _sum(t))
    used = _sum(t[k] * _interpolated((0, 0, 0), (w, g[k], 0)) for k in range(4))
    used += _sum(m[k] * _interpolated((w, g[k - 1], 0), (w, g[k], 0)) for k in range(1, 4))
    squares = _sum(t[k] * (w - g[k]) ** 2 for k in range(4)) / 2
    squares += _sum(m[k] * (g[k - 1] - g[k]) ** 2 for k in range(1, 4)) / 2
    return [(w**2 / 2 - used, squares)]


def best_rank_one() -> Pairs:
    """T15: W = diag(s1, s2): |W - ba'|^2 with the best b = Wa/|a|^2 is s2^2 + (s1^2-s2^2) a2^2/|a|^2."""
    s1, s2, a1, a2 = map(symbol, ("s1", "s2", "a1", "a2"))
    w, a, length = [[s1, 0], [0, s2]], [[a1], [a2]], a1**2 + a2**2
    taken = product(w, a, transpose(a))
    rest = [[w[i][j] - taken[i][j] / length for j in range(2)] for i in range(2)]
    distance = _sum(entry**2 for row in rest for entry in row)
    return [(distance, s2**2 + (s1**2 - s2**2) * a2**2 / length)]


def prefix_is_gate() -> Pairs:
    """T24: attention to k = 2 prefix tokens beside n = 4 is (1 - lambda) o + lambda o_P."""
    e, p, v, u = _symbols("E", 4), _symbols("P", 2), _symbols("v", 4), _symbols("u", 2)
    gate = _sum(p) / (_sum(p) + _sum(e))
    return [(_attended(p + e, u + v), (1 - gate) * _attended(e, v) + gate * _attended(p, u))]


def relative_attention() -> Pairs:
    """T25: with k = 2 prefix tokens each attention A_j of n = 4 is (1 - lambda) A_j, so A_j / A_k stays."""
    e, p = _symbols("E", 4), _symbols("P", 2)
    gate = _sum(p) / (_sum(p) + _sum(e))
    return [(e[j] / (_sum(p) + _sum(e)), (1 - gate) * e[j] / _sum(e)) for j in range(4)]


def normal_forms() -> Pairs:
    """T27: 2 x 2, rank 1: Wx + s B(Ax) = (W + s BA)x, and (IA)^3 l*(Wx + c) = (diag(l)W)x + diag(l)c."""
    w, b, a, s = _matrix("W", 2, 2), _matrix("B", 2, 1), _matrix("A", 1, 2), symbol("s")
    x, c, l = _column("x", 2), _column("c", 2), _symbols("l", 2)
    scaled = [[l[0], 0], [0, l[1]]]
    beside = combination((1, product(w, x)), (s, product(b, product(a, x))))
    merged = product(combination((1, w), (s, product(b, a))), x)
    outside = [[l[i] * row[0]] for i, row in enumerate(combination((1, product(w, x)), (1, c)))]
    inside = combination((1, product(product(scaled, w), x)), (1, product(scaled, c)))
    return _entries(beside, merged) + _entries(outside, inside)


def first_lora_step() -> Pairs:
    """T29: loss |(W + s BA)x - y|^2/2: a step eta from B = 0 moves sBA by -eta s^2 G A'A, and A not.

    A does not move, because its gradient s B'(dloss/dy)x' vanishes with B; G is the gradient in W.
    """
    w, b, a, s = _matrix("W", 2, 2), _matrix("B", 2, 1), _matrix("A", 1, 2), symbol("s")
    x, y, eta, zero = _column("x", 2), _column("y", 2), symbol("eta"), {"B00": 0, "B10": 0}
    weight = combination((1, w), (s, product(b, a)))
    rest = combination((1, product(weight, x)), (-1, y))
    loss = _sum(entry**2 for (entry,) in rest) / 2
    step = [[-eta * loss.along({f"B{i}0": 1}).where(zero)] for i in range(2)]
    start = product(combination((1, product(w, x)), (-1, y)), transpose(x), transpose(a), a)
    slopes = [[loss.along({f"A0{j}": 1}) for j in range(2)]]
    return [
        *_entries(combination((s, product(step, a))), combination((-eta * s**2, start))),
        *_entries(slopes, combination((s, product(transpose(b), rest, transpose(x))))),
    ]


def adjoint() -> Pairs:
    """T31: scalar states, T = 3, any derivatives of f_t, L_t and Phi: dJ/du_s = r_s + b_s lambda_(s+1).

    a_t, b_t are the derivatives of f_t in x and u, q_t, r_t those of L_t, p that of Phi; the left side is the
    chain rule forward in time, lambda_t = q_t + a_t lambda_(t+1) runs backward. At the last step both are
    r + b p from the start.
    """
    steps, p = 3, symbol("p")
    a, b, q, r = (_symbols(name, steps) for name in "abqr")
    pairs = []
    for s in range(steps - 1):
        moved, forward = quotient(0), r[s]
        for t in range(steps):
            forward = forward + q[t] * moved
            moved = a[t] * moved + (b[t] if t == s else 0)
        costate = p
        for t in reversed(range(s + 1, steps)):
            costate = q[t] + a[t] * costate
        pairs.append((forward + p * moved, r[s] + b[s] * costate))
    return pairs


def lqr_step() -> Pairs:
    """T34: x'Qx + R u^2 + x+'P x+ = x'P-x + H (u + Kx)^2, x+ = Ax + Bu, H = R + B'PB, K = B'PA/H."""
    a, b, x, u, r = _matrix("A", 2, 2), _matrix("B", 2, 1), _column("x", 2), symbol("u"), symbol("R")
    q, p = _symmetric("Q"), _symmetric("P")
    following = combination((1, product(a, x)), (u, b))
    h = r + product(transpose(b), p, b)[0][0]
    gain = product(transpose(b), p, a)
    before = combination((1, q), (1, product(transpose(a), p, a)), (-1 / h, product(transpose(gain), gain)))

    def form(m: Matrix, v: Matrix) -> Quotient:
        return product(transpose(v), m, v)[0][0]

    left = form(q, x) + r * u**2 + form(p, following)
    return [(left, form(before, x) + h * (u + product(gain, x)[0][0] / h) ** 2)]


def prefix_reach() -> Pairs:
    """T39: two prefix tokens, n = 3, o' - (1 - lambda) o = lambda o_P; z <= ke gives z/(z+g) <= ke/(ke+g)."""
    e, p, v, u = _symbols("E", 3), _symbols("P", 2), _symbols("v", 3), _symbols("u", 2)
    gate = _sum(p) / (_sum(p) + _sum(e))
    k, top, z, g = map(symbol, ("k", "e", "z", "g"))
    return [
        (_attended(p + e, u + v) - (1 - gate) * _attended(e, v), gate * _attended(p, u)),
        (k * top / (k * top + g) - z / (z + g), g * (k * top - z) / ((k * top + g) * (z + g))),
    ]


def gronwall() -> Pairs:
    """T40: scalar maps x -> K_t x + e_t, T = 4: the difference to e = 0 is sum_t prod_(s>t) K_s e_t."""
    k, e = _symbols("K", 4), _symbols("e", 4)
    plain = moved = symbol("x")
    for t in range(4):
        plain, moved = k[t] * plain, k[t] * moved + e[t]
    return [(moved - plain, _sum(e[t] * prod(k[t + 1 :], start=quotient(1)) for t in range(4)))]


def determinant_lemma() -> Pairs:
    """T42: 2 x 2, M symmetric: det(M + vv') = det M (1 + v'M^-1 v)."""
    a, b, c, v = symbol("a"), symbol("b"), symbol("c"), _column("v", 2)
    moved = combination((1, [[a, b], [b, c]]), (1, product(v, transpose(v))))
    grown, det = moved[0][0] * moved[1][1] - moved[0][1] * moved[1][0], a * c - b * b
    inverse = combination((1 / det, [[c, -b], [-b, a]]))
    return [(grown, det * (1 + product(transpose(v), inverse, v)[0][0]))]


def softmax_half() -> Pairs:
    """T43: a row of |diag(p) - pp'| sums to 2p(1 - p), and 1/2 - 2p(1 - p) = (1 - 2p)^2/2, for every n.

    The row is that of E/(E + R), R the sum of all other weights: dE/ds = E for its own score s, and scaling
    all others together moves R by R, so the entries off the diagonal, all negative, sum to R d/dR.
    """
    e, rest, t = symbol("E"), symbol("R"), symbol("p")
    p = e / (e + rest)
    row = p.along({"E": e}) - p.along({"R": rest})
    return [(row, 2 * p * (1 - p)), (HALF - 2 * t * (1 - t), (1 - 2 * t) ** 2 / 2)]


def two_token_attention() -> Pairs:
    """T44: the Jacobian of p v1 + (1-p) v2 is p(1-p)(v1-v2)(k1-k2)', and 1/4 - p(1-p) = (1/2 - p)^2."""
    e1, e2, v1, v2, k1, k2 = map(symbol, ("E1", "E2", "v1", "v2", "k1", "k2"))
    p, t = e1 / (e1 + e2), symbol("p")
    slope = _attended([e1, e2], [v1, v2]).along({"E1": e1 * k1, "E2": e2 * k2})  # dE_j/dx = E_j k_j
    return [(slope, p * (1 - p) * (v1 - v2) * (k1 - k2)), (Fraction(1, 4) - t * (1 - t), (HALF - t) ** 2)]


def attention_unbounded() -> Pairs:
    """T45: tokens x, s, -s: at x = 0 the output of the first moves at (E0 + 2 E s^2) / (E0 + 2 E).

    E0 = exp(x^2), and exp(xs) = exp(-xs) = E at x = 0, where their exponents have the slopes 0, s and -s. All
    of them are 1 there, so it is (1 + 2s^2) / 3.
    """
    s, x, own, other = map(symbol, ("s", "x", "E0", "E"))
    weights = _symbols("e", 3)
    slope = _attended(weights, [x, s, -s]).along({"x": 1, "e1": weights[1] * s, "e2": -weights[2] * s})
    here = slope.where({"x": 0, "e0": own, "e1": other, "e2": other})
    return [(here, (own + 2 * other * s**2) / (own + 2 * other))]


def layer_norm() -> Pairs:
    """T47: n = 3, x centred: J = (C - xx'/(n s^2))/s has J1 = 0, Jx = (eps/s^3) x, and Jv = v/s else."""
    a, b, s = map(symbol, ("a", "b", "s"))
    one, x = [[quotient(1)]] * 3, [[a], [b], [-a - b]]
    v = [[x[2][0] - x[1][0]], [x[0][0] - x[2][0]], [x[1][0] - x[0][0]]]  # 1 x x
    eps = s**2 - product(transpose(x), x)[0][0] / 3
    centre = [[Fraction(i == j) - Fraction(1, 3) for j in range(3)] for i in range(3)]
    bracket = combination((1, centre), (-1 / (3 * s**2), product(x, transpose(x))))  # s J
    pairs = _entries(product(bracket, one), [[quotient(0)]] * 3) + _entries(product(bracket, v), v)
    pairs += _entries(product(bracket, x), combination((eps / s**2, x)))
    # The formula itself, from (y - mean) / s with s^2 = var + eps; the others permute.
    y = _symbols("y", 3)
    mean = _sum(y) / 3
    variance = _sum((entry - mean) ** 2 for entry in y) / 3
    for j in range(2):
        rates = {f"y{j}": 1, "s": variance.along({f"y{j}": 1}) / (2 * s)}
        slope = ((y[0] - mean) / s).along(rates)
        pairs.append((slope, (centre[0][j] - (y[0] - mean) * (y[j] - mean) / (3 * s**2)) / s))
    return pairs


def gelu_curvature() -> Pairs:
    """T48: GELU'' = phi (2 - x^2), so GELU' is extreme at +-sqrt 2, and GELU'(-x) = 1 - GELU'(x).

    Phi(x) = (1 + erf)/2 with erf = erf(x/sqrt 2); erf moves at 2 phi, phi at -x phi.
    """
    x, phi, erf = map(symbol, ("x", "phi", "erf"))
    rates = {"x": 1, "erf": 2 * phi, "phi": -x * phi}
    slope = (x * (1 + erf) / 2).along(rates)
    opposite = slope.where({"x": -x, "erf": -erf})  # erf is odd, phi is even
    return [(slope.along(rates), phi * (2 - x**2)), (slope + opposite, quotient(1))]


def gaussian_line() -> Pairs:
    """T50: curvatures a^2, b^2 in the plane: what a Gaussian line captures of the first, and its equivalent.

    At the slope t of the line, of density 1/(pi (1 + t^2)), it is a^2/(a^2 + b^2 t^2): partial fractions,
    whose integrals are 1 and b/a (arctan). For c = 1/(ab) the mean is c a^2/(1 + c a^2), and both sum to 1.
    """
    a, b, t = map(symbol, ("a", "b", "t"))
    share = a**2 / ((a**2 + b**2 * t**2) * (1 + t**2))
    parts = (1 / (1 + t**2) - b**2 / (a**2 + b**2 * t**2)) * (a**2 / (a**2 - b**2))
    c = 1 / (a * b)
    first, second = c * a**2 / (1 + c * a**2), c * b**2 / (1 + c * b**2)
    mean = (1 - b / a) * (a**2 / (a**2 - b**2))
    return [(share, parts), (mean, first), (first + second, quotient(1))]


def factor_moves() -> Pairs:
    """T54: f = b <a, x>, loss (f - y)^2/2, n = 2: a step of both factors changes f by three terms."""
    a, x, (b, y, p, q) = _symbols("a", 2), _symbols("x", 2), map(symbol, ("b", "y", "eta_a", "eta_b"))
    code, size = _sum(map(mul, a, x)), _sum(map(mul, x, x))
    loss = (b * code - y) ** 2 / 2
    moved = [a[i] - p * loss.along({f"a{i}": 1}) for i in range(2)]
    after = (b - q * loss.along({"b": 1})) * _sum(map(mul, moved, x))
    u = b * code - y
    terms = -p * u * b**2 * size - q * u * code**2 + p * q * u**2 * b * code * size
    return [(after - b * code, terms)]


def one_token() -> Pairs:
    """T57: 3 tokens of prefix beside 2 act as one, of weight Z = sum p_i and value sum p_i u_i / Z."""
    e, p, v, u = _symbols("E", 2), _symbols("P", 3), _symbols("v", 2), _symbols("u", 3)
    return [(_attended(p + e, u + v), _attended([_sum(p), *e], [_attended(p, u), *v]))]


# What a certificate may name, and what builds it.
IDENTITIES = {
    build.__name__: build
    for build in (
        gradient_descent_every_n,
        lifting,
        best_rank_one,
        prefix_is_gate,
        relative_attention,
        normal_forms,
        first_lora_step,
        adjoint,
        lqr_step,
        prefix_reach,
        gronwall,
        determinant_lemma,
        softmax_half,
        two_token_attention,
        attention_unbounded,
        layer_norm,
        gelu_curvature,
        gaussian_line,
        factor_moves,
        one_token,
    )
}
