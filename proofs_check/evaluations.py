"""Identities of matrices tested at random rational points, exactly (Schwartz, 1980; Zippel, 1979).

An evaluation draws integers, computes both sides of an identity of rational functions, and gives the pairs
(left, right) with a bound on the degree of the numerator of their difference: if the identity were false, the
sides would agree at a point drawn uniformly from s integers a coordinate with probability <= degree / s.
`sign` = -1 spoils one sign of the right side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from proofs_check.intervals import Jet
from proofs_check.rational import (
    Matrix,
    Vector,
    combination,
    identity,
    inner,
    product,
    rank,
    solve,
    transpose,
)

Draw = Callable[[int, int], Matrix]  # rows, columns -> a random matrix
Sides = tuple[list[tuple[Any, Any]], int]
Jets = list[Jet[Fraction]]


def telescoping(draw: Draw, sign: int, n: int, layers: int) -> Sides:
    """T20: prod(W_l + D_l) - prod W_l = sum_l (W_L+D_L)..(W_(l+1)+D_(l+1)) D_l W_(l-1)..W_1."""
    w, d = [draw(n, n) for _ in range(layers)], [draw(n, n) for _ in range(layers)]
    moved = [combination((1, a), (1, b)) for a, b in zip(w, d, strict=True)]
    eye = identity(n)
    left = combination((1, product(eye, *moved[::-1])), (-1, product(eye, *w[::-1])))
    terms = [product(eye, *moved[:l:-1], d[l], *w[:l][::-1]) for l in range(layers)]
    return [(left, combination((1, terms[0]), *((sign, term) for term in terms[1:])))], layers


def attainment(draw: Draw, sign: int, n: int) -> Sides:
    """T21: D_1 = W2^-1 e1 f1', D_2 = e2 f2' (W1 + D_1)^-1 give (W2+D_2)(W1+D_1) = W2 W1 + e1 f1' + e2 f2'."""
    w1, w2, e1, f1, e2, f2 = draw(n, n), draw(n, n), draw(n, 1), draw(1, n), draw(n, 1), draw(1, n)
    first = combination((1, w1), (sign, product(solve(w2, e1), f1)))
    second = combination((1, w2), (1, product(e2, f2, solve(first, identity(n)))))
    wanted = combination((1, product(w2, w1)), (1, product(e1, f1)), (1, product(e2, f2)))
    return [(product(second, first), wanted)], 6 * n * n + 6  # Cramer twice, each minor of degree <= n


def attention_scores(draw: Draw, sign: int, n: int, d: int) -> Sides:
    """T23: (Wq + Dq)(Wk + Dk)' - Wq Wk' = Dq Wk' + (Wq + Dq) Dk', so its rank is at most r_q + r_k."""
    q, k, dq, dk = draw(n, d), draw(n, d), draw(n, d), draw(n, d)
    moved = combination((1, q), (1, dq))
    left = combination(
        (1, product(moved, transpose(combination((1, k), (1, dk))))), (-1, product(q, transpose(k)))
    )
    return [(left, combination((1, product(dq, transpose(k))), (sign, product(moved, transpose(dk)))))], 2


def _attention(x: Matrix, wq: Matrix, wk: Matrix, wv: Matrix, extra: list[tuple[Vector, Vector]]) -> Matrix:
    """Causal attention with the weights 1 + (q.k)^2 > 0 for exp(q.k); `extra` keys and values come first."""
    q, k, v = product(x, wq), product(x, wk), product(x, wv)
    rows = []
    for i, query in enumerate(q):
        keys = [key for key, _ in extra] + k[: i + 1]
        values = [value for _, value in extra] + v[: i + 1]
        weights = [1 + inner(query, key) ** 2 for key in keys]
        rows.append([inner(weights, column) / sum(weights) for column in zip(*values, strict=True)])
    return combination((1, x), (1, rows))


def causal_prompt_is_prefix(draw: Draw, sign: int, d: int, prompt: int, text: int) -> Sides:
    """T26: through two causal attention layers a soft prompt acts as a prefix made from the prompt alone."""
    p, x = draw(prompt, d), draw(text, d)
    both, alone, steered = p + x, p, x
    for _ in range(2):
        layer = draw(d, d), draw(d, d), draw(d, d)
        keys, values = product(alone, layer[1]), combination((sign, product(alone, layer[2])))
        both = _attention(both, *layer, [])
        steered = _attention(steered, *layer, list(zip(keys, values, strict=True)))
        alone = _attention(alone, *layer, [])
    # A layer takes fractions of degree m to degree <= 12 (prompt + text) (m + 1), above and below the line.
    layer_degree = 12 * (prompt + text)
    return [(both[prompt:], steered)], 4 * layer_degree * (layer_degree * 2 + 1)


def lora_dimension(draw: Draw, sign: int, m: int, n: int, r: int) -> Sides:
    """T28: (BG)(G^-1 A) = BA, and the Jacobian of (B, A) -> BA has rank r (m + n - r)."""
    b, a, g = draw(m, r), draw(r, n), draw(r, r)
    rows = []
    for i in range(m):
        for j in range(r):
            rows.append([a[j][l] * (k == i) for k in range(m) for l in range(n)])
    for j in range(r):
        for l in range(n):
            rows.append([b[k][j] * (c == l) for k in range(m) for c in range(n)])
    gauge = product(b, g, solve(g, a)), product(b, a)
    return [gauge, (rank(rows), r * (m + n - sign * r))], r * (m + n) + 2 * r + 2


def _constant(x: Fraction) -> Jet[Fraction]:
    return Jet(x, Fraction())


def _bilinear(a: Matrix, b: Matrix, c: Matrix, x: Jets, u: Jets) -> Jets:
    """x+_i = sum_j (A_ij + u_0 C_ij) x_j + sum_j B_ij u_j in jets."""
    result = []
    for i in range(len(a)):
        total = _constant(Fraction())
        for j, state in enumerate(x):
            total = total + (_constant(a[i][j]) + u[0] * _constant(c[i][j])) * state
        for j, control in enumerate(u):
            total = total + _constant(b[i][j]) * control
        result.append(total)
    return result


def _columns(us: Matrix, run: Callable[[list[Jets]], Jets]) -> Matrix:
    """Return the transposed Jacobian of `run` with respect to all controls: one row a coordinate."""
    rows = []
    for t, u in enumerate(us):
        for j in range(len(u)):
            moved = [[Jet(v, Fraction((s, i) == (t, j))) for i, v in enumerate(w)] for s, w in enumerate(us)]
            rows.append([out.slope for out in run(moved)])
    return rows


def _rollout(system: list[tuple[Matrix, Matrix, Matrix]], x: Matrix, us: list[Jets]) -> list[Jets]:
    states = [[_constant(entry) for entry in x[0]]]
    for (a, b, c), u in zip(system, us, strict=True):
        states.append(_bilinear(a, b, c, states[-1], u))
    return states


def _linearized(
    system: list[tuple[Matrix, Matrix, Matrix]], x0: Matrix, us: Matrix
) -> tuple[Matrix, list[tuple[Matrix, Matrix]]]:
    """States, and (df/dx, df/du) of every step, by the formulas."""
    states, steps = [x0[0]], []
    for (a, b, c), u in zip(system, us, strict=True):
        x = states[-1]
        fx = combination((1, a), (u[0], c))
        fu = [[b[i][j] + (inner(c[i], x) if j == 0 else 0) for j in range(len(u))] for i in range(len(a))]
        states.append([inner(fx[i], x) + inner(b[i], u) for i in range(len(a))])
        steps.append((fx, fu))
    return states, steps


def adjoint(draw: Draw, sign: int, n: int, m: int, steps: int) -> Sides:
    """T31: grad_(u_t) J = df/du' lambda_(t+1) + u_t, lambda_T = grad Phi, J = Phi + sum |u|^2 / 2."""
    system = [(draw(n, n), draw(n, m), draw(n, n)) for _ in range(steps)]
    x0, us = draw(1, n), draw(steps, m)

    def cost(controls: list[Jets]) -> Jets:
        total = _constant(Fraction())
        for entry in _rollout(system, x0, controls)[-1] + [v for u in controls for v in u]:
            total = total + _constant(Fraction(1, 2)) * entry * entry
        return [total]

    states, linear = _linearized(system, x0, us)
    costate, gradient = [states[-1]], []
    for (fx, fu), u in zip(reversed(linear), reversed(us), strict=True):
        push = product(costate, fu)[0]
        gradient = [[p * sign + v for p, v in zip(push, u, strict=True)], *gradient]
        costate = product(costate, fx)
    return [(_columns(us, cost), [[entry] for row in gradient for entry in row])], 4 * steps + 4


def lqr_completion(draw: Draw, sign: int, n: int, m: int, steps: int) -> Sides:
    """T34: sum x'Qx + u'Ru + x_T'Q_T x_T = x0'P0x0 + sum (u + Kx)'(R + B'PB)(u + Kx), for every u."""
    stages = [(draw(n, n), draw(n, m), _symmetric(draw(n, n)), _symmetric(draw(m, m))) for _ in range(steps)]
    p, x, us = _symmetric(draw(n, n)), draw(n, 1), [draw(m, 1) for _ in range(steps)]
    weights, last = [], p
    for a, b, q, r in reversed(stages):
        h = combination((1, r), (1, product(transpose(b), p, b)))
        k = solve(h, product(transpose(b), p, a))
        p = combination((1, q), (1, product(transpose(a), p, a)), (-sign, product(transpose(k), h, k)))
        weights.insert(0, (h, k))
    left, right = Fraction(), product(transpose(x), p, x)[0][0]
    for (a, b, q, r), (h, k), u in zip(stages, weights, us, strict=True):
        left += product(transpose(x), q, x)[0][0] + product(transpose(u), r, u)[0][0]
        gap = combination((1, u), (1, product(k, x)))
        right += product(transpose(gap), h, gap)[0][0]
        x = combination((1, product(a, x)), (1, product(b, u)))
    left += product(transpose(x), last, x)[0][0]
    return [(left, right)], 16 * (steps + 1) * (2 * m + 3) ** (steps + 1)


def gauss_newton_is_lqr(draw: Draw, sign: int, n: int, m: int, steps: int) -> Sides:
    """T35: the Gauss-Newton step, r_t = C x_t + D u_t - y_t, is the affine LQR of the linearization."""
    system = [(draw(n, n), draw(n, m), draw(n, n)) for _ in range(steps)]
    outputs = [(draw(n + m, n), draw(n + m, m), draw(n + m, 1)) for _ in range(steps)] + [
        (draw(n, n), [], draw(n, 1))
    ]
    x0, us = draw(1, n), draw(steps, m)

    def residual(controls: list[Jets]) -> Jets:
        out = []
        for t, (state, (c, d, y)) in enumerate(zip(_rollout(system, x0, controls), outputs, strict=True)):
            for i in range(len(c)):
                total = _constant(-y[i][0])
                for weight, entry in zip(c[i], state, strict=True):
                    total = total + _constant(weight) * entry
                for weight, entry in zip(d[i], controls[t], strict=True) if d else ():
                    total = total + _constant(weight) * entry
                out.append(total)
        return out

    jacobian = _columns(us, residual)
    here = [[out.value] for out in residual([[_constant(v) for v in u] for u in us])]
    newton = solve(product(jacobian, transpose(jacobian)), combination((-1, product(jacobian, here))))

    states, linear = _linearized(system, x0, us)
    c, _, y = outputs[-1]
    end = combination((1, product(c, transpose([states[-1]]))), (-1, y))
    p, s, gains = product(transpose(c), c), product(transpose(c), end), []
    for t in reversed(range(steps)):  # V(dx) = dx'P dx / 2 + s'dx
        (fx, fu), (c, d, y) = linear[t], outputs[t]
        r = combination((1, product(c, transpose([states[t]]))), (1, product(d, transpose([us[t]]))), (-1, y))
        huu = combination((1, product(transpose(d), d)), (1, product(transpose(fu), p, fu)))
        hux = combination((1, product(transpose(d), c)), (sign, product(transpose(fu), p, fx)))
        hu = combination((1, product(transpose(d), r)), (1, product(transpose(fu), s)))
        gain, shift = combination((-1, solve(huu, hux))), combination((-1, solve(huu, hu)))
        s = combination(
            (1, product(transpose(c), r)), (1, product(transpose(fx), s)), (1, product(transpose(hux), shift))
        )
        p = combination(
            (1, product(transpose(c), c)),
            (1, product(transpose(fx), p, fx)),
            (1, product(transpose(hux), gain)),
        )
        gains.insert(0, (gain, shift))
    dx, step = [[Fraction()] for _ in range(n)], []
    for (fx, fu), (gain, shift) in zip(linear, gains, strict=True):
        du = combination((1, product(gain, dx)), (1, shift))
        dx = combination((1, product(fx, dx)), (1, product(fu, du)))
        step += du
    return [(newton, step)], 64 * (steps + 1) * (4 * m + 8) ** (steps + 1)


def minimum_energy(draw: Draw, sign: int, outputs: int, controls: int) -> Sides:
    """T36: u = J'W^-1 e, W = JJ', has Ju = e, |u|^2 = e'W^-1 e, and |u + v|^2 = |u|^2 + |v|^2 if Jv = 0."""
    j, e, any_u = draw(outputs, controls), draw(outputs, 1), draw(controls, 1)
    w = product(j, transpose(j))
    u = product(transpose(j), solve(w, e))
    v = combination((1, any_u), (-sign, product(transpose(j), solve(w, product(j, any_u)))))
    both = combination((1, u), (1, v))

    def norm(z: Matrix) -> Matrix:
        return product(transpose(z), z)

    energy = product(transpose(e), solve(w, e))
    pairs = [(product(j, u), e), (norm(u), energy), (norm(both), combination((1, norm(u)), (1, norm(v))))]
    return pairs, 8 * outputs + 8


def gramian_is_kernel(draw: Draw, sign: int, n: int, m: int, steps: int, samples: int) -> Sides:
    """T37: J_i J_j' of final states under shared controls = sum_t Phi_i B_i B_j' Phi_j'."""
    system, us = [(draw(n, n), draw(n, m), draw(n, n)) for _ in range(steps)], draw(steps, m)
    jacobians, factors = [], []
    for _ in range(samples):
        x0 = draw(1, n)
        jacobians.append(transpose(_columns(us, lambda controls, x0=x0: _rollout(system, x0, controls)[-1])))
        _, linear = _linearized(system, x0, us)
        phi, blocks = identity(n), []
        for fx, fu in reversed(linear):
            blocks.insert(0, product(phi, fu))
            phi = product(phi, fx)
        factors.append(blocks)
    pairs: list[tuple[Any, Any]] = []
    for i in range(samples):
        for j in range(samples):
            terms = [product(b, transpose(c)) for b, c in zip(factors[i], factors[j], strict=True)]
            gramian = combination((1, terms[0]), *((sign, term) for term in terms[1:]))
            pairs.append((product(jacobians[i], transpose(jacobians[j])), gramian))
    return pairs, 4 * steps + 4


def _symmetric(a: Matrix) -> Matrix:
    return combination((1, a), (1, transpose(a)))


def exact_gap(draw: Draw, sign: int, n: int, d: int) -> Sides:
    """T50: At A'H(v - Az) = 0: (v - Az)'H(v - Az) = v'Hv - v'HA (A'HA)^-1 A'Hv."""
    h, a, v = _symmetric(draw(n, n)), draw(n, d), draw(n, 1)
    slope, curved = product(transpose(a), h, v), product(transpose(a), h, a)
    z = solve(curved, slope)
    rest = combination((1, v), (-1, product(a, z)))
    schur = combination((1, product(transpose(v), h, v)), (-sign, product(transpose(slope), z)))
    return [(product(transpose(rest), h, rest), schur)], 6 * d + 3


def landscape(draw: Draw, sign: int) -> Sides:
    """T51: 2 x 2, rank 1: from a stationary point the objective differs by h/2 |M' - M|^2 + <Z', KZ'>/2.

    With M = BA and f(M) = h/2 |M - W|^2: A = B'O, O a rotation, and G = -l (P + y (I - P)) O is the gradient,
    P the projector on B, so that GA' + l B = 0 and B'G + l A = 0. K has the blocks l I and G.
    """
    b, ((t, y, l, h),) = draw(2, 1), draw(1, 4)
    size, turn = inner(b[0] + b[1], b[0] + b[1]), 1 + t * t
    rotation = [[(1 - t * t) / turn, -2 * t / turn], [2 * t / turn, (1 - t * t) / turn]]
    on_b = combination((1 / size, product(b, transpose(b))))
    g = combination((-l, product(combination((1 - y, on_b), (y, identity(2))), rotation)))
    a = product(transpose(b), rotation)
    w = combination((1, product(b, a)), (-1 / h, g))

    def objective(outer: Matrix, other: Matrix) -> Fraction:
        away = combination((1, product(outer, other)), (-1, w))
        return h / 2 * _square(away) + l / 2 * (_square(outer) + _square(other))

    b2, a2 = draw(2, 1), draw(1, 2)
    moved = product(b2, a2)
    form = l * (_square(b2) + _square(a2)) + 2 * sign * sum(map(inner, g, moved))
    right = h / 2 * _square(combination((1, moved), (-1, product(b, a)))) + form / 2
    return [(objective(b2, a2) - objective(b, a), right)], 24


def lora_step(draw: Draw, sign: int, m: int, n: int, r: int) -> Sides:
    """T52: A step of size e of B and A moves s BA by -e s^2 (GA'A + BB'G) + e^2 s^3 GA'B'G.

    And B'B - AA' by e^2 s^2 (AG'GA' - B'GG'B).
    """
    b, a, g, ((s, e),) = draw(m, r), draw(r, n), draw(m, n), draw(1, 2)
    in_b, in_a = product(g, transpose(a)), product(transpose(b), g)
    b2, a2 = combination((1, b), (-e * s, in_b)), combination((1, a), (-e * s, in_a))
    step = combination((s, product(b2, a2)), (-s, product(b, a)))
    first = combination((1, product(in_b, a)), (1, product(b, in_a)))
    formula = combination((-e * s * s, first), (sign * e**2 * s**3, product(in_b, in_a)))
    drift = combination((1, product(transpose(in_b), in_b)), (-1, product(in_a, transpose(in_a))))
    balance = combination((1, _balance(b, a)), (sign * e**2 * s**2, drift))
    return [(step, formula), (_balance(b2, a2), balance)], 9


def _balance(b: Matrix, a: Matrix) -> Matrix:
    return combination((1, product(transpose(b), b)), (-1, product(a, transpose(a))))


def _square(a: Matrix) -> Fraction:
    return sum((inner(row, row) for row in a), Fraction())


def integral_action(draw: Draw, sign: int, n: int) -> Sides:
    """T58: Where x = Ax - B(Kx + kz) + d and z = z + Cx - r, Cx = r."""
    a, b, c, k, d = draw(n, n), draw(n, 1), draw(1, n), draw(1, n), draw(n, 1)
    gain, reference = draw(1, 2)[0]
    loop = combination((1, identity(n)), (-1, a), (1, product(b, k)))
    rows = [[*row, gain * entry] for row, (entry,) in zip(loop, b, strict=True)]
    rows.append([*(-entry for entry in c[0]), Fraction()])
    fixed = solve(rows, [*d, [-reference]])
    return [(inner(c[0], [entry for (entry,) in fixed[:n]]), sign * reference)], 2 * n + 2


@dataclass(frozen=True)
class Evaluation:
    """An identity to be tested at random points.

    Args:
        sides: draw, sign, **sizes -> both sides and the degree of their difference.
        sizes: at which it is claimed.

    """

    sides: Callable[..., Sides]
    sizes: dict[str, int]


EVALUATIONS = {
    "telescoping": Evaluation(telescoping, {"n": 3, "layers": 4}),
    "attainment": Evaluation(attainment, {"n": 4}),
    "attention_scores": Evaluation(attention_scores, {"n": 4, "d": 3}),
    "causal_prompt_is_prefix": Evaluation(causal_prompt_is_prefix, {"d": 2, "prompt": 2, "text": 3}),
    "lora_dimension": Evaluation(lora_dimension, {"m": 4, "n": 5, "r": 2}),
    "adjoint": Evaluation(adjoint, {"n": 3, "m": 2, "steps": 4}),
    "lqr_completion": Evaluation(lqr_completion, {"n": 3, "m": 2, "steps": 4}),
    "gauss_newton_is_lqr": Evaluation(gauss_newton_is_lqr, {"n": 3, "m": 2, "steps": 4}),
    "minimum_energy": Evaluation(minimum_energy, {"outputs": 3, "controls": 6}),
    "gramian_is_kernel": Evaluation(gramian_is_kernel, {"n": 3, "m": 2, "steps": 4, "samples": 3}),
    "exact_gap": Evaluation(exact_gap, {"n": 4, "d": 2}),
    "landscape": Evaluation(landscape, {}),
    "lora_step": Evaluation(lora_step, {"m": 3, "n": 4, "r": 2}),
    "integral_action": Evaluation(integral_action, {"n": 2}),
}
