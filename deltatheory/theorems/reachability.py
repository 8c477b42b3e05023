"""What controls reach: energy, Gramians, certified balls (T36-T38)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import (
    as_fractions,
    diagonal,
    duals,
    eye,
    is_psd,
    random_fractions,
    random_full_rank,
    random_positive,
    solve,
    squared_norm,
    trace,
)
from deltatheory.theorems.instances import Instance, Sampler, array_source, meanings, with_entries
from deltatheory.theorems.splines import Spline
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T36: minimum energy ----

_ENERGY = {
    "J": "Jacobian of the outputs, (p, m)",
    "u": "controls, (m,)",
    "gap": "z - y_0, (p,)",
    "W": "Gramian, (p, p)",
    "top": "bound on its largest eigenvalue",
}


def _reaching(seed: int) -> Instance:
    """Return J, a control u that moves the output by gap = J u, and W = JJᵀ."""
    rng = np.random.default_rng(seed)
    p = int(rng.integers(1, 4))
    J, u = random_full_rank(rng, p, p + 2), random_fractions(rng, p + 2)
    W = J @ J.T
    return {"J": J, "u": u, "gap": J @ u, "W": W, "top": trace(W)}


def _cheapest(seed: int) -> Instance:
    x = _reaching(seed)
    gap = as_fractions(np.arange(1, len(x["W"]) + 1))
    return x | {"gap": gap, "u": x["J"].T @ solve(x["W"], gap)}


def _reaches(violator: Sampler) -> Hypothesis:
    return Hypothesis(
        "reaches the target", "$y_0+Ju=z$", lambda x: bool(np.all(x["J"] @ x["u"] == x["gap"])), violator
    )


def _t36a(x: Instance):
    return squared_norm(x["u"]), x["gap"] @ solve(x["W"], x["gap"])


T36a = register(
    Theorem(
        id="T36a",
        name="minimum energy",
        latex=r"y_0+Ju=z\ \Rightarrow\ \|u\|^2\ge(z-y_0)^\top W^{+}(z-y_0),\quad W=JJ^\top",
        words="reaching an output costs at least its distance in the norm of the inverse Gramian; a control "
        "attains it where z - y0 is in the range of W, and nothing reaches the others",
        kind="lower",
        entries=meanings(_ENERGY, "J u gap W"),
        sides=_t36a,
        sampler=_reaching,
        hypotheses=(
            _reaches(with_entries(_cheapest, u=lambda x: x["u"] * F(9, 10))),
            Hypothesis(
                "whole Gramian",
                "$W=JJ^\\top$, over all steps and controls",
                lambda x: bool(np.all(x["W"] == x["J"] @ x["J"].T)),
                with_entries(_cheapest, W=lambda x: x["W"] / 2),
            ),
        ),
        mutant=Mutant.scaled(_t36a, 1 / JUST_BELOW_ONE, _cheapest),
        extremal=_cheapest,
        proof="u = JᵀW⁺(z - y0) + v with Jv = 0, two orthogonal parts.",
        source="classical",
        certificates=("minimum_energy",),
        status=ProofStatus.searched(),
    )
)


def _t36b(x: Instance):
    return squared_norm(x["u"]), squared_norm(x["gap"]) / x["top"]


def _along_the_axis(seed: int) -> Instance:
    J = diagonal([seed + 2, 1], 2, 3)
    u = as_fractions([1, 0, 0])
    return {"J": J, "u": u, "gap": J @ u, "top": F((seed + 2) ** 2)}


T36b = register(
    Theorem(
        id="T36b",
        name="energy against distance",
        latex=r"\|u\|\ge\|z-y_0\|/\sqrt{\lambda_{\max}(W)}",
        words="with budget rho nothing farther than rho times the root of the largest eigenvalue is reached",
        kind="lower",
        entries=meanings(_ENERGY, "J u gap top"),
        sides=_t36b,
        sampler=_reaching,
        hypotheses=(
            _reaches(with_entries(_along_the_axis, u=lambda x: x["u"] / 2)),
            Hypothesis(
                "largest eigenvalue",
                r"$JJ^\top\preceq\lambda I$",
                lambda x: is_psd(x["top"] * eye(len(x["J"])) - x["J"] @ x["J"].T),
                with_entries(_along_the_axis, top=lambda x: x["top"] / 2),
            ),
        ),
        mutant=Mutant.scaled(_t36b, 1 / JUST_BELOW_ONE, _along_the_axis),
        extremal=_along_the_axis,
        proof="T36a with W⁺ >= I / λmax on the range of W.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


# ---- T37: the Gramian is the tangent kernel ----


def _ensemble(seed: int, wide: bool = False) -> Instance:
    """Return linear systems of two samples over three layers, driven by the same three controls."""
    draw = array_source(seed, wide, bottom=3)
    return {"A": draw(2, 3, 2, 2), "B": draw(2, 3, 2, 1), "shared": True, "tied": False}


def _kernel(x: Instance) -> np.ndarray:
    """Return JJᵀ with J by forward mode: outputs of both samples against every control there is."""
    samples, layers = x["B"].shape[:2]
    names = [(0 if x["shared"] else i, 0 if x["tied"] else t) for i in range(samples) for t in range(layers)]
    J = []
    for control in sorted(set(names)):
        column = []
        for i in range(samples):
            state = 0 * x["B"][i, 0, :, 0]
            state = duals(state, state)
            for t in range(layers):
                on = int(names[i * layers + t] == control)
                push = x["B"][i, t, :, 0]
                state = x["A"][i, t] @ state + duals(0 * push, on * push)
            column += [s.slope for s in state]
        J.append(column)
    return np.array(J).T @ np.array(J)


def _gramian(x: Instance) -> np.ndarray:
    samples, layers = x["B"].shape[:2]
    total: Any = 0
    for t in range(layers):
        moved = []
        for i in range(samples):
            push = x["B"][i, t, :, 0]
            for later in range(t + 1, layers):
                push = x["A"][i, later] @ push
            moved.append(push)
        stacked = np.concatenate(moved)
        total = total + np.outer(stacked, stacked)
    return total


def _t37(x: Instance):
    return _kernel(x), _gramian(x)


T37 = register(
    Theorem(
        id="T37",
        name="the Gramian is the tangent kernel",
        latex=r"\sum_t\Phi_{i,t}B_{i,t}B_{j,t}^\top\Phi_{j,t}^\top=(JJ^\top)_{ij}",
        words="the controllability Gramian of all samples together is the empirical tangent kernel of the "
        "controls",
        kind="identity",
        entries={
            "A": "of the states, (samples, T, n, n)",
            "B": "of the controls, (samples, T, n, m)",
            "shared": "whether all samples are driven by the same controls",
            "tied": "whether all layers are",
        },
        sides=_t37,
        sampler=_ensemble,
        hypotheses=(
            Hypothesis(
                "shared by samples",
                "all samples are driven by the same controls (else the kernel is block diagonal)",
                lambda x: x["shared"],
                with_entries(_ensemble, shared=False),
            ),
            Hypothesis(
                "a control a layer",
                "every layer has controls of its own (tied ones add up before they are squared)",
                lambda x: not x["tied"],
                with_entries(_ensemble, tied=True),
            ),
        ),
        mutant=Mutant(
            "without the transitions to the last layer",
            lambda x: (_t37(x)[0], _gramian(x | {"A": x["A"] * 0 + eye(2)})),
            _ensemble,
        ),
        proof="∂x_T/∂u_t = Φ_t B_t; sum over t.",
        source="own form; T31",
        certificates=("gramian_is_kernel",),
        status=ProofStatus.identity_tested(40),
        exact_check=identity_test(_t37, _ensemble),
    )
)


# ---- T38: a ball that is reached for certain ----


def _bend(s: Fraction, M: Fraction) -> Spline:
    """Return s u - (M/2) u|u|, which turns back at u = s/M."""
    return Spline((F(0),), (M, -M), s, F(0))


def _response(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    s, M = random_positive(rng, 2)
    slopes = (M, -M * F(int(rng.integers(0, 5)), 4), M * F(int(rng.integers(-4, 5)), 4), F(0))
    f = Spline((F(0), F(1, 2), F(2)), slopes, s, F(0))
    return {"f": f, "s": s, "M": M, "rho": s / M * F(int(rng.integers(1, 5)), 4)}


def _bent(seed: int) -> Instance:
    s, M = F(seed + 1), F(2)
    return {"f": _bend(s, M), "s": s, "M": M, "rho": s / M}


def _t38(x: Instance):
    f, rho = x["f"], x["rho"]
    stationary = [at - d / s for at, _, d, s, _, _ in f._pieces() if s != 0]
    inside = [u for u in (*f.knots, *stationary) if abs(u) <= rho]
    values = [f.value(u) - f.value(0 * rho) for u in (-rho, rho, *inside)]
    return x["s"] * rho - x["M"] * rho**2 / 2, min(max(values), -min(values))


T38 = register(
    Theorem(
        id="T38",
        name="a ball that is reached for certain",
        latex=r"F(B_\rho)\supseteq B(F(0),\,s\rho-\tfrac M2\rho^2),\quad s\le s_{\min}(F'(0))",
        words="if the Jacobian at 0 is onto and turns slowly, every output in a ball around F(0) is reached "
        "by a control in B_rho; at best s²/(2M); instances have one control and one output",
        kind="tight",
        entries={
            "f": "output of one control, a `Spline`",
            "s": "lower bound on |f'(0)|",
            "M": "Lipschitz constant of f'",
            "rho": "bound on the control",
        },
        sides=_t38,
        sampler=_response,
        hypotheses=(
            Hypothesis(
                "onto",
                r"$s_{\min}(F'(0))\ge s>0$",
                lambda x: abs(x["f"].gradient(F(0))) >= x["s"],
                with_entries(_bent, f=lambda x: _bend(x["s"] / 2, x["M"])),
            ),
            Hypothesis(
                "M",
                "$F'$ is $M$-Lipschitz",
                lambda x: all(abs(slope) <= x["M"] for slope in x["f"].slopes),
                with_entries(_bent, M=lambda x: x["M"] / 2),
            ),
        ),
        mutant=Mutant.scaled(_t38, JUST_BELOW_ONE, _bent),
        extremal=_bent,
        proof="Follow u' = F'(u)⁺(z - y0): smin(F'(u)) >= s - M‖u‖, so z is met before ‖u‖ = rho.",
        source="own form; after Graves 1950",
        status=ProofStatus.searched(),
    )
)
