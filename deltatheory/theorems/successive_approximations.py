"""How much a step of the method of successive approximations can gain or lose (T33).

x_{t+1} = f_t(x_t, u_t), J = Φ(x_T); p_T = ∇Φ(x_T), p_t = ∂f_t/∂xᵀ p_{t+1}: the minimum convention.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import as_fractions, random_fractions, squared_norm
from deltatheory.theorems.instances import Instance, with_entries
from deltatheory.theorems.intervals import sqrt
from deltatheory.theorems.splines import Spline
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


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
        entries={
            "s": "activation, a `Spline`",
            "M": "x_{t+1} = x + θ_t ∘ s(M_t x), (T, n, n)",
            "theta": "θ, (T, n)",
            "phi": "φ, (T, n)",
            "x0": "start, (n,)",
            "lam": "Φ = ½ lam ‖x‖² + w·x",
            "w": "(n,)",
            "K": "Lipschitz constants of the layers at φ, (T,)",
            "Lxx": "those of their Jacobians, (T,)",
            "L_Phi": "that of ∇Φ",
            "costate": "factor of the costate",
        },
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
        source="own, with explicit constants; after Li and Hao 2018, Li et al. 2017 (recalled)",
        status=ProofStatus.searched(8),
    )
)
