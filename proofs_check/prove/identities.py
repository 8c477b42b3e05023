"""Identities of rational functions, proved with SymPy and stored as trees that the verifier expands anew.

exp(s_j) of a score enters only as a positive number, so it is a symbol E_j; likewise Phi(x) and phi(x).
Each gives pairs of sides, the left one built from the definition; its name is that of the identity that the
verifier builds apart (`proofs_check.identities`), which these trees have to be.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import sympy as sp

from proofs_check.expressions import Tree
from proofs_check.prove import Found, Prover

Pairs = list[tuple[Any, Any]]
half = sp.Rational(1, 2)


def certificate_data(name: str, pairs: Pairs) -> dict:
    """Prove every pair with SymPy and write it as trees, under the name of an identity.

    Raises:
        ValueError: if SymPy does not reduce the difference of a pair to zero, or has made both sides the same
            before, which would leave nothing to verify.

    """
    for left, right in pairs:
        if sp.cancel(sp.together(left - right)) != 0:
            raise ValueError(f"{name}: SymPy does not confirm {left} = {right}")
        if tree(left) == tree(right):
            raise ValueError(f"{name}: {left} = {right} says nothing")
    return {"name": name, "pairs": [[tree(a), tree(b)] for a, b in pairs]}


def identity(build: Callable[[], Pairs]) -> Prover:
    """Make a prover of a function that gives pairs of sides."""

    @wraps(build)
    def prover() -> Found:
        yield "identity", "identity", [certificate_data(build.__name__, build())]

    return prover


def tree(expression: Any) -> Tree:
    """Write a SymPy expression as a JSON tree."""
    expression = sp.sympify(expression)
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return expression.name
    if expression.is_Rational:
        return ["/", int(expression.p), int(expression.q)]
    if expression.is_Add:
        return ["+", *map(tree, expression.args)]
    if expression.is_Mul:
        above, below = expression.as_numer_denom()
        return ["*", *map(tree, expression.args)] if below == 1 else ["/", tree(above), tree(below)]
    if expression.is_Pow and expression.exp.is_Integer:
        power = ["^", tree(expression.base), abs(int(expression.exp))]
        return power if expression.exp > 0 else ["/", 1, power]
    raise ValueError(f"not a rational function: {expression}")


def _symbols(name: str, *shape: int) -> Any:
    if len(shape) == 1:
        return sp.Matrix([sp.Symbol(f"{name}{i}") for i in range(shape[0])])
    return sp.Matrix(*shape, lambda i, j: sp.Symbol(f"{name}{i}{j}"))


@identity
def gradient_descent_every_n() -> Pairs:
    """T09 for every N, h = 1: a potential falls by weighted inequalities and a square at each step.

    With f* = x* = 0, m_k = k/(2N+1-k), t_k = m_(k+1) - m_k, a_k = (2N+1-2k)/(2(2N+1-k)^2) and
    V_k = m_k (f_k + |g_k|^2/2) + a_k |x_k|^2, the steps are
    V_(k-1) - V_k = t_(k-1) (* > k-1) + m_k (k-1 > k) + d_(k-1) |g_(k-1) - x_(k-1)/(2N+2-k)|^2,
    f_N + (1 - m_N) (* > N) + |g_N - x_N/(N+1)|^2/2 = V_N, and V_0 = |x_0|^2/(4N+2). So f_N <= |x_0|^2/(4N+2).
    """
    n, k, x, g, f, p, q = sp.symbols("N k x g f g_next f_next")

    def m(k: Any) -> Any:
        return k / (2 * n + 1 - k)

    def a(k: Any) -> Any:
        return (2 * n + 1 - 2 * k) / (2 * (2 * n + 1 - k) ** 2)

    def d(k: Any) -> Any:
        return (2 * n + 1 + 4 * n * k - 2 * k**2) / (2 * (2 * n - k) ** 2)

    star = -f + g * x - g**2 / 2
    chain = f - q - p * g - (g - p) ** 2 / 2
    before = m(k - 1) * (f + g**2 / 2) + a(k - 1) * x**2
    after = m(k) * (q + p**2 / 2) + a(k) * (x - g) ** 2
    square = d(k - 1) * (g - x / (2 * n + 2 - k)) ** 2
    step = (after + (m(k) - m(k - 1)) * star + m(k) * chain + square, before)
    end_square = (g - x / (n + 1)) ** 2 / 2
    end = (f + (1 - m(n)) * star + end_square, m(n) * (f + g**2 / 2) + a(n) * x**2)
    positive = (2 * n + 1 + 4 * n * k - 2 * k**2, 2 * n + 1 + 2 * k**2 + 4 * k * (n - k))
    increasing = (m(k + 1) - m(k), (2 * n + 1) / ((2 * n + 1 - k) * (2 * n - k)))
    pairs = [step, end, (a(sp.Integer(0)), 1 / (4 * n + 2)), positive, increasing]
    return pairs


@identity
def lifting() -> Pairs:
    """T10, block Q, N = 3, w = Q(x0-x*): the rest is a sum of squares, for any m_k and sum t_k = 1."""
    w, g, m = sp.Symbol("w"), _symbols("g", 4), _symbols("m", 4)
    t = [*sp.symbols("t0 t1 t2")]
    t.append(1 - sum(t))
    used = sum(t[k] * (g[k] * w - g[k] ** 2 / 2) for k in range(4))
    used += sum(m[k] * -((g[k - 1] - g[k]) ** 2) / 2 for k in range(1, 4))
    squares = sum(t[k] * (w - g[k]) ** 2 for k in range(4)) / 2
    squares += sum(m[k] * (g[k - 1] - g[k]) ** 2 for k in range(1, 4)) / 2
    return [(w**2 / 2 - used, squares)]


@identity
def best_rank_one() -> Pairs:
    """T15, 2 x 2, W = diag(s1, s2): ba' with the best b leaves s2^2 + (s1^2 - s2^2) a2^2/|a|^2."""
    s1, s2, a1, a2 = sp.symbols("s1 s2 a1 a2")
    w, a = sp.diag(s1, s2), sp.Matrix([a1, a2])
    rest = w - w * a * a.T / (a1**2 + a2**2)
    left = sum(entry**2 for entry in rest)
    return [(left, s2**2 + (s1**2 - s2**2) * a2**2 / (a1**2 + a2**2))]


def _attended(weights: Any, values: Any) -> Any:
    return sum(e * v for e, v in zip(weights, values, strict=True)) / sum(weights)


@identity
def prefix_is_gate() -> Pairs:
    """T24: attention with k = 2 prefix tokens beside n = 4 is (1 - lambda) o + lambda o_P."""
    e, p, v, u = _symbols("E", 4), _symbols("P", 2), _symbols("v", 4), _symbols("u", 2)
    gate = sum(p) / (sum(p) + sum(e))
    both = _attended([*p, *e], [*u, *v])
    return [(both, (1 - gate) * _attended(e, v) + gate * _attended(p, u))]


@identity
def relative_attention() -> Pairs:
    """T25: with a prefix every A_j becomes (1 - lambda) A_j, so the ratios A_j / A_k stay."""
    e, p = _symbols("E", 4), _symbols("P", 2)
    total, gate = sum(p) + sum(e), sum(p) / (sum(p) + sum(e))
    pairs = [(e[j] / total, (1 - gate) * e[j] / sum(e)) for j in range(4)]
    return pairs


@identity
def normal_forms() -> Pairs:
    """T27: LoRA merges, and IA3 scales the rows of the weight and the bias."""
    w, b, a = _symbols("W", 2, 2), _symbols("B", 2, 1), _symbols("A", 1, 2)
    x, l, c = (_symbols(name, 2) for name in "xlc")
    s = sp.Symbol("s")
    pairs = list(zip(w * x + s * b * (a * x), (w + s * b * a) * x, strict=True))
    pairs += list(zip(sp.diag(*l) * (w * x + c), sp.diag(*l) * w * x + sp.diag(*l) * c, strict=True))
    return pairs


@identity
def first_lora_step() -> Pairs:
    """T29: at B = 0 one gradient step of size eta moves s B A by -eta s^2 G A'A, G the gradient in W.

    A does not move: its gradient is s B'(dloss/dy)x', which vanishes with B.
    """
    w, b, a, x, y = (
        _symbols("W", 2, 2),
        _symbols("B", 2, 1),
        _symbols("A", 1, 2),
        _symbols("x", 2),
        _symbols("y", 2),
    )
    s, eta = sp.symbols("s eta")
    rest = (w + s * b * a) * x - y
    loss = rest.dot(rest) / 2
    zero = dict.fromkeys(b, 0)
    step = sp.Matrix([-eta * sp.diff(loss, entry).subs(zero) for entry in b])
    gradient = (w * x - y) * x.T
    right = -eta * s**2 * gradient * a.T * a
    pairs = list(zip(s * step * a, right, strict=True))
    pairs += list(zip([sp.diff(loss, entry) for entry in a], s * b.T * rest * x.T, strict=True))
    return pairs


@identity
def adjoint() -> Pairs:
    """T31, scalar states, T = 3: forward sensitivities and costates give one gradient.

    a_t, b_t are the derivatives of f_t in x and u, q_t, r_t those of the running cost, p that of Phi; that
    they are what SymPy's chain rule gives for generic functions is checked beside.
    """
    steps, p = 3, sp.Symbol("p")
    a, b, q, r = (sp.symbols(f"{name}:{steps}") for name in "abqr")
    pairs = []
    for s in range(steps):
        moved, forward = sp.Integer(0), r[s]
        for t in range(steps):
            forward += q[t] * moved
            moved = a[t] * moved + (b[t] if t == s else 0)
        forward += p * moved
        costate = p
        for t in reversed(range(s + 1, steps)):
            costate = q[t] + a[t] * costate
        pairs.append((forward, r[s] + b[s] * costate))
    _chain_rule(steps, pairs, a, b, q, r, p)
    # At the last step both sides are r + b p from the start.
    return pairs[:-1]


def _chain_rule(steps: int, pairs: Pairs, a: Any, b: Any, q: Any, r: Any, p: Any) -> None:
    """Check the forward sides against the derivative of J composed of undefined functions."""
    u, x, cost = sp.symbols(f"u:{steps}"), sp.Symbol("x"), sp.Integer(0)
    for t in range(steps):
        cost += sp.Function(f"l{t}")(x, u[t])
        x = sp.Function(f"f{t}")(x, u[t])
    cost += sp.Function("Phi")(x)
    for s, (forward, _) in enumerate(pairs):
        derivative, names = sp.diff(cost, u[s]), {}
        for term in derivative.atoms(sp.Derivative):
            name, by_control = term.expr.func.__name__, term.variables[0] in u
            in_state, in_control = (a, b) if name[0] == "f" else (q, r)
            names[term] = p if name == "Phi" else (in_control if by_control else in_state)[int(name[1:])]
        if sp.expand(derivative.xreplace(names) - forward) != 0:
            raise ValueError(f"T31: the chain rule gives {derivative}, not {forward}")


@identity
def lqr_step() -> Pairs:
    """T34, one step, n = 2, m = 1: x'Qx + Ru^2 + x+'Px+ = x'P-x + H (u + Kx)^2."""
    a, b, x, u, r = _symbols("A", 2, 2), _symbols("B", 2, 1), _symbols("x", 2), sp.Symbol("u"), sp.Symbol("R")
    q = sp.Matrix([[sp.Symbol("Q00"), sp.Symbol("Q01")], [sp.Symbol("Q01"), sp.Symbol("Q11")]])
    p = sp.Matrix([[sp.Symbol("P00"), sp.Symbol("P01")], [sp.Symbol("P01"), sp.Symbol("P11")]])
    following = a * x + b * u
    h = r + (b.T * p * b)[0]
    k = b.T * p * a / h
    before = q + a.T * p * a - a.T * p * b * b.T * p * a / h
    left = (x.T * q * x)[0] + r * u**2 + (following.T * p * following)[0]
    return [(left, (x.T * before * x)[0] + h * (u + (k * x)[0]) ** 2)]


@identity
def prefix_reach() -> Pairs:
    """T39: o' - (1 - lambda) o = lambda o_P, and z <= k e gives z/(z+g) <= k e/(k e+g)."""
    e, p, v, u = _symbols("E", 3), _symbols("P", 2), _symbols("v", 3), _symbols("u", 2)
    gate = sum(p) / (sum(p) + sum(e))
    both = _attended([*p, *e], [*u, *v])
    k, top, z, g = sp.symbols("k e z g")
    gap = g * (k * top - z) / ((k * top + g) * (z + g))
    pairs = [
        (both - (1 - gate) * _attended(e, v), gate * _attended(p, u)),
        (k * top / (k * top + g) - z / (z + g), gap),
    ]
    return pairs


@identity
def gronwall() -> Pairs:
    """T40 is attained by scalar maps x -> K_t x + e_t: the difference is sum_t prod_(s>t) K_s e_t, T = 4."""
    k, e, x = _symbols("K", 4), _symbols("e", 4), sp.Symbol("x")
    plain = moved = x
    for t in range(4):
        plain, moved = k[t] * plain, k[t] * moved + e[t]
    return [(moved - plain, sum(e[t] * sp.prod(k[t + 1 :]) for t in range(4)))]


@identity
def determinant_lemma() -> Pairs:
    """T42, 2 x 2: det(M + vv') = det M (1 + v'M^-1 v), so log det gains less from v where M is larger."""
    m = sp.Matrix([[sp.Symbol("a"), sp.Symbol("b")], [sp.Symbol("b"), sp.Symbol("c")]])
    v = _symbols("v", 2)
    gain = 1 + (v.T * m.inv() * v)[0]
    return [((m + v * v.T).det(), m.det() * gain)]


@identity
def softmax_half() -> Pairs:
    """T43: a row of |diag(p) - pp'| sums to 2p(1 - p), and 1/2 - 2p(1 - p) = (1 - 2p)^2/2, for every n.

    The row is that of E/(E + R), R the sum of all other weights: dE/ds = E for its own score s, and scaling
    all others together moves R by R, so the entries off the diagonal, all negative, sum to R d/dR.
    """
    e, rest, t = sp.symbols("E R p")
    p = e / (e + rest)
    row = sp.diff(p, e) * e - sp.diff(p, rest) * rest
    pairs = [(row, 2 * p * (1 - p)), (half - 2 * t * (1 - t), (1 - 2 * t) ** 2 / 2)]
    return pairs


@identity
def two_token_attention() -> Pairs:
    """T44: the Jacobian of p v1 + (1-p) v2 is p(1-p)(v1-v2)(k1-k2)', and 1/4 - p(1-p) = (1/2 - p)^2."""
    e1, e2, v1, v2, k1, k2 = sp.symbols("E1 E2 v1 v2 k1 k2")
    p = e1 / (e1 + e2)
    output = _attended([e1, e2], [v1, v2])
    slope = sp.diff(output, e1) * e1 * k1 + sp.diff(output, e2) * e2 * k2  # dE_j/dx = E_j k_j
    t = sp.Symbol("p")
    pairs = [(slope, p * (1 - p) * (v1 - v2) * (k1 - k2)), (sp.Rational(1, 4) - t * (1 - t), (half - t) ** 2)]
    return pairs


@identity
def attention_unbounded() -> Pairs:
    """T45, tokens x, s, -s: at x = 0 the first output has the derivative (E0 + 2 E s^2) / (E0 + 2 E).

    E0 = exp(x^2), and exp(xs) = exp(-xs) = E at x = 0, where their exponents have the slopes 0, s and -s. All
    of them are 1 there, so it is (1 + 2s^2) / 3.
    """
    s, x, own, other = sp.symbols("s x E0 E")
    e = _symbols("e", 3)
    output = _attended(e, [x, s, -s])
    slope = sp.diff(output, x) + sum(sp.diff(output, w) * w * t for w, t in zip(e, (0, s, -s), strict=True))
    here = slope.subs(dict(zip([x, *e], [0, own, other, other], strict=True)))
    return [(here, (own + 2 * other * s**2) / (own + 2 * other))]


@identity
def layer_norm() -> Pairs:
    """T47, n = 3, centred x: J = (C - xx'/(n s^2))/s has J1 = 0, Jx = (eps/s^3) x, and Jv = v/s else."""
    a, b, s = sp.symbols("a b s")
    one, x = sp.ones(3, 1), sp.Matrix([a, b, -a - b])
    v = one.cross(x)
    eps = s**2 - (x.T * x)[0] / 3
    centre = sp.eye(3) - one * one.T / 3
    bracket = centre - x * x.T / (3 * s**2)  # s J
    pairs = [(entry, 0) for entry in bracket * one] + list(zip(bracket * v, v, strict=True))
    pairs += list(zip(bracket * x, eps / s**2 * x, strict=True))
    # The formula itself, differentiated from (y - mean) / sqrt(var + eps), the others permute.
    y, free, t = sp.symbols("y0 y1 y2"), sp.Symbol("eps"), sp.Symbol("t", positive=True)
    mean = sum(y) / 3
    variance = sum((entry - mean) ** 2 for entry in y) / 3
    for j in range(2):
        slope = sp.diff((y[0] - mean) / sp.sqrt(variance + free), y[j])
        direct = sp.powdenest(slope.subs(free, t**2 - variance), force=True).subs(t, s)
        pairs.append((direct, (centre[0, j] - (y[0] - mean) * (y[j] - mean) / (3 * s**2)) / s))
    return pairs


@identity
def gelu_curvature() -> Pairs:
    """T48: GELU'' = phi (2 - x^2), so GELU' is extreme at +-sqrt 2, and GELU'(-x) = 1 - GELU'(x)."""
    x, phi, erf = sp.symbols("x phi erf")
    density, law = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi), (1 + sp.erf(x / sp.sqrt(2))) / 2
    if sp.simplify(sp.diff(x * law, x, 2) - density * (2 - x**2)) != 0:
        raise ValueError("T48: SymPy does not confirm the second derivative of GELU")
    second = phi + phi + x * (-x * phi)  # Phi' = phi, phi' = -x phi
    here, there = ((1 + sign * erf) / 2 + sign * x * phi for sign in (1, -1))  # erf is odd, phi is even
    return [
        (second, phi * (2 - x**2)),
        (sp.Add(here, there, evaluate=False), sp.Integer(1)),
    ]


@identity
def gaussian_line() -> Pairs:
    """T50: what a Gaussian line in the plane captures, in partial fractions, and its equivalent."""
    a, b, t = sp.symbols("a b t", positive=True)
    share = a**2 / ((a**2 + b**2 * t**2) * (1 + t**2))
    weight = a**2 / (a**2 - b**2)
    parts = weight * (1 / (1 + t**2) - b**2 / (a**2 + b**2 * t**2))
    for part, area in ((1 / (1 + t**2), 1), (b**2 / (a**2 + b**2 * t**2), b / a)):
        if sp.simplify(2 * sp.integrate(part, (t, 0, sp.oo)) / sp.pi - area) != 0:
            raise ValueError(f"T50: SymPy does not confirm the integral of {part}")
    c = 1 / (a * b)
    first, second = c * a**2 / (1 + c * a**2), c * b**2 / (1 + c * b**2)
    mean = sp.Mul(weight, 1 - b / a, evaluate=False)
    return [(share, parts), (mean, first), (sp.Add(first, second, evaluate=False), sp.Integer(1))]


@identity
def factor_moves() -> Pairs:
    """T54: f = b <a, x>, n = 2: the terms of a, of b, and of both."""
    a, x, b, y, p, q = _symbols("a", 2), _symbols("x", 2), *sp.symbols("b y eta_a eta_b")
    code, size = a.dot(x), x.dot(x)
    loss = (b * code - y) ** 2 / 2
    moved = sp.Matrix([entry - p * sp.diff(loss, entry) for entry in a])
    after = (b - q * sp.diff(loss, b)) * moved.dot(x)
    u = b * code - y
    return [
        (after - b * code, -p * u * b**2 * size - q * u * code**2 + p * q * u**2 * b * code * size),
    ]


@identity
def one_token() -> Pairs:
    """T57: 3 tokens of prefix beside 2 of context act as one."""
    e, p, v, u = _symbols("E", 2), _symbols("P", 3), _symbols("v", 2), _symbols("u", 3)
    token = sp.Mul(sum(p), _attended(p, u), evaluate=False)  # which SymPy would cancel
    return [(_attended([*p, *e], [*u, *v]), sp.Add(token, e.dot(v), evaluate=False) / (sum(p) + sum(e)))]
