"""Linear-quadratic regulators, Gauss-Newton as one of them, linearised training (T34, T35, X2)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    duals,
    eye,
    inverse,
    is_psd,
    random_fractions,
    random_orthogonal,
    random_positive,
    rank,
    solve,
    squared_norm,
    zeros,
)
from deltatheory.theorems.instances import Instance, Sampler, array_source, meanings, with_entries
from deltatheory.theorems.intervals import exp
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T34: linear-quadratic regulators ----

_ENTRIES = {
    "A": "matrices of the states, (T, n, n)",
    "B": "of the controls, (T, n, m)",
    "Q": "weights of the states, (T + 1, n, n)",
    "R": "of the controls, (T, m, m)",
    "P": "costs to go, T + 1 of (n, n)",
    "K": "gains, T of (m, n)",
    "x0": "start, (n,)",
    "u": "controls, (T, m)",
    "w": "disturbances, (T, n)",
}


def _lqr(seed: int, wide: bool = False, T: int = 2) -> Instance:
    """Return two states, one control, arbitrary controls u, with P_t and K_t of the Riccati recursion."""
    draw = array_source(seed, wide)
    A, B, R = draw(T, 2, 2), draw(T, 2, 1), abs(draw(T, 1, 1)) + 1
    roots = draw(T + 1, 2, 2)
    Q = np.array([root @ root.T for root in roots])
    P, K = [Q[T]], []
    for t in reversed(range(T)):
        K.insert(0, inverse(R[t] + B[t].T @ P[0] @ B[t]) @ B[t].T @ P[0] @ A[t])
        P.insert(0, Q[t] + A[t].T @ P[0] @ A[t] - A[t].T @ P[0] @ B[t] @ K[0])
    x: Instance = {"A": A, "B": B, "Q": Q, "R": R, "P": P, "K": K, "x0": draw(2), "u": draw(T, 1)}
    return x | {"w": zeros(T, 2)}


def _lqr_states(x: Instance) -> list[np.ndarray]:
    states = [x["x0"]]
    for t in range(len(x["u"])):
        states.append(x["A"][t] @ states[-1] + x["B"][t] @ x["u"][t] + x["w"][t])
    return states


def _lqr_cost(x: Instance) -> Any:
    states = _lqr_states(x)
    running = sum(s @ Q @ s for s, Q in zip(states, x["Q"], strict=True))
    return running + sum(u @ R @ u for u, R in zip(x["u"], x["R"], strict=True))


def _innovation(x: Instance, t: int) -> np.ndarray:
    return x["R"][t] + x["B"][t].T @ x["P"][t + 1] @ x["B"][t]


def _t34a(x: Instance):
    states, total = _lqr_states(x), x["x0"] @ x["P"][0] @ x["x0"]
    for t in range(len(x["u"])):
        v = x["u"][t] + x["K"][t] @ states[t]
        total = total + v @ _innovation(x, t) @ v
    return _lqr_cost(x), total


def _is_riccati(x: Instance) -> bool:
    T = len(x["u"])
    steps = (
        x["Q"][t] + x["A"][t].T @ x["P"][t + 1] @ (x["A"][t] - x["B"][t] @ _gain(x, t)) - x["P"][t]
        for t in range(T)
    )
    return bool(np.all(x["P"][T] == x["Q"][T])) and not any(np.any(step != 0) for step in steps)


def _gain(x: Instance, t: int) -> np.ndarray:
    return solve(_innovation(x, t), x["B"][t].T @ x["P"][t + 1] @ x["A"][t])


def _riccati(violator: Sampler) -> Hypothesis:
    return Hypothesis("Riccati", "$P_t$ solves the Riccati recursion from $P_T=Q_T$", _is_riccati, violator)


def _undisturbed(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "no disturbance", "$x_{t+1}=A_tx_t+B_tu_t$", lambda x: not np.any(x["w"] != 0), violator
    )


T34a = register(
    Theorem(
        id="T34a",
        name="completion of squares",
        latex=r"J=x_0^\top P_0x_0+\sum_t(u_t+K_tx_t)^\top(R_t+B_t^\top P_{t+1}B_t)(u_t+K_tx_t)",
        words="the cost of controls is the optimum plus a weighted square of their offset from feedback",
        kind="identity",
        entries=meanings(_ENTRIES, "A B Q R P K x0 u w"),
        sides=_t34a,
        sampler=_lqr,
        hypotheses=(
            _riccati(
                with_entries(_lqr, P=lambda x: [x["P"][0] + eye(2), *x["P"][1:]], x0=as_fractions([1, 2]))
            ),
            Hypothesis(
                "gains",
                "$K_t=(R_t+B_t^\\top P_{t+1}B_t)^{-1}B_t^\\top P_{t+1}A_t$",
                lambda x: all(bool(np.all(x["K"][t] == _gain(x, t))) for t in range(len(x["u"]))),
                with_entries(_lqr, K=lambda x: [k + 1 for k in x["K"]], x0=as_fractions([1, 2])),
            ),
            _undisturbed(with_entries(_lqr, w=as_fractions([[1, 0], [0, 1]]))),
        ),
        mutant=Mutant(
            "feedback with the other sign",
            lambda x: _t34a(x | {"K": [-k for k in x["K"]]}),
            with_entries(_lqr, x0=as_fractions([1, 2])),
        ),
        proof="One step of the recursion is an identity; telescope.",
        source="classical",
        certificates=("lqr_step", "lqr_completion"),
        status=ProofStatus.expanded("one step, two states, one control; then induction"),
        exact_check=identity_test(_t34a, _lqr),
    )
)


def _t34b(x: Instance):
    return _lqr_cost(x), x["x0"] @ x["P"][0] @ x["x0"]


def _optimal_feedback(seed: int) -> Instance:
    x = _lqr(seed)
    state, controls = x["x0"], []
    for t in range(2):
        controls.append(-x["K"][t] @ state)
        state = x["A"][t] @ state + x["B"][t] @ controls[-1]
    return x | {"u": np.array(controls)}


def _concave(seed: int) -> Instance:
    """Return one step whose control costs less the larger it is."""
    x = {
        "A": as_fractions([[[1, 0], [0, 1]]]),
        "B": as_fractions([[[1], [0]]]),
        "R": as_fractions([[[-seed - 2]]]),
    }
    x |= {
        "Q": np.array([eye(2), eye(2)]),
        "x0": as_fractions([0, 1]),
        "u": as_fractions([[1]]),
        "w": zeros(1, 2),
    }
    x |= {"P": [zeros(2, 2), eye(2)]}
    K = _gain(x, 0)
    P0 = eye(2) + eye(2) - x["B"][0] @ K
    return x | {"P": [P0, eye(2)], "K": [K]}


T34b = register(
    Theorem(
        id="T34b",
        name="the Riccati solution is a lower bound",
        latex=r"J(u)\ge x_0^\top P_0x_0",
        words="no controls cost less than the Riccati recursion says, and feedback attains it",
        kind="lower",
        entries=meanings(_ENTRIES, "A B Q R P x0 u w"),
        sides=_t34b,
        sampler=_lqr,
        hypotheses=(
            _riccati(with_entries(_optimal_feedback, P=lambda x: [x["P"][0] + eye(2), *x["P"][1:]])),
            Hypothesis(
                "positive innovation",
                r"$R_t+B_t^\top P_{t+1}B_t\succeq0$",
                lambda x: all(is_psd(_innovation(x, t)) for t in range(len(x["u"]))),
                _concave,
            ),
            _undisturbed(
                with_entries(
                    _lqr,
                    u=lambda x: 0 * x["u"],
                    w=lambda x: np.array([-(x["A"][0] @ x["x0"]), 0 * x["x0"]]),  # brings the state to 0
                )
            ),
        ),
        mutant=Mutant.scaled(_t34b, 1 / JUST_BELOW_ONE, _optimal_feedback),
        extremal=_optimal_feedback,
        proof="T34a with positive squares.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


# ---- T35 ----


def _stages(seed: int, wide: bool = False) -> Instance:
    """Return x_{t+1} = A_t x + B_t u + c x∘x, residuals C_t x + E_t u + k x∘x - y_t, three steps."""
    draw = array_source(seed, wide, offset=F(1, 7))
    system = {"A": draw(3, 2, 2), "B": draw(3, 2, 1), "c": draw(1)[0] / 20, "x0": draw(2), "u": draw(3, 1)}
    residual = {"C": draw(4, 2, 2), "E": draw(3, 2, 1), "k": draw(1)[0] / 20, "y": draw(4, 2)}
    return system | residual | {"rollout": "linear", "cross_terms": True}


def _states(x: Instance, u: np.ndarray) -> list[np.ndarray]:
    states = [x["x0"]]
    for t in range(3):
        states.append(x["A"][t] @ states[-1] + x["B"][t] @ u[t] + x["c"] * states[-1] * states[-1])
    return states


def _residuals(x: Instance, u: np.ndarray) -> np.ndarray:
    parts = [x["C"][t] @ s + x["k"] * s * s - x["y"][t] for t, s in enumerate(_states(x, u))]
    for t in range(3):
        parts[t] = parts[t] + x["E"][t] @ u[t]
    return np.concatenate(parts)


def _gauss_newton(x: Instance) -> np.ndarray:
    """Return -(JᵀJ)^{-1} Jᵀ r, with J by forward mode."""
    J = _jacobian(x)
    return solve(J.T @ J, -J.T @ _residuals(x, x["u"]))


def _lqr_step(x: Instance) -> np.ndarray:
    """Return the first-order step by the affine Riccati recursion on the linearised stages."""
    u, states = x["u"], _states(x, x["u"])
    A = [x["A"][t] + 2 * x["c"] * np.diag(states[t]) for t in range(3)]
    C = [x["C"][t] + 2 * x["k"] * np.diag(states[t]) for t in range(4)]
    r = np.split(_residuals(x, u), 4)
    P, p, policy = C[3].T @ C[3], C[3].T @ r[3], []
    for t in (2, 1, 0):
        B, E = x["B"][t], x["E"][t]
        cross = E.T @ C[t] if x["cross_terms"] else 0 * E.T @ C[t]
        Huu, Hux = E.T @ E + B.T @ P @ B, cross + B.T @ P @ A[t]
        hu = E.T @ r[t] + B.T @ p
        K, k = solve(Huu, Hux), solve(Huu, hu)
        policy.insert(0, (K, k))
        p = C[t].T @ r[t] + A[t].T @ p - Hux.T @ k
        P = C[t].T @ C[t] + A[t].T @ P @ A[t] - Hux.T @ K
    away, moves, state = 0 * states[0], [], states[0]
    for t, (K, k) in enumerate(policy):
        if x["rollout"] == "nonlinear":
            away = state - states[t]
        moves.append(-K @ away - k)
        state = x["A"][t] @ state + x["B"][t] @ (u[t] + moves[-1]) + x["c"] * state * state
        away = A[t] @ away + x["B"][t] @ moves[-1]
    return np.concatenate(moves)


def _t35(x: Instance):
    return _gauss_newton(x), _lqr_step(x)


def _jacobian(x: Instance) -> np.ndarray:
    """Return the Jacobian of the residuals in the controls, by forward mode."""
    u, columns = x["u"], []
    for i in range(3):
        unit = np.array([[int(i == j)] for j in range(3)]) * (u * 0 + 1)
        columns.append([d.slope for d in _residuals(x, duals(u, unit))])
    return np.array(columns).T


def _redundant(seed: int) -> Instance:
    """Return an instance whose controls all move the last state alike: J has three equal columns."""
    A, B, last = (
        np.array([eye(2)] * 3),
        as_fractions([[[1], [0]]] * 3),
        as_fractions([[0, 0]] * 3 + [[3 + seed, 0]]),
    )
    still = {"c": F(0), "k": F(0), "E": zeros(3, 2, 1), "x0": zeros(2), "u": zeros(3, 1), "y": last}
    return _stages(seed) | still | {"A": A, "B": B, "C": np.array([zeros(2, 2)] * 3 + [eye(2)])}


def _fixed(seed: int) -> Instance:
    """Return an instance with cross terms and curvature that matter."""
    x = _stages(seed)
    ones = as_fractions([[[1], [2]]] * 3)
    return x | {
        "c": F(1),
        "B": ones,
        "E": ones,
        "C": as_fractions([[[1, 1], [0, 1]]] * 4),
        "x0": as_fractions([1, 2]),
    }


T35 = register(
    Theorem(
        id="T35",
        name="a Gauss-Newton step is an LQR",
        latex=r"-(J^\top J)^{-1}J^\top r=\text{affine LQR of the linearised stages, cross terms included}",
        words="for a sum of squares over stages the Gauss-Newton step in all controls is one Riccati sweep "
        "(iLQR, which rolls out the nonlinear system, agrees to first order only)",
        kind="identity",
        entries={
            "A": "(T, n, n)",
            "B": "(T, n, m)",
            "c": "factor of x∘x in the dynamics",
            "x0": "start, (n,)",
            "u": "controls, (T, m)",
            "C": "(T + 1, p, n)",
            "E": "(T, p, m)",
            "k": "factor of x∘x in the residuals",
            "y": "targets, (T + 1, p)",
            "rollout": '"linear" or "nonlinear"',
            "cross_terms": "whether the sweep keeps EᵀC",
        },
        sides=_t35,
        sampler=_stages,
        hypotheses=(
            Hypothesis(
                "linear rollout",
                "the step follows the linearised dynamics",
                lambda x: x["rollout"] == "linear",
                with_entries(_fixed, rollout="nonlinear"),
            ),
            Hypothesis(
                "cross terms",
                "the cost terms between states and controls are kept",
                lambda x: x["cross_terms"],
                with_entries(_fixed, cross_terms=False),
            ),
            Hypothesis(
                "regular",
                "$J^\\top J$ is invertible",
                lambda x: rank(_jacobian(x)) == x["u"].size,
                _redundant,
            ),
        ),
        mutant=Mutant("a step in the other direction", lambda x: (_t35(x)[0], -_t35(x)[1]), _fixed),
        proof="Dynamic programming on the quadratic model ½‖r + J δu‖², stage by stage.",
        source="after Sideris and Bobrow 2005",
        certificates=("gauss_newton_is_lqr",),
        status=ProofStatus.identity_tested(2000),
        exact_check=identity_test(_t35, _stages),
    )
)


# ---- X2: linearised training ----


def _flow(seed: int) -> Instance:
    """Return W = U diag(λ) Uᵀ, perhaps singular, a residual U c in its range, a time, a rate."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    values = as_fractions(sorted(random_positive(rng, n), reverse=True))
    c = random_fractions(rng, n) + F(1, 7)
    if seed % 2:
        values[-1], c[-1] = F(0), F(0)
    rate = min(v for v in values if v > 0)
    return {
        "U": random_orthogonal(rng, n),
        "values": values,
        "c": c,
        "t": random_positive(rng, 1)[0],
        "rate": rate,
    }


def _x2(x: Instance):
    """Return ‖e^{-Wt} r‖², read in the eigenbasis, and its bound; U is orthogonal."""
    left = sum(exp(-2 * v * x["t"]) * a * a for v, a in zip(x["values"], x["c"], strict=True))
    return left, exp(-2 * x["rate"] * x["t"]) * squared_norm(x["U"] @ x["c"])


def _slowest(seed: int) -> Instance:
    values, c = as_fractions([3, 1]), as_fractions([0, seed + 1])
    return {"U": as_fractions(np.eye(2, dtype=int)), "values": values, "c": c, "t": F(1), "rate": F(1)}


X2 = register(
    Theorem(
        id="X2",
        name="decay of linearised training",
        latex=r"\|e^{-Wt}r\|\le e^{-\lambda t}\|r\|,\quad r\in\mathrm{range}\,W",
        words="gradient flow on ½‖Ju - r‖² leaves e^{-Wt} r with W = JJᵀ: it decays at least at the smallest "
        "nonzero eigenvalue, on the range of W only; compared squared",
        kind="tight",
        entries={
            "U": "eigenvectors of W, (n, n)",
            "values": "its eigenvalues, (n,)",
            "c": "residual in their basis, (n,)",
            "t": "time",
            "rate": "λ",
        },
        sides=_x2,
        sampler=_flow,
        hypotheses=(
            Hypothesis(
                "in the range",
                r"$r\in\mathrm{range}\,W$, $W=U\,\mathrm{diag}(\lambda)\,U^\top$ with $U$ orthogonal",
                lambda x: (
                    bool(np.all(x["U"].T @ x["U"] == eye(len(x["U"]))))
                    and all(a == 0 for v, a in zip(x["values"], x["c"], strict=True) if v == 0)
                ),
                with_entries(_slowest, values=as_fractions([1, 0])),
            ),
            Hypothesis(
                "rate",
                r"$\lambda\le$ the smallest nonzero eigenvalue of $W\succeq0$, $t\ge0$",
                lambda x: (
                    x["t"] >= 0
                    and min(x["values"]) >= 0
                    and x["rate"] <= min(v for v in x["values"] if v > 0)
                ),
                with_entries(_slowest, rate=F(2)),
            ),
        ),
        mutant=Mutant.scaled(_x2, JUST_BELOW_ONE, _slowest),
        extremal=_slowest,
        proof="In the eigenbasis of W.",
        source="classical; Jacot et al. 2018 (recalled)",
        status=ProofStatus.searched(19),
    )
)
