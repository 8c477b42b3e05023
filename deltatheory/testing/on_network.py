"""Theorems on the network itself: weights, attention of one head, normalisation, the stack of blocks."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.testing.probe import Measurement, Probe, operator_norm
from deltatheory.theorems import get_theorem
from deltatheory.theorems.theorem import Sides

__all__ = ["MEASURES"]


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


# ---- Weights ----


def _merge(probe: Probe) -> Measurement:
    W = _array(probe.weight("query")[1])
    x = {"W": W, "B": probe.random(len(W), 4), "A": probe.random(4, W.shape[1]), "s": 0.5, "path": "linear"}
    x["x"] = _array(probe.states[probe.layer])[0, 0]
    return Measurement(get_theorem("T27a").bound(x), "met: query weight, a token of a text, rank 4")


def _ranks(probe: Probe) -> Measurement:
    W = [_array(probe.weight(part)[1]) for part in ("value", "attention_output")]
    D = [probe.random(len(w), r) @ probe.random(r, w.shape[1]) for w, r in zip(W, (2, 1), strict=True)]
    x = {"W": W, "D": D, "ranks": [2, 1], "X": np.eye(W[0].shape[1]), "linear": True}
    return Measurement(get_theorem("T20a").bound(x), "met: value and output weights, ranks 2 and 1")


def _scores(probe: Probe) -> Measurement:
    e = probe.head["q"].shape[1]
    Wq, Wk = (_array(probe.weight(part)[1])[:e].T for part in ("query", "key"))
    H = len(Wq)
    x = {"Wq": Wq, "Wk": Wk, "r_q": 2, "r_k": 1}
    x |= {"Q": probe.random(H, 2) @ probe.random(2, e), "K": probe.random(H, 1) @ probe.random(1, e)}
    return Measurement(get_theorem("T23").bound(x), "met: query and key weights of one head, ranks 2 and 1")


def _lora_step(probe: Probe, B: Tensor) -> dict[str, Tensor]:
    """Return the factors before and after a step of LoRA on the query weight, at scale 2, and G before it."""
    name, W = probe.weight("query")
    A = probe.tensor(4, W.shape[1]) / math.sqrt(W.shape[1])

    def split(factors: Tensor) -> tuple[Tensor, Tensor]:
        return factors[: B.numel()].view_as(B), factors[B.numel() :].view_as(A)

    def loss(factors: Tensor) -> Tensor:
        outer, inner = split(factors)
        return probe.loss_of(Edit({name: W + 2 * outer @ inner}))

    start = torch.cat([B.flatten(), A.flatten()])
    B2, A2 = split(start - autodiff.grad(loss, start).detach())
    G = autodiff.grad(lambda w: probe.loss_of(Edit({name: w})), W + 2 * B @ A).detach()
    return {"B": B, "A": A, "B2": B2, "A2": A2, "G": G}


def _first_step(probe: Probe) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ΔW after one step of LoRA from B = 0, the weight's gradient, A)."""
    x = _lora_step(probe, torch.zeros(len(probe.weight("query")[1]), 4).to(probe.origin))
    return 2 * x["B2"] @ x["A2"], x["G"], x["A"]


def _second_step(probe: Probe) -> dict[str, Tensor]:
    """Return a step from factors that are both not 0."""
    rows = len(probe.weight("query")[1])
    return _lora_step(probe, probe.tensor(rows, 4) / math.sqrt(rows))


_STEP = {"s": 2.0, "eta": 1.0, "order": "together", "optimizer": "gradient descent"}


def _on_step(id: str):
    def measure(probe: Probe) -> Measurement:
        x = _second_step(probe)
        _, right = get_theorem(id).bound({name: _array(x[name]) for name in "BAG"} | _STEP)
        B, A, B2, A2 = (_array(x[name]) for name in ("B", "A", "B2", "A2"))
        left = 2 * (B2 @ A2 - B @ A) if id == "T52a" else B2.T @ B2 - A2 @ A2.T
        scale = float(np.abs(right).max())
        text = (
            "met: query weight, rank 4, both factors random, rate 1, scale 2; in units of the largest entry"
        )
        return Measurement(Sides(left / scale, right / scale), text, rounding=4 * probe.rounding)

    return measure


def _descended(probe: Probe) -> Measurement:
    """Return T52c with the largest curvature at points of the step, at more of them if it is not kept."""
    name, W = probe.weight("query")
    x = _second_step(probe)
    factors = {key: _array(x[key]) for key in "BAG"}
    norms = {key.lower(): float(np.linalg.norm(factors[key], 2)) for key in "BAG"}
    start, step = W + 2 * x["B"] @ x["A"], 2 * (x["B2"] @ x["A2"] - x["B"] @ x["A"])
    v, L = step / step.norm(), 0.0

    def loss(weight: Tensor) -> Tensor:
        return probe.loss_of(Edit({name: weight}))

    with torch.no_grad():
        before, after = float(loss(start)), float(loss(start + step))
    slope = 4 * float((x["G"] @ x["A"].T).square().sum() + (x["B"].T @ x["G"]).square().sum())
    for points in (5, 17, 65):
        places = [start + s * step for s in np.linspace(0, 1, points).tolist()]
        L = max(L, *(abs(float((v * autodiff.hvp(loss, place, v)).sum())) for place in places))
        _, right = get_theorem("T52c").bound(factors | norms | {"s": 2.0, "eta": 1.0, "h": 0.0, "L": L})
        if after - before + slope <= right + probe.rounding * abs(before):
            break
    text = f"local: curvature along the step at {points} of its points; query weight, rate 1, scale 2"
    return Measurement(Sides(after - before + slope, right), text, rounding=probe.rounding * abs(before))


def _captured(probe: Probe) -> Measurement:
    _, gradient, A = _first_step(probe)
    U, s, Vt = np.linalg.svd(_array(gradient), full_matrices=False)
    x = {"U": U, "s": s, "V": Vt.T, "k": 1, "Omega": Vt @ _array(A).T}
    text = "met: gradient of the query weight, A of rank 4; counted on is its first direction"
    return Measurement(get_theorem("T53a").bound(x), text, trivial=float(s @ s))


def _first(probe: Probe) -> Measurement:
    change, gradient, A = _first_step(probe)
    scale = float(gradient.norm())
    sides = Sides(_array(change[:8] / scale), _array(-4 * gradient[:8] @ A.T @ A / scale))
    text = "met: query weight, B = 0, rate 1, scale 2; 8 rows in units of the gradient"
    return Measurement(sides, text, rounding=probe.rounding * 4 * float(torch.linalg.matrix_norm(A, 2)) ** 2)


def _best_rank(probe: Probe) -> Measurement:
    change, gradient, _ = _first_step(probe)
    E, M = -_array(gradient), _array(change)
    M = M * float((E * M).sum() / (M * M).sum())
    tail = float((np.linalg.svd(E, compute_uv=False)[4:] ** 2).sum())
    text = "met: E = minus the gradient of the query weight, M = LoRA's first step of rank 4, best scaled"
    return Measurement(Sides(float(((E - M) ** 2).sum()), tail), text, rounding=probe.rounding * tail)


# ---- Attention of one head ----


def _one_token(probe: Probe) -> Measurement:
    row = _row(probe)
    half = (len(row["w"]) + 1) // 2
    x = {
        "w": np.stack([row["w"][:half], row["w"][-half:]]),
        "V": np.stack([row["V"][:half], row["V"][-half:]]),
    }
    x |= {"p": np.stack([row["p"]] * 2), "P": row["Vp"]}
    text = f"{_ONE_HEAD}; both halves of the text as contexts of one query, a prefix of two tokens"
    return Measurement(get_theorem("T57a").bound(x), text)


def _row(probe: Probe) -> dict[str, Any]:
    """Return the attention of the second token: weights exp(score), keys over √e, values, a prefix."""
    head = probe.head
    q, K, V = head["q"][1], head["k"], head["v"]
    scaled = K / math.sqrt(K.shape[1])
    scores = scaled @ q
    prefix_keys, prefix_values = K[::-1][:2] * 1.1, V[::-1][:2] * 1.1
    x = {"w": np.exp(scores - scores.max()), "K": scaled, "V": V, "V_seen": V, "Vp": prefix_values}
    x["p"] = np.exp(prefix_keys @ q / math.sqrt(K.shape[1]) - scores.max())
    ones = np.ones(len(K))
    x |= {"softmax": True, "key_change": ones, "position_bias": ones, "own_key": 0.0, "scale": 1.0}
    p = x["w"] / x["w"].sum()
    covariance = (p[:, None] * (V - p @ V)).T @ (scaled - p @ scaled)
    left, _, right = np.linalg.svd(covariance)
    x |= {"u": left[:, 0], "z": right[0], "temperature": 1.0, "normaliser": x["w"].sum()}
    x["v"] = np.linalg.eigh(np.diag(p) - np.outer(p, p))[1][:, -1]
    return x | {"K2": np.linalg.norm(scaled, 2) ** 2, "V2": np.linalg.norm(V, 2) ** 2}


def _on_row(id: str, text: str):
    def measure(probe: Probe) -> Measurement:
        return Measurement(get_theorem(id).bound(_row(probe)), text)

    return measure


def _variation(probe: Probe) -> Measurement:
    head = probe.head
    scores = head["q"][:2] @ head["k"].T / math.sqrt(head["k"].shape[1])
    w, w2 = np.exp(scores - scores.max(1, keepdims=True))
    sides = get_theorem("T43b").bound({"w": w, "w2": w2, "power": 1})
    return Measurement(sides, "met: attention rows of the first two tokens", trivial=1.0)


def _reached(probe: Probe) -> Measurement:
    """Return T39 for two prefix tokens as long as those of the text, along the best key direction."""
    head = probe.head
    e = head["q"].shape[1]
    q = head["q"][1]
    Wk, Wv = (_array(probe.weight(part)[1])[:e] for part in ("key", "value"))
    tokens = _array(probe.states[probe.layer])[0]
    M = float(np.linalg.norm(tokens, axis=1).max())
    toward = Wk.T @ q
    across = np.linalg.svd(Wv)[2][0]
    across = across * np.sign(across @ toward)
    u = np.array([M * v / np.linalg.norm(v) for v in (toward, toward / np.linalg.norm(toward) + across)])
    alpha = float(np.linalg.norm(toward)) * M / math.sqrt(e)
    x = {"s": head["k"] @ q / math.sqrt(e), "V": head["v"], "q": q, "Wk": Wk, "Wv": Wv, "u": u, "k": 2}
    x |= {"M": M, "alpha": alpha, "sigma": float(np.linalg.norm(Wv, 2)), "root": math.sqrt(e)}
    largest = max(alpha, float(x["s"].max()))
    if largest > 300:
        raise ValueError(f"scores up to {largest:.0f}: exp overflows.")
    return Measurement(get_theorem("T39").bound(x), "met: two prefix tokens as long as the text's; one head")


def _ball(probe: Probe) -> Measurement:
    e = probe.head["q"].shape[1]
    Wq, Wk, V = (_array(probe.weight(part)[1])[:e] for part in ("query", "key", "value"))
    X = _array(probe.states[probe.layer])[0, :6]
    M = Wq.T @ Wk / math.sqrt(e)
    tM, tV = torch.from_numpy(M), torch.from_numpy(V)

    def attend(tokens: Tensor) -> Tensor:
        return (tokens @ tM @ tokens.T).softmax(1) @ tokens @ tV.T

    _, direction = operator_norm(attend, torch.from_numpy(X), torch.from_numpy(probe.random(*X.shape)))
    x = {"X": X, "dX": direction.numpy(), "M": M, "V": V, "R": float(np.linalg.norm(X, axis=1).max())}
    x |= {"a": float(np.linalg.norm(M, 2)), "v": float(np.linalg.norm(V, 2))}
    text = "met: one head without biases, 6 tokens; a, R and the norm of V measured"
    return Measurement(get_theorem("T46").bound(x), text)


# ---- Normalisation and activations ----


def _norm(probe: Probe) -> dict[str, Any]:
    module: Any = next(m for m in probe.backbone.layers[probe.layer].modules() if "Norm" in type(m).__name__)
    inputs, _ = probe.watched(module)
    gains, x = _array(module.weight), _array(inputs)[0, 1]
    centred = isinstance(module, torch.nn.LayerNorm)  # T5's has that name, and is none
    eps = float(getattr(module, "eps", None) or module.variance_epsilon)
    z = np.zeros_like(x)
    z[int(abs(gains).argmax())] = 1.0
    spread = x - x.mean() if centred else x
    local = float(spread @ spread / len(x) + eps)
    x = {"x": x, "z": z, "gains": gains, "g": float(abs(gains).max()), "eps": eps, "centred": centred}
    return x | {"floor": eps, "local": local}


def _on_norm(id: str, text: str):
    def measure(probe: Probe) -> Measurement:
        return Measurement(get_theorem(id).bound(_norm(probe)), text)

    return measure


def _slope(probe: Probe) -> Measurement:
    config: Any = probe.backbone.model.config
    if getattr(config, "hidden_act", None) != "gelu":
        raise ValueError(f"activation {getattr(config, 'hidden_act', None)!r}: this row is for GELU.")
    name = probe.backbone.module_name(probe.layer, "ffn_in")
    _, out = probe.watched(probe.backbone.model.get_submodule(name))
    values = _array(out).ravel()
    nearest = float(values[int(abs(values - math.sqrt(2)).argmin())])
    sides = get_theorem("T48a").bound({"x": nearest, "scale": 1.0})
    return Measurement(sides, "met: the pre-activation of one text with the steepest slope")


# ---- The stack ----


def _adjoint(probe: Probe) -> Measurement:
    backbone, text = probe.backbone, probe.text

    def rest(x: Tensor) -> Tensor:
        logits = probe.problem.read(backbone.readout(x, text), text)
        return probe.problem.loss_function.mean(logits, probe.label)

    def whole(x: Tensor) -> Tensor:
        for t in range(len(backbone.layers)):
            x = backbone.step(t, x, text)
        return rest(x)

    costate = autodiff.grad(rest, probe.states[-1])
    for t in reversed(range(len(backbone.layers))):
        costate = autodiff.vjp(lambda x, t=t: backbone.step(t, x, text), probe.states[t])[1](costate)
    direct = autodiff.grad(whole, probe.states[0])
    scale = float(direct.norm())
    error = float((costate - direct).norm()) / scale
    hypotheses = f"met: costates of one text, block by block; they differ by {error:.1e} of the norm"
    sides = Sides(_array(costate / scale).ravel(), _array(direct / scale).ravel())
    return Measurement(sides, hypotheses, rounding=probe.rounding)


def _drift(probe: Probe) -> Measurement:
    backbone, text = probe.backbone, probe.text
    delta = probe.tensor(len(probe.origin))
    edit = probe.problem.delta.edit(delta / delta.norm() / 10)
    if edit.prompt is not None:
        raise ValueError("a prompt changes the number of tokens: this row is for deltas of the blocks.")
    with torch.no_grad():
        x = backbone.embed(text, edit)
        drift = float((x - probe.states[0]).norm())
        for t, state in enumerate(probe.states[:-1]):
            injected = backbone.step(t, x, text, edit) - backbone.step(t, x, text)
            start = probe.tensor(*state.shape)
            K, _ = operator_norm(lambda y, t=t: backbone.step(t, y, text), state, start)
            drift = K * drift + float(injected.norm())
            x = backbone.step(t, x, text, edit)
        left = float((x - probe.states[-1]).norm())
    hypotheses = (
        "local: K_t are norms of the Jacobians at the frozen states, by power iteration; a random δ of 1/10"
    )
    return Measurement(Sides(left, drift), hypotheses, rounding=probe.rounding * float(x.norm()))


def _closed_loop(probe: Probe, rho: float, w: float) -> tuple[np.ndarray, float]:
    """Return the errors of a loop at every block, and the curvature that they met.

    Feedback on every coordinate replaces a block's linear response J e by ρ e; what the block adds beyond it
    stays, and a disturbance of length w lengthens the error. The curvature is by how much J changes along e.
    """
    backbone, text = probe.backbone, probe.text
    e = probe.tensor(*probe.states[0].shape)
    e = e * (w / e.norm())
    errors, curvature = [w], 0.0
    for t, (state, after) in enumerate(pairwise(probe.states)):
        block = partial(backbone.step, t, batch=text)
        response = autodiff.jvp(block, state, e)[1]
        for s in (0.25, 0.5, 0.75, 1.0):
            change = autodiff.jvp(block, state + s * e, e)[1] - response
            curvature = max(curvature, float(change.norm()) / (s * errors[-1] ** 2))
        with torch.no_grad():
            e = block(state + e) - after - response + rho * e
        e = e * (1 + w / float(e.norm()))
        errors.append(float(e.norm()))
    return np.array(errors), curvature


def _tube(probe: Probe) -> Measurement:
    """Return T58a for a disturbance that is small enough for the curvature that the loop then meets."""
    rho, size = 0.5, float(probe.states[0].norm())
    w = size / 8
    for _ in range(8):
        errors, M = _closed_loop(probe, rho, w)
        room = (1 - rho) ** 2 - 2 * M * w
        if room >= 0:
            break
        w = (1 - rho) ** 2 / (4 * M)
    else:
        raise ValueError(f"no tube for disturbances of {w / size:.1g} of the first state's norm.")
    tube = 2 * w / (1 - rho + math.sqrt(room))
    text = (
        f"local: curvature at 4 points of every block's error; feedback on all coordinates leaves {rho:g} of "
        f"it, disturbances of {w / size:.2g} of the first state's norm along it"
    )
    sides = get_theorem("T58a").bound({"e": errors / tube, "tube": 1.0})
    return Measurement(sides, text, rounding=probe.rounding * size / tube)


_ONE_HEAD = "met: first head of the middle layer, one text"
MEASURES = {
    "T27a": _merge,
    "T20a": _ranks,
    "T23": _scores,
    "T29": _first,
    "T15": _best_rank,
    "T52a": _on_step("T52a"),
    "T52b": _on_step("T52b"),
    "T52c": _descended,
    "T53a": _captured,
    "T57a": _one_token,
    "T24": _on_row("T24", f"{_ONE_HEAD}; a prefix of two tokens"),
    "T25": _on_row("T25", f"{_ONE_HEAD}; a prefix of two tokens"),
    "T43a": _on_row("T43a", f"{_ONE_HEAD}; worst direction"),
    "T43b": _variation,
    "T44a": _on_row("T44a", f"{_ONE_HEAD}; the text as a fixed context, worst direction"),
    "T44b": _on_row("T44b", f"{_ONE_HEAD}; the text as a fixed context, worst direction"),
    "T39": _reached,
    "T46": _ball,
    "T47a": _on_norm("T47a", "met: first normalisation of the middle layer, deviation at this token"),
    "T47b": _on_norm("T47b", "met: first normalisation of the middle layer, its own epsilon"),
    "T48a": _slope,
    "T31": _adjoint,
    "T40": _drift,
    "T58a": _tube,
}
