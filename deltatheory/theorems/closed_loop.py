"""Closed loop: a tube that is not left, integral action, the maximum principle over all stages (T58)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, identity_test
from deltatheory.theorems.exact import Dual, as_fractions, random_fractions, solve
from deltatheory.theorems.instances import Instance, array_source, with_entries
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T58a: the invariant tube ----


def _t58a(x: Instance):
    return x["e"], x["tube"] + 0 * x["e"]


def _next(e, x: Instance):
    return x["rho"] * e + x["M"] / 2 * e**2 + x["w"]


def _errors(rho, M, tube, share, steps: int = 3) -> Instance:
    """Return the largest errors there can be from this share of the tube, which w makes just invariant."""
    rho, M, tube = F(rho), F(M), F(tube)
    x = {"rho": rho, "M": M, "tube": tube, "w": tube * (1 - rho) - M / 2 * tube**2}
    e = [tube * share]
    for _ in range(steps):
        e.append(_next(e[-1], x))
    return x | {"e": as_fractions(e)}


def _tube_sample(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    rho, tube, share = (
        F(int(rng.integers(0, 10)), 10),
        F(int(rng.integers(1, 5)), 2),
        F(int(rng.integers(0, 5)), 4),
    )
    return _errors(rho, 2 * (1 - rho) / tube * F(int(rng.integers(0, 5)), 4), tube, share)


def _filled(seed: int) -> Instance:
    return _errors(F(1, 2), F(1, 4), 1 + seed, F(1), steps=1)


def _enumerate_t58a() -> bool:
    return all(bool(np.all(x["e"] <= x["tube"])) for x in _tubes())


def _tubes() -> Iterator[Instance]:
    for rho, M, tube, quarters in product(
        (0, F(1, 2), F(9, 10)), (0, F(1, 8), 1), (F(1, 10), 1, 2), range(5)
    ):
        x = _errors(rho, M, tube, F(quarters, 4))
        if x["w"] >= 0:
            yield x


T58a = register(
    Theorem(
        id="T58a",
        name="an invariant tube",
        latex=r"e_{t+1}\le\rho e_t+\tfrac M2e_t^2+w,\ \rho\tau+\tfrac M2\tau^2+w\le\tau,\ e_0\le\tau\ "
        r"\Rightarrow\ e_t\le\tau",
        words="feedback on a linearised model keeps the true state within a tube, if the start is in it and "
        "the curvature is small enough that the tube maps into itself",
        kind="tight",
        entries={
            "e": "errors at the stages, (T + 1,)",
            "rho": "ρ, contraction of the linear closed loop",
            "M": "curvature of the dynamics",
            "w": "largest disturbance",
            "tube": "τ, radius of the tube",
        },
        sides=_t58a,
        sampler=_tube_sample,
        hypotheses=(
            Hypothesis(
                "closed loop",
                r"$e_{t+1}\le\rho e_t+\frac M2e_t^2+w$",
                lambda x: bool(np.all(x["e"][1:] <= _next(x["e"][:-1], x))),
                with_entries(_filled, e=lambda x: x["e"] * as_fractions([1, 2])),
            ),
            Hypothesis(
                "signs",
                r"$\rho,M,e_t\ge0$",
                lambda x: x["rho"] >= 0 and x["M"] >= 0 and bool(np.all(x["e"] >= 0)),
                with_entries(
                    _filled,
                    rho=F(-1),
                    M=F(0),
                    w=lambda x: 2 * x["tube"],
                    e=lambda x: as_fractions([0, 2 * x["tube"]]),
                ),
            ),
            Hypothesis(
                "invariant",
                r"$\rho\tau+\frac M2\tau^2+w\le\tau$",
                lambda x: _next(x["tube"], x) <= x["tube"],
                with_entries(_filled, w=lambda x: x["w"] + 1, e=lambda x: x["e"] + as_fractions([0, 1])),
            ),
            Hypothesis(
                "start",
                r"$e_0\le\tau$",
                lambda x: x["e"][0] <= x["tube"],
                with_entries(_filled, e=lambda x: 2 * x["e"][:1]),
            ),
        ),
        mutant=Mutant.scaled(_t58a, JUST_BELOW_ONE, _filled),
        extremal=_filled,
        proof="The right side grows with e, so by induction it is at most its value at τ. The least tube is "
        "the smaller root of ρτ + M τ²/2 + w = τ; every start below the larger root stays below it.",
        source="classical (robust control); own form",
        status=ProofStatus.enumerated(f"{sum(1 for _ in _tubes())} tubes, 3 steps"),
        exact_check=_enumerate_t58a,
    )
)


# ---- T58b: integral action ----


def _t58b(x: Instance):
    A, B, C = x["A"], x["B"], x["C"]
    n, loop = len(A), x["A"] - x["B"] @ x["K"]
    unit = np.eye(n, dtype=int) + 0 * A
    leak = np.array([[1 - x["memory"]]])
    system = np.block([[unit - loop, B * x["gain"]], [-C, leak]])
    right = np.concatenate([x["d"], -x["ref"]])
    return C @ solve(system, right)[:n], x["ref"]


def _servo(seed: int, wide: bool = False) -> Instance:
    draw = array_source(seed, wide)
    x = {"A": draw(2, 2), "B": draw(2, 1), "C": draw(1, 2), "K": draw(1, 2), "d": draw(2), "ref": draw(1)}
    return x | {"gain": draw(1)[0], "memory": F(1)}


def _single(seed: int) -> Instance:
    one = as_fractions([[1]])
    x = {"A": one / 2, "B": one, "C": one, "K": 0 * one, "d": one[0] * (1 + seed), "ref": 0 * one[0]}
    return x | {"gain": F(1), "memory": F(1)}


T58b = register(
    Theorem(
        id="T58b",
        name="integral action removes the steady error",
        latex=r"x_+=Ax-B(Kx+k_Iz)+d,\ z_+=z+Cx-r\ \Rightarrow\ Cx_\infty=r",
        words="a controller that adds up the error holds the output exactly at its reference against any "
        "constant disturbance, in every equilibrium; a leaking or proportional one leaves an error",
        kind="identity",
        entries={
            "A": "(n, n)",
            "B": "(n, 1)",
            "C": "what is read of the state, (1, n)",
            "K": "proportional gain, (1, n)",
            "gain": "integral gain",
            "memory": "share of the integral that is kept from step to step",
            "d": "disturbance, (n,)",
            "ref": "reference, (1,)",
        },
        sides=_t58b,
        sampler=_servo,
        hypotheses=(
            Hypothesis(
                "no leak",
                "the integral is kept whole",
                lambda x: x["memory"] == 1,
                with_entries(_single, memory=F(1, 2)),
            ),
        ),
        mutant=Mutant(
            "a steady error of the disturbance", lambda x: (_t58b(x)[0], x["ref"] + x["d"][0]), _single
        ),
        proof="In an equilibrium z = z + Cx - r.",
        source="classical (internal model principle, Francis and Wonham 1976)",
        certificates=("integral_action",),
        status=ProofStatus.identity_tested(60),
        exact_check=identity_test(_t58b, _servo),
    )
)


# ---- T58c: the maximum principle over T stages, for affine controls ----


def _moved(x: Instance, t: int, state, u):
    """Return f_t(x, u) = a x + (b + c x) u + bend u²."""
    return x["a"][t] * state + (x["b"][t] + x["c"][t] * state) * u + x["bend"] * u * u


def _cost(x: Instance, controls: np.ndarray):
    state, total = x["start"], 0
    for t, u in enumerate(controls):
        total = total + x["r"] / 2 * u * u + x["l"][t] * u
        state = _moved(x, t, state, u)
    return total + x["q"] / 2 * (state - x["goal"]) * (state - x["goal"])


def _slopes(x: Instance) -> np.ndarray:
    """Return dJ/du, forward."""
    rows = [[Dual(u, F(s == t)) for s, u in enumerate(x["u"])] for t in range(len(x["u"]))]
    return np.array([_cost(x, np.array(row, dtype=object)).slope for row in rows])


def _is_first_order(x: Instance) -> bool:
    """Return whether no admissible direction goes down."""
    low, high = x["u"] == x["low"], x["u"] == x["high"]
    return all(
        (slope >= 0 or not (inside or at_low)) and (slope <= 0 or not (inside or at_high))
        for slope, at_low, at_high, inside in zip(_slopes(x), low, high, ~(low | high), strict=True)
    )


def _t58c(x: Instance):
    states = [x["start"]]
    for t, u in enumerate(x["u"]):
        states.append(_moved(x, t, states[-1], u))
    costate, sides = x["q"] * (states[-1] - x["goal"]), []
    for t in reversed(range(len(x["u"]))):
        sides.append(
            [
                costate * _moved(x, t, states[t], u) + x["r"] / 2 * u * u + x["l"][t] * u
                for u in (x["u"][t], x["v"][t])
            ]
        )
        costate = costate * (x["a"][t] + x["c"][t] * x["u"][t])
    left, right = zip(*sides, strict=True)
    return np.array(left), np.array(right)


def _optimal(seed: int) -> Instance:
    """Return controls on the bounds and inside; the running cost makes each a first-order point."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 4))
    x = {name: random_fractions(rng, T, top=2) for name in "abc"} | {"bend": F(0), "low": F(-1), "high": F(1)}
    x |= dict(zip(("start", "goal"), random_fractions(rng, 2), strict=True))
    x |= {"q": F(int(rng.integers(0, 4))), "r": F(int(rng.integers(0, 3))), "l": as_fractions([0] * T)}
    place = rng.integers(-1, 2, T)  # at the lower bound, inside, at the upper one
    x["u"] = as_fractions(np.where(place == 0, 0.25, place))
    x["v"] = as_fractions(rng.integers(-4, 5, T)) / 4
    return x | {"l": -_slopes(x) - as_fractions(place * rng.integers(0, 3, T))}


def _still(seed: int) -> Instance:
    """Return no terminal cost and controls at their lower bound 1."""
    zero = as_fractions([0, 0])
    x = {"a": zero + 1, "b": zero + 1, "c": zero, "bend": F(0), "start": F(0), "goal": F(0), "q": F(0)}
    x |= {"r": F(1 + seed), "l": zero, "low": F(1), "high": F(2), "u": zero + 1, "v": zero + 1}
    return x


_at_rest = with_entries(
    _still, low=F(-1), high=F(1), u=as_fractions([0, 0]), v=as_fractions([1, 1]), l=as_fractions([0, 0])
)

T58c = register(
    Theorem(
        id="T58c",
        name="maximum principle over all stages",
        latex=r"f_t(x,\cdot)\text{ affine},\ L_t(x,\cdot)\text{ convex},\ u\text{ a first-order point}"
        r"\ \Rightarrow\ H_t(u_t)=\min_{v\in U}H_t(v)\ \forall t",
        words="for controls that enter affinely (biases, steering, prefix values) with a convex cost, the "
        "optimum minimises the Hamiltonian of every stage; of controls that bend, as LoRA's factors, it need "
        "not",
        kind="tight",
        entries={
            "a": "of f_t = a x + (b + c x) u + bend u², (T,)",
            "b": "(T,)",
            "c": "(T,)",
            "bend": "of the control",
            "start": "x_0",
            "goal": "where the terminal cost q/2 (x_T - goal)² is least",
            "q": "its curvature",
            "r": "curvature of the running cost r/2 u² + l u",
            "l": "its slopes, (T,)",
            "low": "lower bound of the controls",
            "high": "upper bound",
            "u": "controls, (T,)",
            "v": "others, (T,)",
        },
        sides=_t58c,
        sampler=_optimal,
        hypotheses=(
            Hypothesis(
                "affine controls",
                "$f_t$ is affine in $u$",
                lambda x: x["bend"] == 0,
                with_entries(_at_rest, bend=F(5), q=F(1), goal=F(9), b=as_fractions([0, 0])),
            ),
            Hypothesis("convex cost", "$r\\ge0$", lambda x: x["r"] >= 0, with_entries(_at_rest, r=F(-1, 2))),
            Hypothesis(
                "first-order point",
                "no admissible direction goes down",
                _is_first_order,
                with_entries(_still, v=as_fractions([1, 1]), u=as_fractions([2, 2])),
            ),
            Hypothesis(
                "admissible",
                "$u,v$ are between their bounds",
                lambda x: bool(all(x["low"] <= y <= x["high"] for name in "uv" for y in x[name])),
                with_entries(_still, v=as_fractions([0, 0])),
            ),
        ),
        mutant=Mutant.scaled(_t58c, JUST_BELOW_ONE, _still),
        extremal=_still,
        proof="dJ/du_t = dH_t/du (T31), and H_t is convex in u_t: a first-order point is its minimum.",
        source="Halkin 1966, Holtzman 1966 (recalled); own form",
        status=ProofStatus.searched(),
    )
)
