"""The faults that keep a delta from training, each shown by a number beyond its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from deltatheory.backbones import Batch
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning, start_embeddings, start_tokens
from deltatheory.linearization.tangent import TangentRows
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.tokens import batch_of, token_rows
from deltatheory.training import RatePrediction

_LEAK = 1e-3  # relative change of an output that must not change; rounding stays far below
_OUT_OF_REACH = 0.1  # share of the examples that no control of linear size brings right
SLOW = 100.0  # times the step budget that gradient descent needs; where Adam trains well, up to 33
_OFF = 3.0  # times the spread of what the frozen model computes for real words
_STEP = 5.0  # times the predicted learning rate, or a part of it: beyond, most runs stand still or collapse
_WORDS = 64  # real words that the cloud is estimated from
MASKS, CLOUD = "masks or positions", "start off the cloud of real activations"
TARGET, JACOBIAN, RATE = "target out of reach", "ill-conditioned Jacobian", "step size"


@dataclass(frozen=True)
class Finding:
    """One possible fault.

    Attributes:
        fault: what it would be.
        verdict: "found", "not found", or "not applicable".
        number: what shows it; `None` also where that is infinite.
        limit: found where the number is above.
        says: what the number is, in a sentence.
        remedy: what to do; empty where nothing was found.
        clause: the fault, as a sentence begins that says it is there.
    """

    fault: str
    verdict: Literal["found", "not found", "not applicable"]
    number: float | None
    limit: float | None
    says: str
    remedy: str = ""
    clause: str = ""


def _finding(fault: str, number: float, limit: float, says: str, remedy: str, clause: str) -> Finding:
    shown = number if math.isfinite(number) else None
    if number <= limit:
        return Finding(fault, "not found", shown, limit, says)
    return Finding(fault, "found", shown, limit, says, remedy, clause)


def _change(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))


@torch.no_grad()
def masking(problem: ClassificationProblem, origin: Tensor) -> Finding:
    """Compare outputs with and without padding, and a causal model's states before a changed token."""
    order = np.argsort(problem.train.lengths, kind="stable")
    short, long = [int(order[0])], [int(order[-1])]
    together, _ = problem.batch(problem.train, short + long)
    alone, _ = problem.batch(problem.train, short)
    worst = _change(problem.logits(origin, alone), problem.logits(origin, together)[:1])
    passes = 3
    if problem.backbone.kind == "causal":
        rows = token_rows(problem.backbone, problem.train.examples.subset(long), problem.max_length)
        batch = batch_of(problem.backbone, rows)
        ids = batch.input_ids.clone()
        ids[:, -1] = (ids[:, -1] + 1) % problem.backbone.model.get_input_embeddings().num_embeddings  # type: ignore
        edit = problem.delta.edit(origin)
        changed = Batch(ids, batch.mask, batch.attention_mask, batch.position_ids, batch.token_type_ids)
        states = [problem.backbone.hidden_states(b, edit)[:, :-1] for b in (batch, changed)]
        if states[0].shape[1]:
            worst = max(worst, _change(*states))
        passes += 2
    problem.count(passes, forward=1.0)
    return _finding(
        MASKS,
        worst,
        _LEAK,
        f"padding, or a later token, changes outputs by {worst:.1e} of their size",
        "Give the model a 4-D mask and explicit positions, and switch its cache off.",
        "outputs depend on padding or on later tokens",
    )


@torch.no_grad()
def cloud(problem: ClassificationProblem, origin: Tensor) -> Finding:
    """Measure how far virtual keys or embeddings lie from the mean of real ones, in units of their spread."""
    delta, backbone = problem.delta, problem.backbone
    words = min(_WORDS, backbone.max_length - 1)
    if isinstance(delta, PromptTuning):
        pairs = [(delta.prompt(origin), start_embeddings(backbone, start_tokens(backbone, words, seed=1)))]
        kind = "embeddings"
    elif isinstance(delta, PrefixTuning):
        real = PrefixTuning(backbone, length=words, gate="none", blocks=delta.blocks, seed=1)
        problem.count(1, forward=1.0)
        cloud = real.keys_values(real.initial())
        kind = "keys"  # values of a gated prefix may start at zero
        pairs = [(keys, cloud[t][0]) for t, (keys, _) in delta.keys_values(origin).items()]
        pairs = [(a.transpose(0, 1).flatten(1), b.transpose(0, 1).flatten(1)) for a, b in pairs]
    else:
        return Finding(CLOUD, "not applicable", None, None, f"{delta.name!r} has no virtual tokens")
    worst = 0.0
    for virtual, cloud_of_words in pairs:
        center = cloud_of_words.mean(0)
        spread = (cloud_of_words - center).norm(dim=1).mean()
        worst = max(worst, float((virtual - center).norm(dim=1).max() / spread))
    return _finding(
        CLOUD,
        worst,
        _OFF,
        f"the virtual {kind} lie up to {worst:.2g} times as far from the mean of real ones as those do",
        "Start from words of the vocabulary, as this package does by default, not from random vectors.",
        "the start lies off the cloud of real activations",
    )


def reach(problem: ClassificationProblem, origin: Tensor, features: TangentRows) -> Finding:
    """Return the share of examples still wrong under the least-norm control of the linearized margins."""
    margins = (features.start.logits[:, 1] - features.start.logits[:, 0]).double().numpy()
    kernel = features.kernel().double().numpy()[: len(margins), : len(margins)]
    # min ½|δ|² s.t. m + Jδ ≥ 1: δ = Jᵀν, ν ≥ 0 minimizes ½ νᵀKν - νᵀ(1 - m).
    need, scale = 1.0 - margins, max(float(np.trace(kernel)) / len(margins), 1e-300)
    values, vectors = np.linalg.eigh(kernel / scale + 1e-6 * np.eye(len(margins)))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    multipliers = nnls(root, np.linalg.solve(root, need), maxiter=50 * len(margins))[0] / scale
    linear = margins + kernel @ multipliers
    missed = float((linear < 0.5).mean())
    energy = math.sqrt(max(float(multipliers @ kernel @ multipliers), 0.0))
    return _finding(
        TARGET,
        missed,
        _OUT_OF_REACH,
        f"{missed:.0%} of the examples stay wrong under the least-norm control of the linearized network, "
        f"|δ| = {energy:.3g}",
        "Take a longer prefix, more blocks, or another delta; or look for contradicting labels.",
        "the target is out of reach",
    )


def conditioning(features: TangentRows, steps: int) -> Finding:
    """Count steps of gradient descent, at its largest stable rate, to nine tenths of what can be fitted.

    The residual r of the margins decays as Σ_i (u_i·r)² (1 - λ_i/λ_1)^{2k}.
    """
    margins = (features.start.logits[:, 1] - features.start.logits[:, 0]).double()
    kernel = features.kernel().double()[: len(margins), : len(margins)]
    values, vectors = torch.linalg.eigh(kernel)
    fits = values > 1e-10 * values[-1]
    parts = (vectors.T @ (1 - margins)).square() * fits
    rates = 1 - (values / values[-1]).clamp(0, 1)
    low, high = 0.0, 1e9

    def left(k: float) -> float:
        return float((parts * rates ** (2 * k)).sum() / parts.sum())

    if not values[-1] > 0:
        needed = math.inf
    else:
        while high - low > max(0.5, 1e-3 * high):
            middle = (low + high) / 2
            low, high = (middle, high) if left(middle) > 0.1 else (low, middle)
        needed = high
    spread = float(values[-1] / values[fits].median()) if fits.any() else math.inf
    return _finding(
        JACOBIAN,
        needed / steps,
        SLOW,
        f"gradient descent needs about {needed:.3g} steps for nine tenths of the fit (budget {steps}); the "
        f"largest eigenvalue of J Jᵀ is {spread:.2g} times the median",
        "Train with Gauss-Newton, or rescale δ: prefix values move the outputs more evenly than keys.",
        "the Jacobian is ill-conditioned",
    )


def step_size(predicted: RatePrediction, learning_rate: float | None) -> Finding:
    """Compare the learning rate with the one that is predicted for the run."""
    if not predicted.found:
        return Finding(RATE, "not applicable", None, None, predicted.status)
    rate = predicted.rate if learning_rate is None else learning_rate
    ratio = rate / predicted.rate
    size, change = ("large", "Lower") if ratio > 1 else ("small", "Raise")
    off = max(ratio, 1 / ratio)
    judged = f"too {size}, " if off > _STEP else ""
    but = f"; {predicted.caution}" if predicted.caution else ""
    return _finding(
        RATE,
        off,
        _STEP,
        f"the learning rate {rate:.3g} is {judged}{ratio:.2g} times the one that is predicted to "
        f"train best, {predicted.rate:.2g}; {predicted.low:.2g} to {predicted.high:.2g} work{but}",
        f"{change} the learning rate to about {predicted.rate:.1g}.",
        f"the learning rate {rate:.3g} is {off:.2g} times too {size}",
    )
