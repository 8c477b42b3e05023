"""Why a run does not converge: five possible faults, each with the number that shows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.adapters import has_peft_form, to_peft
from deltatheory.backbones import Batch
from deltatheory.control.solvers import solve
from deltatheory.control.solvers.base import Solution
from deltatheory.deltas import Delta
from deltatheory.deltas.files import save_delta
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning, start_embeddings, start_tokens
from deltatheory.linearization.tangent import TangentRows, tangent_rows
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.tokens import batch_of, token_rows
from deltatheory.results import Result, provenance
from deltatheory.training import Training, predict_learning_rate

__all__ = ["Diagnosis", "Finding", "check_run", "diagnose"]

_LEAK = 1e-3  # relative change of an output that must not change; rounding stays far below
_OUT_OF_REACH = 0.1  # share of the examples that no control of linear size brings right
_SLOW = 10.0  # times the step budget that gradient descent needs
_OFF = 3.0  # times the spread of what the frozen model computes for real words
_STEP = 5.0  # times the predicted learning rate, or a part of it: beyond, most runs stand still or collapse
_BATCH = 32  # examples a step of the run
_WARM = 10.0  # passes over the examples that the warm start may take
_WORDS = 64  # real words that the cloud is estimated from


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
    """

    fault: str
    verdict: Literal["found", "not found", "not applicable"]
    number: float | None
    limit: float | None
    says: str
    remedy: str = ""


@dataclass(frozen=True, eq=False)
class Diagnosis(Result):
    """Findings, the most fundamental first: a later one means little where an earlier one was found.

    Attributes:
        findings: one for each possible fault.
        passes: forward-equivalents over single examples, without those of the warm start.
        seconds: time taken.
        settings: of the run.
        provenance: versions, machine, commit and command.
        delta: that was looked at.
        warm_start: the δ at which a few Gauss-Newton steps on the training examples arrive, where it was
            asked for.
    """

    FILE: ClassVar[str] = "diagnosis.json"
    BESIDE: ClassVar[tuple[str, ...]] = ("delta", "warm_start")

    findings: list[Finding]
    passes: float
    seconds: float
    settings: dict[str, Any]
    provenance: dict[str, Any]
    delta: Delta = field(repr=False)
    warm_start: Solution | None = field(default=None, repr=False)

    @property
    def found(self) -> list[Finding]:
        """Return the faults that there are."""
        return [one for one in self.findings if one.verdict == "found"]

    @property
    def start_file(self) -> str:
        """Name of the warm start's file: an adapter that PEFT loads where it has a form for the delta."""
        return "adapter" if has_peft_form(self.delta) else "delta.safetensors"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `diagnosis.json`; of the warm start what it came to."""
        warm = self.warm_start
        came_to = warm and {"loss": warm.cost, "status": str(warm.status), "passes": warm.passes}
        return {**super().to_dict(), "warm_start": came_to}

    def save_beside(self, folder: Path) -> None:
        """Write the warm start, if there is one, in the form in which it can be trained on."""
        if self.warm_start is not None:
            path, value = folder / self.start_file, self.warm_start.value
            if self.start_file == "adapter":
                to_peft(self.delta, value, path)
            else:
                save_delta(path, self.delta, value)


def diagnose(
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"] | None = None,
    *,
    learning_rate: float | None = 1e-2,
    steps: int = 100,
    examples: int = 32,
    warm_start: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> Diagnosis:
    """Look for what keeps a prefix, or any other delta, from training, at a given δ.

    In this order: a fault of masks or positions (texts whose outputs depend on their padding, or on later
    tokens of a causal model); a start off the cloud of real keys, values or embeddings (Lester et al. 2021,
    figure 3b, and what users meet with random starts); an unreachable target (by the least-norm control
    that brings the linearized margins to 1, and by what the network does under it); an ill-conditioned
    Jacobian (by the steps that gradient descent needs for nine tenths of what can be fitted); a learning rate
    out of scale, too large or too small (by the one that `predict_learning_rate` gives for the run).

    Args:
        problem: whose delta does not train.
        delta: δ to look at; where training starts by default.
        learning_rate: of the run that does not converge, with Adam; `None` for the predicted one.
        steps: its budget.
        examples: training examples to look at.
        warm_start: also go a few steps of Gauss-Newton from 0, on all training examples.
        on_finding: called with each finding.

    Raises:
        ValueError: for a δ of another length, or where outputs are not finite, fewer than 2 examples, no
            step, or a learning rate out of range.
    """
    origin = problem.delta.initial() if delta is None else delta
    if origin.shape != (problem.delta.size,):
        raise ValueError(f"delta.shape={tuple(origin.shape)}: must be ({problem.delta.size},).")
    check_run(learning_rate, steps)
    if not 2 <= examples <= len(problem.train):
        raise ValueError(f"examples={examples}: must lie in 2..{len(problem.train)}.")
    began, before = time.perf_counter(), problem.passes
    batch, _ = problem.batch(problem.train, range(examples))
    with torch.no_grad():
        broken = int((~problem.logits(origin, batch).isfinite()).any(1).sum())
    problem.count(examples, forward=1.0)
    if broken:
        raise ValueError(
            f"delta: the outputs of {broken} of {examples} examples are not finite there; look for NaN in "
            "the weights, or take δ from before the run diverged, and a lower learning rate."
        )
    findings = []

    def checks() -> Iterator[Finding]:
        yield _masking(problem, origin)
        yield _cloud(problem, origin)
        features = tangent_rows(problem, train=examples, test=0, outputs="margin", at=origin)
        yield _reach(problem, origin, features)
        yield _conditioning(features, steps)
        yield _step_size(problem, origin, learning_rate, steps)

    for finding in checks():
        findings.append(finding)
        if on_finding:
            on_finding(finding)
    problem.restore()
    passes, seconds = problem.passes - before, time.perf_counter() - began
    return Diagnosis(
        findings,
        passes,
        seconds,
        settings={
            **problem.identity(),
            "learning_rate": learning_rate,
            "steps": steps,
            "seed": problem.seed,
        },
        provenance=provenance(),
        delta=problem.delta,
        warm_start=solve(problem, "gauss-newton", budget=_WARM) if warm_start else None,
    )


def check_run(learning_rate: float | None, steps: int) -> None:
    """Refuse what no run has, before anything is loaded.

    Raises:
        ValueError: for a learning rate or a number of steps out of range.
    """
    check_number("steps", steps, whole=True, least=1)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, above=0)


def _finding(fault: str, number: float, limit: float, says: str, remedy: str) -> Finding:
    found = not number <= limit
    shown = number if math.isfinite(number) else None
    return Finding(fault, "found" if found else "not found", shown, limit, says, remedy if found else "")


def _change(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))


@torch.no_grad()
def _masking(problem: ClassificationProblem, origin: Tensor) -> Finding:
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
        "masks or positions",
        worst,
        _LEAK,
        f"padding, or a later token, changes outputs by {worst:.1e} of their size",
        "Give the model a 4-D mask and explicit positions, and switch its cache off.",
    )


@torch.no_grad()
def _cloud(problem: ClassificationProblem, origin: Tensor) -> Finding:
    """Measure how far virtual keys or embeddings lie from the mean of real ones, in units of their spread."""
    fault, delta, backbone = "start off the cloud of real activations", problem.delta, problem.backbone
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
        return Finding(fault, "not applicable", None, None, f"{delta.name!r} has no virtual tokens")
    worst = 0.0
    for virtual, cloud_of_words in pairs:
        center = cloud_of_words.mean(0)
        spread = (cloud_of_words - center).norm(dim=1).mean()
        worst = max(worst, float((virtual - center).norm(dim=1).max() / spread))
    return _finding(
        fault,
        worst,
        _OFF,
        f"the virtual {kind} lie up to {worst:.2g} times as far from the mean of real ones as those do",
        "Start from words of the vocabulary, as this package does by default, not from random vectors.",
    )


def _reach(problem: ClassificationProblem, origin: Tensor, features: TangentRows) -> Finding:
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
        "target out of reach",
        missed,
        _OUT_OF_REACH,
        f"{missed:.0%} of the examples stay wrong under the least-norm control of the linearized network, "
        f"|δ| = {energy:.3g}",
        "Take a longer prefix, more blocks, or another delta; or look for contradicting labels.",
    )


def _conditioning(features: TangentRows, steps: int) -> Finding:
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
        "ill-conditioned Jacobian",
        needed / steps,
        _SLOW,
        f"gradient descent needs about {needed:.3g} steps for nine tenths of the fit (budget {steps}); the "
        f"largest eigenvalue of J Jᵀ is {spread:.2g} times the median",
        "Train with Gauss-Newton, or rescale δ: prefix values move the outputs more evenly than keys.",
    )


def _step_size(
    problem: ClassificationProblem, origin: Tensor, learning_rate: float | None, steps: int
) -> Finding:
    """Compare the learning rate with the one that is predicted for the run."""
    training = Training(steps=steps, batch_size=min(_BATCH, len(problem.train)), seed=problem.seed)
    found = predict_learning_rate(problem, training=training, start=origin)
    problem.passes += found.passes
    if not found.found:
        return Finding("step size", "not applicable", None, None, found.status)
    rate = found.rate if learning_rate is None else learning_rate
    ratio = rate / found.rate
    size, change = ("large", "Lower") if ratio > 1 else ("small", "Raise")
    off = max(ratio, 1 / ratio)
    judged = f"too {size}, " if off > _STEP else ""
    return _finding(
        "step size",
        off,
        _STEP,
        f"the learning rate {rate:.3g} is {judged}{ratio:.2g} times the one that is predicted to "
        f"train best, {found.rate:.2g}; {found.low:.2g} to {found.high:.2g} work",
        f"{change} the learning rate to about {found.rate:.1g}.",
    )
