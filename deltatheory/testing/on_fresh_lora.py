"""Theorems on a fresh LoRA: what its factors move, and means over draws of A on gradients of the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.testing.probe import Measurement, Probe
from deltatheory.theorems import get_theorem
from deltatheory.theorems.theorem import Sides

__all__ = ["MEASURES"]

_RANKS = (1, 4, 16)
_ROWS = 3200  # of A, in all draws of a rank together: the mean of AᵀA/r is then as sharp at every rank
_ERRORS = 4  # standard errors


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


# ---- The factors of one unit ----


def _unit(probe: Probe) -> dict[str, Any]:
    """Return the delta b aᵀ of one unit on a token of a text, as an instance of T54."""
    x = _array(probe.states[probe.layer][0, 1])
    n = len(x)
    x = {"a": probe.random(n) / math.sqrt(n), "b": 1.0, "x": x, "y": 1.0, "order": "together"}
    return x | {"eta_a": 1 / n, "eta_b": 1.0}


def _moves(probe: Probe) -> Measurement:
    """Return T54a of a step on the unit's whole output, whose target is y above what W alone gives."""
    x = _unit(probe)
    row, token = probe.weight("query")[1][0].double().cpu(), torch.from_numpy(x["x"])
    target = row @ token + x["y"]

    def output(factors: Tensor) -> Tensor:
        return (row + factors[-1] * factors[:-1]) @ token

    start = torch.from_numpy(np.append(x["a"], x["b"]))
    slope = autodiff.grad(lambda factors: (output(factors) - target) ** 2 / 2, start)
    rates = torch.from_numpy(np.append(np.full(len(token), x["eta_a"]), x["eta_b"]))
    moved = float(output(start - rates * slope) - output(start))
    text = "met: a unit of the query weight on a token of a text, b = 1, rates 1/n and 1"
    return Measurement(Sides(moved, get_theorem("T54a").bound(x).right), text)


def _rates(probe: Probe) -> Measurement:
    x = _unit(probe)
    size = float(x["x"] @ x["x"]) / len(x["x"])
    x["x"] = x["x"] / math.sqrt(size)
    of_a = len(x["x"]) * (x["b"] / (x["a"] @ x["x"])) ** 2
    text = (
        f"met: as T54a, the token scaled to ‖x‖² = n, from {size:.2g} n; with one rate A moves it "
        f"{of_a:.3g} times as far as B"
    )
    return Measurement(get_theorem("T54b").bound(x), text)


# ---- Means over A ----


def _mean(
    probe: Probe,
    M: np.ndarray,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    claim: float,
    text: str,
) -> Measurement:
    """Compare the mean over Gaussian A of a value of A and AM, (draws, r, n), with a claim for all ranks."""
    means, room = [], 0.0
    for r in _RANKS:
        A = probe.random(_ROWS // r, r, len(M))
        values = value(A, A @ M)
        means.append(values.mean())
        room = max(room, _ERRORS * float(values.std()) / math.sqrt(len(values)))
    text += (
        f"; ranks {', '.join(map(str, _RANKS))}; the mean over {_ROWS}/r Gaussian A may be off by "
        f"{_ERRORS} standard errors, {room:.2g}"
    )
    return Measurement(Sides(np.array(means), np.full(len(means), claim)), text, rounding=room)


def _sketch(A: np.ndarray, AM: np.ndarray) -> np.ndarray:
    """Return tr(A M Aᵀ)/r of every draw."""
    return (AM * A).sum((1, 2)) / A.shape[1]


def _on_update(id: str):
    """Measure the mean (T55a) or the square (T55b) of the first update -s² G AᵀA (T29), s = 1/√r."""

    def measure(probe: Probe) -> Measurement:
        name, W = probe.weight("query")
        G = _array(autodiff.grad(lambda weight: probe.loss_of(Edit({name: weight})), W))
        H = G.T @ G / np.sum(G**2)
        text = "met: first update of the query weight, scale 1/√r, "
        if id == "T55a":
            return _mean(probe, H, lambda A, AH: -_sketch(A, AH), -1.0, f"{text}in the gradient's direction")
        return _mean(probe, H, _square, 1.0, f"{text}in units of the claim")

    return measure


def _square(A: np.ndarray, AH: np.ndarray) -> np.ndarray:
    """Return ‖GAᵀA‖²/r² for H = GᵀG, over what T55b claims of it."""
    r, n = A.shape[1:]
    return (AH @ A.transpose(0, 2, 1) * (A @ A.transpose(0, 2, 1))).sum((1, 2)) / (r * (r + n + 1))


def _on_kernel(id: str):
    """Measure the mean (T56a) or the variance (T56b) of LoRA's kernel of two examples' margins."""

    def measure(probe: Probe) -> Measurement:
        name, W = probe.weight("query")
        loss, labels = probe.problem.loss_function, probe.labels
        gradients = [
            _array(autodiff.grad(lambda w, i=i: loss.margin(probe.logits_of(Edit({name: w})), labels)[i], W))
            for i in (0, 1)
        ]
        Gi, Gj = (G / np.linalg.norm(G) for G in gradients)
        M = Gi.T @ Gj
        mean, spread = float(np.trace(M)), np.sum(M**2) + np.sum(M * M.T)
        text = "met: margins of two examples as functions of the query weight, "
        if id == "T56a":
            return _mean(probe, M, _sketch, mean, f"{text}their gradients of length 1")
        return _mean(
            probe,
            M,
            lambda A, AM: (_sketch(A, AM) - mean) ** 2 * A.shape[1] / spread,
            1.0,
            f"{text}in units of the claim",
        )

    return measure


MEASURES = {
    "T54a": _moves,
    "T54b": _rates,
    **{id: _on_update(id) for id in ("T55a", "T55b")},
    **{id: _on_kernel(id) for id in ("T56a", "T56b")},
}
