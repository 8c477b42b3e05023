"""Theorems on the linearised problem, and on the loss near δ = 0.

The linearised loss ½‖J S z - r‖²/n in 12 random directions S of δ is a quadratic whose constants are known;
the subspaces are spanned by 4 of its axes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from deltatheory import autodiff
from deltatheory.testing.probe import Measurement, Probe
from deltatheory.theorems import get_theorem
from deltatheory.theorems.layer_choice import greedy
from deltatheory.theorems.theorem import Sides

__all__ = ["MEASURES"]

_LINEARISED = "met by the linearised loss in 12 random directions of δ; constants exact"
_LOCAL = "local: constants measured at {} points of the segment"
_POINTS = (5, 17, 65)
_DRAWS = 200


def _on_quadratic(id: str):
    def measure(probe: Probe) -> Measurement:
        return Measurement(get_theorem(id).bound(probe.linearised), _LINEARISED)

    return measure


def _schur(probe: Probe) -> Measurement:
    x = probe.linearised
    H, A, v = x["f"].H, x["A"], x["star"] - x["x0"]
    z = np.linalg.solve(A.T @ H @ A, A.T @ H @ v)
    return Measurement(get_theorem("T50a").bound({"H": H, "A": A, "v": v, "z": z}), _LINEARISED)


def _reached(probe: Probe) -> Measurement:
    """Return T49b for the subspace as the delta: its point nearest to θ⁺, its start, and its best."""
    x = probe.linearised
    points = [x["x0"] + x["G"] @ (x["star"] - x["x0"]), x["x0"], x["x"]]
    return Measurement(get_theorem("T49b").bound(x | {"points": points, "near": 0}), _LINEARISED)


def _fresh(probe: Probe) -> Measurement:
    x = probe.linearised
    D = len(x["x0"])
    axes = [np.diag(row) for row in np.eye(D)]
    law = {"projectors": axes, "draws": [(i, j) for i in range(D) for j in range(D)], "d": 1, "k": 2}
    return Measurement(get_theorem("T06").bound(x | law), f"{_LINEARISED}; one axis a step, two steps")


# ---- The loss itself ----


def _curvature(probe: Probe, direction: torch.Tensor, length: float, points: int) -> float:
    """Return the largest |vᵀHv|/‖v‖² at so many points along a direction from δ = 0."""
    v = direction / direction.norm()
    places = [probe.origin + s * length * v for s in np.linspace(0, 1, points)]
    return max(abs(float(v @ autodiff.hvp(probe.loss, place, v))) for place in places)


def _captured(probe: Probe) -> torch.Tensor:
    """Return P∇loss for a random subspace of dimension 8."""
    m = len(probe.origin)
    S = torch.linalg.qr(probe.tensor(m, min(8, m)))[0]
    return S @ (S.T @ probe.gradient)


def _step(probe: Probe, part: torch.Tensor) -> tuple[float, float, float, str]:
    """Return the loss before and after a step 1/L along -part, what is promised, and how L was measured.

    A largest value over points lies below L: where the promise is not kept there are more points.
    """
    with torch.no_grad():
        before = float(probe.loss(probe.origin))
    L = max(_curvature(probe, -part, 0.0, 1), 1e-12)
    for points in _POINTS:
        L = max(_curvature(probe, -part, float(part.norm()) / L, points), L)
        promised = float(part @ part) / (2 * L)
        with torch.no_grad():
            after = float(probe.loss(probe.origin - part / L))
        if before - after >= promised - probe.rounding * abs(before):
            break
    return before, after, promised, _LOCAL.format(points)


def _descent(probe: Probe) -> Measurement:
    before, after, promised, text = _step(probe, _captured(probe))
    return Measurement(Sides(after, before - promised), text, rounding=probe.rounding * abs(before))


def _gap_below(probe: Probe) -> Measurement:
    before, after, promised, text = _step(probe, probe.gradient - _captured(probe))
    text += "; inf f replaced by the loss after one step, so the true left side is larger"
    return Measurement(Sides(before - after, promised), text, rounding=probe.rounding * abs(before))


def _transfer(probe: Probe) -> Measurement:
    v = probe.tensor(len(probe.origin))
    v = v / v.norm()
    with torch.no_grad():
        first, last = (float(probe.loss(probe.origin + s * v)) for s in (0, 1))
    rounding = probe.rounding * abs(first)
    for points in _POINTS:
        places = [probe.origin + s * v for s in np.linspace(0, 1, points)]
        L = max(float(autodiff.grad(probe.loss, place).norm()) for place in places)
        if abs(last - first) <= L + rounding:
            break
    text = f"{_LOCAL.format(points)}; a random step of length 1"
    return Measurement(Sides(abs(last - first), L), text, rounding=rounding)


# ---- Random projections of real gradients ----


def _lengths(probe: Probe) -> Measurement:
    d, eps, rows = 64, 0.5, probe.jacobian[:4]
    rng = np.random.default_rng(probe.seed)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    missed = 0
    for _ in range(_DRAWS):
        A = rng.standard_normal((d, rows.shape[1])) / math.sqrt(d)
        missed += bool((abs(((unit @ A.T) ** 2).sum(1) - 1) >= eps).any())
    right = 2 * len(rows) * math.exp(-d * (eps**2 / 4 - eps**3 / 6))
    text = f"met: 4 gradients of margins, fixed before A; d = 64, left side a frequency in {_DRAWS} draws"
    return Measurement(Sides(missed / _DRAWS, right), text, trivial=1.0)


def _capture(probe: Probe) -> Measurement:
    g = probe.gradient.double().cpu().numpy()
    D, d, beta = len(g), 8, 0.25
    rng = np.random.default_rng(probe.seed)
    low = 0
    for _ in range(_DRAWS):
        S = np.linalg.qr(rng.standard_normal((D, d)))[0]
        low += float(np.sum((S.T @ g) ** 2)) <= beta * d / D * float(g @ g)
    right = math.exp(d / 2 * (1 - beta + math.log(beta)))
    text = f"met: the gradient at δ = 0, d = 8, β = 1/4; left side a frequency in {_DRAWS} draws"
    return Measurement(Sides(low / _DRAWS, right), text, trivial=1.0)


# ---- Gramians ----


def _outputs(probe: Probe, count: int) -> np.ndarray:
    return probe.jacobian[:count]


def _energy(probe: Probe) -> dict[str, np.ndarray]:
    J = _outputs(probe, 4)
    W = J @ J.T
    gap = np.ones(len(J))
    u = J.T @ np.linalg.solve(W, gap)
    v = probe.random(J.shape[1])
    v = v - J.T @ np.linalg.solve(W, J @ v)
    u = u + 0.1 * np.linalg.norm(u) / np.linalg.norm(v) * v  # reaches the same, at one percent more
    return {"J": J, "u": u, "gap": gap, "W": W, "top": np.linalg.eigvalsh(W)[-1]}


def _on_energy(id: str):
    def measure(probe: Probe) -> Measurement:
        text = "met by the linearised margins of 4 examples, each raised by 1"
        return Measurement(get_theorem(id).bound(_energy(probe)), text)

    return measure


def _choice(probe: Probe) -> dict[str, Any]:
    parts = np.array_split(_outputs(probe, 4), 4, axis=1)
    W = [part @ part.T for part in parts]
    x = {"W": W, "eps": float(np.trace(sum(W)) / 100), "objective": "logdet"}
    x |= {"small": [0], "large": [0, 1], "add": 2}
    return x | {"chosen": greedy(x)}


def _on_choice(id: str):
    def measure(probe: Probe) -> Measurement:
        text = "met: Gramians of four consecutive parts of δ on the margins of 4 examples"
        return Measurement(get_theorem(id).bound(_choice(probe)), text)

    return measure


def _decay(probe: Probe) -> Measurement:
    J, r = probe.jacobian, probe.restricted[1]
    values, U = np.linalg.eigh(J @ J.T / len(J))
    x = {"values": values, "U": U, "c": U.T @ r, "t": 1 / float(values[-1]), "rate": float(values[0])}
    return Measurement(get_theorem("X2").bound(x), "met: linearised training for the time 1/λmax")


# ---- Unseen data ----


def _errors(probe: Probe) -> tuple[float, float, int]:
    problem, rates = probe.problem, []
    for split in (problem.train, problem.test):
        count = min(64, len(split))
        wrong = 0
        for start in range(0, count, 16):
            batch, labels = problem.batch(split, range(start, min(start + 16, count)))
            with torch.no_grad():
                logits = problem.logits(probe.origin, batch)
            wrong += int((~problem.loss_function.right(logits, labels)).sum())
        rates.append(wrong / count)
    return rates[0], rates[1], len(problem.train)


def _occam(probe: Probe) -> Measurement:
    train, test, n = _errors(probe)
    margin = math.sqrt((32 * len(probe.origin) * math.log(2) + math.log(20)) / (2 * n))
    text = "met for i.i.d. examples: δ in 32 bits a coordinate, η = 1/20; errors on 64 examples at δ = 0"
    return Measurement(Sides(test - train, margin), text, trivial=1.0)


def _pac_bayes(probe: Probe) -> Measurement:
    train, test, n = _errors(probe)
    bits = 32 * len(probe.origin) * math.log(2)

    def part(a: float, b: float) -> float:
        return a * math.log(a / max(b, 1e-12)) if a > 0 else 0.0

    kl = part(train, test) + part(1 - train, 1 - test)
    bound = (bits + math.log(2 * math.sqrt(n) * 20)) / n
    text = "met for i.i.d. examples: uniform prior over δ in 32 bits a coordinate, η = 1/20"
    return Measurement(Sides(kl, bound), text, trivial=math.log(max(n, 2)))


MEASURES = {
    **{id: _on_quadratic(id) for id in ("T01a", "T01b", "T02", "T03", "T04a", "T05b", "T07a", "T07b")},
    **{id: _on_quadratic(id) for id in ("T09", "T10")},
    "T06": _fresh,
    "T49b": _reached,
    "T50a": _schur,
    "T04b": _gap_below,
    "T05a": _descent,
    "T17a": _transfer,
    "T11": _lengths,
    "T12": _capture,
    **{id: _on_energy(id) for id in ("T36a", "T36b")},
    **{id: _on_choice(id) for id in ("T42a", "T42b")},
    "X2": _decay,
    "T18": _occam,
    "T19b": _pac_bayes,
}
