"""Adjoints, the maximum principle, successive approximations (T31-T33).

x_{t+1} = f_t(x_t, u_t), J = Φ(x_T) + Σ L_t; H_t(x, u, p) = L_t(x, u) + p·f_t(x, u), p_T = ∇Φ(x_T),
p_t = ∂H_t/∂x: the minimum convention.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import as_fractions, duals, eye, random_fractions, squared_norm, zeros
from deltatheory.theorems.functions import Spline
from deltatheory.theorems.instances import Instance, array_source, with_entries
from deltatheory.theorems.intervals import sqrt
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

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
        adjoint[t] = x["r"] * u[x["uses"][t]] + x["B"][t].T @ p
        p = x["A"][t].T @ p + 2 * x["c"] * states[t] * p
    return np.array(exact), np.array([adjoint[k][0] for k in controls])


T31 = register(
    Theorem(
        id="T31",
        name="the adjoint is backpropagation",
        latex=r"\nabla_{u_t}J=\partial_uL_t+(\partial_uf_t)^\top p_{t+1}",
        words="the gradient in the controls of a layer is the derivative of that layer's Hamiltonian",
        kind="identity",
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
        source="classical; Li et al. 2017 for networks",
        status=ProofStatus.expanded("generic scalar dynamics, T = 3"),
        exact_check=identity_test(_t31, _network),
    )
)


# ---- T32: the maximum principle in discrete time ----


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
    """Return whether no point of a grid over the controls has a lower cost."""
    grid = [x["bound"] * F(i, 8) for i in range(-8, 9)]
    return all(_stage_cost(x, x["u"]) <= _stage_cost(x, v) for v in grid)


def _optimal(violator) -> Hypothesis:
    return Hypothesis("minimum", r"$u$ minimises $J$ over $|u|\le b$ (read on a grid)", _is_optimal, violator)


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
        sides=_t32b,
        sampler=_one_stage,
        hypotheses=(
            _optimal(with_entries(_parabola_stage, u=F(1), v=F(0))),
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
        extremal=with_entries(_parabola_stage, v=F(0)),
        proof="J has no descent direction at u, so H, convex in u with the same derivative, has none.",
        source="after Halkin 1966, Holtzman 1966",
        status=ProofStatus.searched(),
    )
)


# ---- T33: how much successive approximations can gain or lose ----


def _residual_net(seed: int) -> Instance:
    """Return x_{t+1} = x + θ_t ∘ s(M_t x), two weights θ and φ, Φ = ½ λ‖x‖² + w·x, and its constants."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 4))
    s = Spline((F(-1), F(0), F(1)), (F(0), F(1), F(-1), F(0)), F(0), F(0))  # a smoothed step
    M = random_fractions(rng, T, 2, 2, top=2, bottom=2)
    theta = random_fractions(rng, T, 2, top=2)
    phi = theta + random_fractions(rng, T, 2, top=2) / (1 + 9 * (seed % 2))
    x = {
        "s": s,
        "M": M,
        "theta": theta,
        "phi": phi,
        "x0": random_fractions(rng, 2),
        "w": random_fractions(rng, 2),
    }
    size = [sum(abs(m).ravel()) for m in M]  # at least ‖M‖_F
    K = [1 + max(abs(p)) * z for p, z in zip(phi, size, strict=True)]
    Lxx = [max(abs(p)) * z * z for p, z in zip(phi, size, strict=True)]
    return x | {"lam": F(1, 2), "K": K, "Lxx": Lxx, "L_Phi": F(1, 2), "costate": 1}


def _layer(x: Instance, t: int, weights: np.ndarray, state: np.ndarray) -> np.ndarray:
    return state + weights * np.array([x["s"].value(v) for v in x["M"][t] @ state])


def _layer_jacobian(x: Instance, t: int, weights: np.ndarray, state: np.ndarray) -> np.ndarray:
    slopes = np.array([x["s"].gradient(v) for v in x["M"][t] @ state])
    return np.eye(len(state), dtype=int) + (weights * slopes)[:, None] * x["M"][t]


def _trajectory(x: Instance, weights: np.ndarray) -> list[np.ndarray]:
    states = [x["x0"]]
    for t in range(len(x["M"])):
        states.append(_layer(x, t, weights[t], states[-1]))
    return states


def _terminal(x: Instance, state: np.ndarray) -> Any:
    return x["lam"] * squared_norm(state) / 2 + x["w"] @ state


def _t33(x: Instance):
    T, states = len(x["M"]), _trajectory(x, x["theta"])
    gain = _terminal(x, _trajectory(x, x["phi"])[-1]) - _terminal(x, states[-1])
    p = [x["costate"] * (x["lam"] * states[-1] + x["w"])]
    for t in reversed(range(T)):
        p.insert(0, _layer_jacobian(x, t, x["theta"][t], states[t]).T @ p[0])
    total, d = 0 * gain, 0 * gain
    for t in range(T):
        moved = _layer(x, t, x["phi"][t], states[t]) - _layer(x, t, x["theta"][t], states[t])
        turned = _layer_jacobian(x, t, x["phi"][t], states[t]) - _layer_jacobian(
            x, t, x["theta"][t], states[t]
        )
        total = total + p[t + 1] @ moved + sqrt(squared_norm(turned.T @ p[t + 1])) * d
        total = total + sqrt(squared_norm(p[t + 1])) * x["Lxx"][t] * d * d / 2
        d = x["K"][t] * d + sqrt(squared_norm(moved))
    return gain, total + x["L_Phi"] * d * d / 2


def _scalar_net(seed: int, T: int, s: Spline | None = None) -> Instance:
    """Return scalar layers x + θ x, only the first changed; all constants are attained."""
    identity = Spline((F(0),), (F(0), F(0)), F(1), F(0))
    theta = as_fractions([[1]] * T)
    phi = theta + as_fractions([[seed + 1]] + [[0]] * (T - 1))
    x = {"s": s or identity, "M": as_fractions([[[1]]] * T), "theta": theta, "phi": phi}
    x |= {"x0": as_fractions([1]), "w": as_fractions([1]), "lam": F(1), "costate": 1}
    K = [1 + abs(p[0]) for p in phi]
    return x | {"K": K, "Lxx": [F(0)] * T, "L_Phi": F(1)}


def _curved_net(seed: int) -> Instance:
    """Return two layers, the second x + s(x) with s'' = 1 where it counts, and a linear terminal cost."""
    s = Spline((F(0), F(100)), (F(0), F(1), F(0)), F(0), F(0))
    x = _scalar_net(seed, 2, s) | {"lam": F(0), "L_Phi": F(0)}
    return x | {"K": [F(1000)] * 2, "Lxx": [F(0), F(1)]}


def _lipschitz_constants(x: Instance) -> list[Any]:
    """Return bounds on the Lipschitz constants of the layers at φ, attained by the scalar ones."""
    sizes = [sum(abs(m).ravel()) for m in x["M"]]
    top = x["s"].largest_derivative
    return [1 + max(abs(p)) * top * z for p, z in zip(x["phi"], sizes, strict=True)]


def _curvatures(x: Instance) -> list[Any]:
    sizes = [sum(abs(m).ravel()) for m in x["M"]]
    top = max(abs(slope) for slope in x["s"].slopes)
    return [max(abs(p)) * top * z * z for p, z in zip(x["phi"], sizes, strict=True)]


T33 = register(
    Theorem(
        id="T33",
        name="what a step of successive approximations does",
        latex=r"J(\phi)-J(\theta)\le\sum_tp_{t+1}^\top\Delta f_t+\sum_t\|\Delta\partial_xH_t\|d_t"
        r"+\tfrac12\sum_t\|p_{t+1}\|L_t^{xx}d_t^2+\tfrac12L_\Phi d_T^2",
        words="the change of the cost from weights θ to φ is the change of the Hamiltonian plus terms in the "
        "drift d_0 = 0, d_{t+1} = K_t d_t + ‖Δf_t‖, with every constant explicit",
        kind="tight",
        sides=_t33,
        sampler=_residual_net,
        hypotheses=(
            Hypothesis(
                "costate of θ",
                r"$p$ is the costate of $\theta$'s trajectory",
                lambda x: x["costate"] == 1,
                with_entries(lambda seed: _scalar_net(seed, 1), costate=0),
            ),
            Hypothesis(
                "K_t",
                r"$f_t(\cdot,\phi)$ is $K_t$-Lipschitz",
                lambda x: all(a >= b for a, b in zip(x["K"], _lipschitz_constants(x), strict=True)),
                with_entries(lambda seed: _scalar_net(seed, 2), K=[F(0), F(0)]),
            ),
            Hypothesis(
                "curvature",
                r"$\partial_xf_t(\cdot,\phi)$ is $L^{xx}_t$-Lipschitz",
                lambda x: all(a >= b for a, b in zip(x["Lxx"][1:], _curvatures(x)[1:], strict=True)),
                with_entries(_curved_net, Lxx=[F(0), F(1, 2)]),
            ),
            Hypothesis(
                "smooth terminal cost",
                r"$\nabla\Phi$ is $L_\Phi$-Lipschitz",
                lambda x: x["L_Phi"] >= x["lam"],
                with_entries(lambda seed: _scalar_net(seed, 1), L_Phi=F(1, 2)),
            ),
        ),
        mutant=Mutant.scaled(_t33, JUST_BELOW_ONE, lambda seed: _scalar_net(seed, 2)),
        extremal=lambda seed: _scalar_net(seed, 2),
        proof="Expand Φ at x_T; carry p·δ back through the layers; the first step has no drift yet.",
        source="own, with explicit constants; after Li et al. 2017, Li and Hao 2018",
        status=ProofStatus.searched(8),
    )
)
