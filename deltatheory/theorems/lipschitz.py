"""Lipschitz constants of softmax, normalisation and activations (T43, T47, T48)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus
from deltatheory.theorems.exact import as_fractions, one_like, random_fractions, random_positive, squared_norm
from deltatheory.theorems.instances import Instance, Sampler, meanings, with_entries
from deltatheory.theorems.intervals import exp, magnitude, normal_cdf, normal_pdf, sqrt
from deltatheory.theorems.theorem import JUST_BELOW_ONE, Hypothesis, Mutant, Theorem, register

F = Fraction


# ---- T43: softmax ----


def _softmax_point(seed: int) -> Instance:
    """Return weights exp(x_j), a direction v and a temperature of at least 1."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    temperature = 1 + F(int(rng.integers(0, 3)), 2)
    x = {
        "w": random_positive(rng, n, top=12),
        "v": random_fractions(rng, n) + F(1, 9),
        "temperature": temperature,
    }
    return x | {"normaliser": sum(x["w"])}


def _two_tokens(seed: int) -> Instance:
    """Return two equal weights among negligible others: the worst case for v = (1, -1)."""
    v = as_fractions([1, -1]) * (seed + 1)
    return {"w": as_fractions([1, 1]), "v": v, "temperature": F(1), "normaliser": F(2)}


def _t43a(x: Instance):
    """Return vᵀ J v and ½ ‖v‖²; J = (diag p - p pᵀ)/τ is symmetric and positive semidefinite."""
    p, v = x["w"] / x["normaliser"], x["v"]
    return (p @ (v * v) - (p @ v) ** 2) / x["temperature"], squared_norm(v) / 2


def _warm(violator: Sampler) -> Hypothesis:
    return Hypothesis("temperature", r"$\tau\ge1$", lambda x: x["temperature"] >= 1, violator)


T43a = register(
    Theorem(
        id="T43a",
        name="softmax is 1/2-Lipschitz",
        latex=r"\|\mathrm{softmax}(x)-\mathrm{softmax}(x')\|_2\le\tfrac12\|x-x'\|_2",
        words="the softmax halves distances at least; read on the quadratic form of its Jacobian",
        kind="tight",
        entries={
            "w": "weights exp(x_j), (n,)",
            "v": "direction, (n,)",
            "temperature": "τ",
            "normaliser": "what the weights are divided by",
        },
        sides=_t43a,
        sampler=_softmax_point,
        hypotheses=(
            _warm(with_entries(_two_tokens, temperature=F(1, 2))),
            Hypothesis(
                "normalised",
                "the weights are positive and divided by their sum (sigmoid or linear attention is not)",
                lambda x: x["normaliser"] == sum(x["w"]) and min(x["w"]) > 0,
                with_entries(_two_tokens, normaliser=F(1)),
            ),
        ),
        mutant=Mutant.scaled(_t43a, JUST_BELOW_ONE, _two_tokens),
        extremal=_two_tokens,
        proof="Gershgorin: p_i(1 - p_i) + Σ_{j≠i} p_i p_j = 2 p_i(1 - p_i); ½ less that is ½(1 - 2p_i)².",
        source="Böhning 1992 (the Hessian of the multinomial log likelihood); Nair 2025",
        certificates=("softmax_half",),
        status=ProofStatus.expanded("the slack of a row, for every n; then Gershgorin"),
    )
)


def _variation_point(seed: int) -> Instance:
    """Return weights exp(x_j) and exp(x'_j)."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    return {"w": random_positive(rng, n, top=12), "w2": random_positive(rng, n, top=12), "power": 1}


def _two_swapped(seed: int) -> Instance:
    s = F(seed + 2)
    return {"w": as_fractions([s, 1]), "w2": as_fractions([1, s]), "power": 1}


def _t43b(x: Instance):
    """Return TV and tanh(osc/4) = (√r - 1)/(√r + 1), where log r is the oscillation of x - x'."""
    w, w2 = x["w"] ** x["power"], x["w2"] ** x["power"]
    ratios = x["w"] / x["w2"]
    root = sqrt(max(ratios) / min(ratios))
    return sum(abs(w / sum(w) - w2 / sum(w2))) / 2, (root - 1) / (root + 1)


T43b = register(
    Theorem(
        id="T43b",
        name="total variation of softmax",
        latex=r"TV(\mathrm{softmax}\,x,\mathrm{softmax}\,x')\le\tanh(\mathrm{osc}(x-x')/4)",
        words="only the oscillation of the change of scores moves attention, and never all of it",
        kind="tight",
        entries={
            "w": "weights exp(x_j), (n,)",
            "w2": "weights exp(x'_j), (n,)",
            "power": "factor of the scores",
        },
        sides=_t43b,
        sampler=_variation_point,
        hypotheses=(
            Hypothesis(
                "temperature",
                "temperature 1 or above (here: scores are not multiplied), and positive weights",
                lambda x: 0 <= x["power"] <= 1 and min(*x["w"], *x["w2"]) > 0,
                with_entries(_two_swapped, power=2),
            ),
        ),
        mutant=Mutant.scaled(_t43b, JUST_BELOW_ONE, _two_swapped),
        extremal=_two_swapped,
        proof="The worst case has two values of the change; there TV is a difference of two sigmoids.",
        source="after Birkhoff 1957, Hopf 1963 (contraction of positive operators)",
        status=ProofStatus.searched(),
    )
)


# ---- T47: LayerNorm and RMSNorm ----

_NORM = {
    "x": "input, (n,)",
    "z": "direction, (n,)",
    "gains": "γ, (n,)",
    "g": "bound on |γ|",
    "eps": "ε",
    "centred": "whether the mean is removed, as LayerNorm does",
    "local": "lower bound on s² at x",
    "floor": "lower bound on ε",
}


def _normed(seed: int) -> Instance:
    """Return a vector, a direction, gains of at most g, eps, and whether the mean is removed."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 7))
    x = {"x": random_fractions(rng, n) + F(1, 9), "z": random_fractions(rng, n) + F(1, 8), "eps": F(1, 10)}
    gains = random_fractions(rng, n)
    return x | {"gains": gains, "g": max(abs(gains)), "centred": bool(seed % 2), "floor": x["eps"]}


def _tangent(x: Instance) -> tuple[Any, Any]:
    """Return s² and ‖s J z‖² for the normalisation x / s, s² = mean square + eps."""
    n = len(x["x"])
    y = x["x"] - sum(x["x"]) / n if x["centred"] else x["x"]
    z = x["z"] - sum(x["z"]) / n if x["centred"] else x["z"]
    s2 = squared_norm(y) / n + x["eps"]
    return s2, squared_norm(x["gains"] * (z - y * (y @ z) / (n * s2)))


def _t47a(x: Instance):
    s2, moved = _tangent(x)
    return moved / s2, x["g"] ** 2 * squared_norm(x["z"]) / x["local"]


def _with_local(sampler: Sampler) -> Sampler:
    return with_entries(sampler, local=lambda x: _tangent(x)[0])


def _level(seed: int) -> Instance:
    """Return a constant gain and a direction across x and the mean: equality."""
    x = {
        "x": as_fractions([1, -1, 0, 0]),
        "z": as_fractions([0, 0, 1, -1]),
        "eps": F(1, 10),
        "floor": F(1, 10),
    }
    return x | {"gains": as_fractions([seed + 1] * 4), "g": F(seed + 1), "centred": True}


def _gains(violator: Sampler) -> Hypothesis:
    return Hypothesis("gains", r"$|\gamma_i|\le g$", lambda x: max(abs(x["gains"])) <= x["g"], violator)


T47a = register(
    Theorem(
        id="T47a",
        name="normalisation, locally",
        latex=r"\|J(x)z\|\le g\,\|z\|/s(x),\quad s^2=\mathrm{var}+\epsilon",
        words="LayerNorm and RMSNorm amplify a small change by at most the gain over the local deviation; "
        "compared squared",
        kind="tight",
        entries=meanings(_NORM, "x z gains g eps centred local"),
        sides=_t47a,
        sampler=_with_local(_normed),
        hypotheses=(
            _gains(with_entries(_with_local(_level), g=lambda x: x["g"] / 2)),
            Hypothesis(
                "local deviation",
                "$s$ is taken at this input (a constant found elsewhere does not carry over)",
                lambda x: 0 < x["local"] <= _tangent(x)[0],
                with_entries(_with_local(_level), local=lambda x: 4 * x["local"]),
            ),
        ),
        mutant=Mutant.scaled(_t47a, JUST_BELOW_ONE, _with_local(_level)),
        extremal=_with_local(_level),
        proof="s J = C - yyᵀ/(n s²) is symmetric with eigenvalues in [0, 1].",
        source="classical",
        certificates=("layer_norm",),
        status=ProofStatus.searched(),
    )
)


def _t47b(x: Instance):
    s2, moved = _tangent(x)
    return moved / s2, x["g"] ** 2 * squared_norm(x["z"]) / x["floor"]


_at_zero = with_entries(_level, x=as_fractions([0, 0, 0, 0]))

T47b = register(
    Theorem(
        id="T47b",
        name="normalisation, globally",
        latex=r"\mathrm{Lip}\le g/\sqrt\epsilon",
        words="the only global constant of LayerNorm and RMSNorm is the gain over the root of eps; squared",
        kind="tight",
        entries=meanings(_NORM, "x z gains g eps centred floor"),
        sides=_t47b,
        sampler=_normed,
        hypotheses=(
            _gains(with_entries(_at_zero, g=lambda x: x["g"] / 2)),
            Hypothesis(
                "epsilon",
                r"$\epsilon$ is at least the floor, which is positive (at 0 the constant is infinite)",
                lambda x: x["eps"] >= x["floor"] > 0,
                with_entries(_at_zero, eps=F(1, 1000)),
            ),
        ),
        mutant=Mutant.scaled(_t47b, JUST_BELOW_ONE, _at_zero),
        extremal=_at_zero,
        proof="T47a with s² >= eps, attained at constant inputs.",
        source="classical",
        status=ProofStatus.searched(),
    )
)


# ---- T48: activations ----

GELU = F(1128904145187, 10**12)  # rounded up, as certified
SILU = F(109983932013, 10**11)  # rounded up, as certified


def _point(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    return {"x": F(int(rng.integers(-4000, 4001)), 1000), "scale": F(1)}


def _gelu_slope(x: Any) -> Any:
    return normal_cdf(x) + x * normal_pdf(x)


def _silu_slope(x: Any) -> Any:
    sigmoid = 1 / (1 + exp(-x))
    return sigmoid * (1 + x * (1 - sigmoid))


def _steepest(at: Fraction):
    return lambda seed: {"x": at, "scale": F(1)}


def _slope_below(slope, constant):
    def sides(x: Instance):
        found = magnitude(x["scale"] * slope(x["x"]))
        return found, constant * one_like(x["x"])

    return sides


def _activation(
    id: str, name: str, slope, constant: Fraction, at: Fraction, latex: str, certificates: tuple[str, ...]
) -> Theorem:
    sides = _slope_below(slope, constant)
    return Theorem(
        id=id,
        name=f"slope of {name}",
        latex=latex,
        words=f"{name} is {float(constant):.10f}-Lipschitz, and not 1-Lipschitz",
        kind="tight",
        entries={"x": "where the slope is taken", "scale": "factor of the activation"},
        sides=sides,
        sampler=_point,
        hypotheses=(
            Hypothesis(
                "unscaled",
                "the activation is not multiplied by more than 1",
                lambda x: abs(x["scale"]) <= 1,
                with_entries(_steepest(at), scale=F(1001, 1000)),
            ),
        ),
        mutant=Mutant.scaled(sides, 1 / constant, _steepest(at)),
        extremal=_steepest(at),
        proof="The slope is largest where the second derivative vanishes.",
        source="own evaluation in interval arithmetic",
        certificates=certificates,
        status=ProofStatus.certified("boxes on [0, 8]; the rest by monotony and symmetry"),
    )


T48a = register(
    _activation(
        "T48a",
        "GELU",
        _gelu_slope,
        GELU,
        F(1414213562, 10**9),
        r"|\mathrm{GELU}'|\le\Phi(\sqrt2)+\sqrt2\,\varphi(\sqrt2)=1.12890\ldots",
        ("gelu", "gelu_curvature"),
    )
)
T48b = register(
    _activation(
        "T48b",
        "SiLU",
        _silu_slope,
        SILU,
        F(2399357, 10**6),
        r"|\mathrm{SiLU}'|\le1.09984\ldots",
        ("silu",),
    )
)
