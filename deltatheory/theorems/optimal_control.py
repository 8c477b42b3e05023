"""Adjoints and the maximum principle (T31, T32).

x_{t+1} = f_t(x_t, u_t), J = Φ(x_T) + Σ L_t; H_t(x, u, p) = L_t(x, u) + p·f_t(x, u), p_T = ∇Φ(x_T),
p_t = ∂H_t/∂x: the minimum convention.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions, duals, eye, zeros
from deltatheory.theorems.instances import Instance, Sampler, array_source, meanings, with_entries
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T31: the adjoint ----


def _network(seed: int, wide: bool = False) -> Instance:
    """Return x_{t+1} = A_t x + B_t u_t + c x∘x with Φ = ½ xᵀQx, L_t = ½ r ‖u_t‖², three steps."""
    draw = array_source(seed, wide)
    system = {"A": draw(3, 2, 2), "B": draw(3, 2, 1), "c": draw(1)[0], "x0": draw(2), "u": draw(3, 1)}
    cost = {"Q": draw(2, 2), "r": draw(1)[0]}
    return system | cost | {"uses": [0, 1, 2], "terminal": 1, "along": system["u"]}


def _rollout(x: Instance, u: np.ndarray) -> list[np.ndarray]:
    states = [x["x0"]]
    for t, k in enumerate(x["uses"]):
        states.append(x["A"][t] @ states[-1] + x["B"][t] @ u[k] + x["c"] * states[-1] * states[-1])
    return states


def _network_cost(x: Instance, u: np.ndarray) -> Any:
    last = _rollout(x, u)[-1]
    return last @ x["Q"] @ last / 2 + x["r"] * sum((u[k] * u[k]).sum() for k in x["uses"]) / 2


def _t31(x: Instance):
    u = x["u"]
    controls = sorted(set(x["uses"]))
    units = [np.array([[int(i == k)] for i in range(len(u))]) for k in controls]
    exact = [_network_cost(x, duals(u, unit * (u * 0 + 1))).slope for unit in units]
    states = _rollout(x, x["along"])
    p = x["terminal"] * (x["Q"] + x["Q"].T) @ states[-1] / 2
    adjoint = [u[0] * 0] * len(u)
    for t in reversed(range(len(x["uses"]))):
        k = x["uses"][t]
        adjoint[k] = x["r"] * u[k] + x["B"][t].T @ p
        p = x["A"][t].T @ p + 2 * x["c"] * states[t] * p
    return np.array(exact), np.array([adjoint[k][0] for k in controls])


T31 = register(
    Theorem(
        id="T31",
        name="the adjoint is backpropagation",
        latex=r"\nabla_{u_t}J=\partial_uL_t+(\partial_uf_t)^\top p_{t+1}",
        words="the gradient in the controls of a layer is the derivative of that layer's Hamiltonian",
        kind="identity",
        entries={
            "A": "x_{t+1} = A_t x + B_t u_t + c x∘x, (T, n, n)",
            "B": "(T, n, m)",
            "c": "number",
            "x0": "start, (n,)",
            "u": "controls, (T, m)",
            "uses": "which control acts in each step",
            "Q": "Φ = ½ xᵀQx, (n, n)",
            "r": "L_t = ½ r ‖u_t‖²",
            "terminal": "factor of ∇Φ in p_T",
            "along": "controls of the costates' trajectory, (T, m)",
        },
        sides=_t31,
        sampler=_network,
        hypotheses=(
            Hypothesis(
                "unshared controls",
                "every control acts in one step (a shared one sums over its steps)",
                lambda x: len(set(x["uses"])) == len(x["uses"]),
                with_entries(
                    _network, uses=[0, 0, 0], u=lambda x: x["u"] * 0 + 1, along=lambda x: x["u"] * 0 + 1
                ),
            ),
            Hypothesis(
                "terminal costate",
                r"$p_T=\nabla\Phi(x_T)$",
                lambda x: x["terminal"] == 1,
                with_entries(_network, terminal=0),
            ),
            Hypothesis(
                "own trajectory",
                "the costates belong to the trajectory of $u$",
                lambda x: bool(np.all(x["along"] == x["u"])),
                with_entries(_network, along=lambda x: x["u"] + 1),
            ),
        ),
        mutant=Mutant(
            "the costate enters with a minus sign",
            lambda x: (_t31(x)[0], 2 * x["r"] * x["u"][:, 0] - _t31(x)[1]),
            _network,
        ),
        proof="Chain rule, backwards.",
        source="classical; for networks Li et al. 2017 (recalled)",
        certificates=("adjoint",),
        status=ProofStatus.expanded("generic scalar dynamics, T = 3"),
        exact_check=identity_test(_t31, _network),
    )
)


# ---- T32: the maximum principle in discrete time ----

_STAGE = {
    "b": "x_1 = b + B u + e u², (n,)",
    "B": "(n,)",
    "e": "(n,)",
    "Q": "Φ = ½ xᵀQx + w·x, (n, n)",
    "w": "(n,)",
    "r": "L = ½ r u² + l u",
    "l": "of L",
    "bound": "|u| is at most this",
    "u": "optimal control",
    "v": "another control",
}


def _one_stage(seed: int) -> Instance:
    """Return x1 = b + B u + e u², Φ = ½ xᵀQx + w·x, L = ½ r u² + l u on |u| <= 1, and its optimum."""
    draw = array_source(seed)
    root = draw(2, 2)
    x: Instance = {"b": draw(2), "B": draw(2), "e": as_fractions([0, 0]), "Q": root @ root.T, "w": draw(2)}
    x |= {"r": abs(draw(1)[0]), "l": draw(1)[0], "bound": F(1)}
    if seed % 2:
        x["Q"] = x["Q"] - eye(2) / 8  # Φ need not be convex
    curvature = x["r"] + x["B"] @ x["Q"] @ x["B"]
    slope = x["l"] + x["B"] @ (x["Q"] @ x["b"] + x["w"])
    candidates = [F(-1), F(1)]
    if curvature > 0 and abs(slope / curvature) < 1:
        candidates.append(-slope / curvature)
    return x | {"u": min(candidates, key=lambda u: _stage_cost(x, u)), "v": F(seed % 9 - 4, 4)}


def _state(x: Instance, u: Any) -> np.ndarray:
    return x["b"] + x["B"] * u + x["e"] * u * u


def _stage_cost(x: Instance, u: Any) -> Any:
    state = _state(x, u)
    return state @ x["Q"] @ state / 2 + x["w"] @ state + x["r"] * u * u / 2 + x["l"] * u


def _hamiltonian(x: Instance, u: Any) -> Any:
    p = x["Q"] @ _state(x, x["u"]) + x["w"]
    return x["r"] * u * u / 2 + x["l"] * u + p @ _state(x, u)


def _is_optimal(x: Instance) -> bool:
    """Return whether u is admissible and no other control costs less, for costs that are quadratic in u."""
    Q, B, e, b = x["Q"], x["B"], x["e"], x["bound"]
    if np.any(Q != Q.T) or e @ Q @ e != 0 or B @ Q @ e != 0 or abs(x["u"]) > b:
        return False
    curvature = x["r"] + B @ Q @ B + 2 * e @ (Q @ x["b"] + x["w"])
    slope = x["l"] + B @ (Q @ x["b"] + x["w"])
    rivals = [-b, b]
    if curvature > 0 and abs(slope) < curvature * b:
        rivals.append(-slope / curvature)
    return all(_stage_cost(x, x["u"]) <= _stage_cost(x, v) for v in rivals)


def _optimal(violator: Sampler) -> Hypothesis:
    statement = r"$u$ minimises $J$ over $|u|\le b$ ($J$ quadratic in $u$, $Q$ symmetric)"
    return Hypothesis("minimum", statement, _is_optimal, violator)


def _inside(seed: int) -> Instance:
    """Return an instance whose bounds are wide enough for the optimum to be inside."""
    x = _one_stage(2 * seed)
    curvature = x["r"] + x["B"] @ x["Q"] @ x["B"]
    u = -(x["l"] + x["B"] @ (x["Q"] @ x["b"] + x["w"])) / curvature
    return x | {"u": u, "bound": abs(u) + 1}


def _t32a(x: Instance):
    p = x["Q"] @ _state(x, x["u"]) + x["w"]
    slope = x["r"] * x["u"] + x["l"] + p @ (x["B"] + 2 * x["e"] * x["u"])
    return slope, 0 * slope


def _parabola_stage(seed: int) -> Instance:
    """Return Φ = ½ x², x1 = u on |u| <= 1, no running cost: the optimum is 0."""
    x = {"b": zeros(2), "B": as_fractions([1, 0]), "e": zeros(2), "Q": eye(2), "w": zeros(2)}
    return x | {"r": F(0), "l": F(0), "bound": F(1), "u": F(0), "v": F(1)}


def _known_optimum(seed: int) -> Instance:
    """Return ½ (1 + u)² + ½ u²: the optimum is -1/2."""
    return _parabola_stage(seed) | {"b": as_fractions([1, 0]), "r": F(1), "u": F(-1, 2)}


T32a = register(
    Theorem(
        id="T32a",
        name="stationary Hamiltonian",
        latex=r"u\text{ an interior local minimum}\ \Rightarrow\ \partial_uH_t(x_t,u_t,p_{t+1})=0",
        words="at an interior optimum the Hamiltonian is stationary in the controls, in discrete time too",
        kind="identity",
        entries=meanings(_STAGE, "b B e Q w r l bound u"),
        sides=_t32a,
        sampler=_inside,
        hypotheses=(
            _optimal(with_entries(_parabola_stage, u=F(1, 2))),
            Hypothesis(
                "interior",
                "$|u|<b$",
                lambda x: abs(x["u"]) < x["bound"],
                lambda seed: _parabola_stage(seed) | {"w": as_fractions([-seed - 3, 0]), "u": F(1)},
            ),
        ),
        mutant=Mutant(
            "the costate is minus the gradient, H is not changed",
            lambda x: (2 * (x["r"] * x["u"] + x["l"]) - _t32a(x)[0], F(0)),
            _known_optimum,
        ),
        proof="T31: ∂H/∂u is the gradient of J, which vanishes at an interior minimum.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


def _t32b(x: Instance):
    return _hamiltonian(x, x["u"]), _hamiltonian(x, x["v"])


T32b = register(
    Theorem(
        id="T32b",
        name="minimum principle in discrete time",
        latex=r"H_t(x_t,u_t,p_{t+1})\le H_t(x_t,v,p_{t+1})\quad\forall v\in U",
        words="the optimum minimises the Hamiltonian if the dynamics are affine and the running cost convex "
        "in the controls; in general it does not",
        kind="tight",
        entries=meanings(_STAGE, "b B e Q w r l bound u v"),
        sides=_t32b,
        sampler=_one_stage,
        hypotheses=(
            _optimal(with_entries(_parabola_stage, u=F(1), v=F(0))),
            Hypothesis(
                "admissible",
                r"$|v|\le b$",
                lambda x: abs(x["v"]) <= x["bound"],
                lambda seed: (
                    _parabola_stage(seed) | {"w": as_fractions([-seed - 3, 0]), "u": F(1), "v": F(2)}
                ),
            ),
            Hypothesis(
                "convex running cost",
                "$L_t$ is convex in $u$",
                lambda x: x["r"] >= 0,
                lambda seed: _parabola_stage(seed) | {"r": F(-1, seed + 2)},
            ),
            Hypothesis(
                "affine dynamics",
                "$f_t$ is affine in $u$",
                lambda x: not np.any(x["e"] != 0),
                lambda seed: (
                    _parabola_stage(seed)
                    | {"Q": eye(2) * as_fractions([1, 0]), "e": as_fractions([0, 1])}
                    | {"w": as_fractions([0, F(-1, seed + 3)])}
                ),
            ),
        ),
        mutant=Mutant(
            "the Hamiltonian of the optimum is lower by 1e-9",
            lambda x: (_t32b(x)[0] + F(1, 10**9), _t32b(x)[1]),
            with_entries(_parabola_stage, v=F(0)),
        ),
        extremal=with_entries(_known_optimum, v=F(-1, 2)),
        proof="J has no descent direction at u, so H, convex in u with the same derivative, has none.",
        source="after Li and Hao 2018 and Halkin 1966, Holtzman 1966 (both recalled)",
        status=ProofStatus.searched(),
    )
)
