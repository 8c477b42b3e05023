"""Why a run does not converge: five possible faults, each with its number, and remedies that are tried."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem, epochs
from deltatheory.problems.tokens import batch_of, token_rows
from deltatheory.results import Result, provenance, wilson
from deltatheory.training import RatePrediction, Training, predict_learning_rate

__all__ = [
    "HELPED",
    "REMEDIES",
    "UNNOTICED",
    "Attempt",
    "Diagnosis",
    "Finding",
    "attempt",
    "check_run",
    "diagnose",
]

_LEAK = 1e-3  # relative change of an output that must not change; rounding stays far below
_OUT_OF_REACH = 0.1  # share of the examples that no control of linear size brings right
_SLOW = 100.0  # times the step budget that gradient descent needs; where Adam trains well, up to 33
_OFF = 3.0  # times the spread of what the frozen model computes for real words
_STEP = 5.0  # times the predicted learning rate, or a part of it: beyond, most runs stand still or collapse
_WARM = 10.0  # passes over the examples that the warm start may take
_WORDS = 64  # real words that the cloud is estimated from
_FIRST = 20  # steps that are tried, of a run of at least twice as many
_LOWER = 0.95  # times the loss that the run comes to as it is: a remedy that comes below helps
_MASKS, _CLOUD = "masks or positions", "start off the cloud of real activations"
_TARGET, _JACOBIAN, _RATE = "target out of reach", "ill-conditioned Jacobian", "step size"

REMEDIES = (_CLOUD, _JACOBIAN, _RATE)  # the faults that have one that can be tried
# Counts of the study `remedies`, calibration half. Fault that a verdict names ↦ (runs that its remedy helped,
# runs), and (broken runs in which nothing was found, broken runs):
HELPED = {_CLOUD: (6, 6), _JACOBIAN: (4, 6), _RATE: (12, 12)}
UNNOTICED = (4, 36)


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


@dataclass(frozen=True)
class Attempt:
    """The first steps of the run, as it is or under a remedy.

    Attributes:
        fault: whose remedy it is; empty for the run as it is.
        change: what was changed, in words; empty for the run as it is.
        steps: that were taken.
        before: mean loss of the training examples looked at, before them, in nats.
        after: and after them; `None` where it is not finite.
    """

    fault: str
    change: str
    steps: int
    before: float
    after: float | None

    def helps(self, as_it_is: Attempt) -> bool:
        """Whether the loss comes to less than 95 % of what the run comes to as it is.

        >>> run = Attempt("", "", 20, before=0.7, after=None)
        >>> Attempt("step size", "learning rate 0.01", 20, 0.7, 0.4).helps(run)
        True
        """
        if self.after is None:
            return False
        return as_it_is.after is None or self.after < _LOWER * as_it_is.after

    def __str__(self) -> str:
        if self.after is None:
            return f"leaves {self.before:.3g} for no finite number"
        way = "falls" if self.after < self.before else "rises"
        return f"{way} from {self.before:.3g} to {self.after:.3g}"


@dataclass(frozen=True, eq=False)
class Diagnosis(Result):
    """Findings, the most fundamental first: a later one means little where an earlier one was found.

    Attributes:
        findings: one for each possible fault.
        attempts: the first steps of the run as it is, and under the remedy of each fault found that has one.
        predicted_rate: the learning rate that `predict_learning_rate` gives for the run.
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
    attempts: list[Attempt]
    predicted_rate: float
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
    def named(self) -> Finding | None:
        """The fault that the verdict names: a leak before all, else that whose remedy lowers the loss most.

        Where no remedy helps it is the first that was found.
        """
        as_it_is, *tried = self.attempts
        helped = [one for one in tried if one.helps(as_it_is)]
        best = min(helped, key=lambda one: one.after or 0.0).fault if helped else None
        found = {one.fault: one for one in self.found}
        return found.get(_MASKS) or found.get(best or "") or next(iter(self.found), None)

    @property
    def remedied(self) -> Attempt | None:
        """The attempt under the remedy of the fault that the verdict names, where that has one."""
        named = self.named
        return next((one for one in self.attempts if named and one.fault == named.fault), None)

    @property
    def verdict(self) -> str:
        """The fault, what its remedy comes to in the first steps, and of how many such runs it helped."""
        as_it_is, named, tried = self.attempts[0], self.named, self.remedied
        run = f"in {as_it_is.steps} steps the loss {as_it_is}"
        if named is None:
            looked = ", ".join(one.fault for one in self.findings if one.verdict == "not found")
            missed = f"nothing was found either in {_of(*UNNOTICED)} runs broken on purpose"
            return f"Nothing was found of {looked}: {run}; {missed}."
        clause = named.clause[:1].upper() + named.clause[1:]
        if tried is None:
            return f"{clause}, which no remedy that can be tried mends: {run}."
        helps = "" if tried.helps(as_it_is) else ", but its remedy does not help"
        return (
            f"{clause}{helps}: in {tried.steps} steps the loss {tried} with {tried.change}, as it is it "
            f"{as_it_is}; of such runs in a study the remedy helped {_of(*HELPED[tried.fault])}."
        )

    @property
    def start_file(self) -> str:
        """Name of the warm start's file: an adapter that PEFT loads where it has a form for the delta."""
        return "adapter" if has_peft_form(self.delta) else "delta.safetensors"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `diagnosis.json`; of the warm start what it came to."""
        warm, tried = self.warm_start, self.remedied
        came_to = warm and {"loss": warm.cost, "status": str(warm.status), "passes": warm.passes}
        helped = tried and dict(zip(("runs_helped", "runs"), HELPED[tried.fault], strict=True))
        return {**super().to_dict(), "verdict": self.verdict, "remedy_helped": helped, "warm_start": came_to}

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
    batch_size: int = 32,
    examples: int = 32,
    warm_start: bool = False,
    on_finding: Callable[[Finding | Attempt], None] | None = None,
) -> Diagnosis:
    """Look for what keeps a prefix, or any other delta, from training, at a given δ.

    In this order: a fault of masks or positions (texts whose outputs depend on their padding, or on later
    tokens of a causal model); a start off the cloud of real keys, values or embeddings (Lester et al. 2021,
    figure 3b, and what users meet with random starts); an unreachable target (by the least-norm control
    that brings the linearized margins to 1, and by what the network does under it); an ill-conditioned
    Jacobian (by the steps that gradient descent needs for nine tenths of what can be fitted); a learning rate
    out of scale, too large or too small (by the one that `predict_learning_rate` gives for the run).

    Then the first steps of the run are taken, at most half of it, as it is and under the remedy of each fault
    found that has one: the predicted rate, a start from words, or Gauss-Newton of as many passes.

    Args:
        problem: whose delta does not train.
        delta: δ to look at; where training starts by default.
        learning_rate: of the run that does not converge, with Adam; `None` for the predicted one.
        steps: its budget.
        batch_size: its examples a step, at most all there are.
        examples: training examples to look at.
        warm_start: also go a few steps of Gauss-Newton from 0, on all training examples.
        on_finding: called with each finding, then with each attempt.

    Raises:
        ValueError: for a δ of another length, or where outputs are not finite, fewer than 2 examples, no
            step, no example a step, or a learning rate out of range.
    """
    problem.backbone.check_on_one_device("diagnose")
    origin = problem.delta.initial() if delta is None else delta
    if origin.shape != (problem.delta.size,):
        raise ValueError(f"delta.shape={tuple(origin.shape)}: must be ({problem.delta.size},).")
    check_run(learning_rate, steps, batch_size)
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
    planned = Training(steps=steps, batch_size=min(batch_size, len(problem.train)), seed=problem.seed)
    predicted = predict_learning_rate(problem, training=planned, start=origin)
    problem.passes += predicted.passes
    findings: list[Finding] = []
    attempts: list[Attempt] = []

    def checks() -> Iterator[Finding]:
        yield _masking(problem, origin)
        yield _cloud(problem, origin)
        features = tangent_rows(problem, train=examples, test=0, outputs="margin", at=origin)
        yield _reach(problem, origin, features)
        yield _conditioning(features, steps)
        yield _step_size(predicted, learning_rate)

    def tries() -> Iterator[Attempt]:
        run = replace(planned, learning_rate=learning_rate or predicted.rate)
        first = min(_FIRST, max(1, steps // 2))
        found = [one.fault for one in findings if one.verdict == "found" and one.fault in REMEDIES]
        about = {"at": origin, "rate": predicted.rate, "steps": first, "examples": examples}
        for fault in ("", *found):
            yield attempt(problem, run, fault, **about)

    def kept(one: Finding | Attempt, among: list) -> None:
        among.append(one)
        if on_finding:
            on_finding(one)

    for finding in checks():
        kept(finding, findings)
    for one in tries():
        kept(one, attempts)
    passes, seconds = problem.passes - before, time.perf_counter() - began
    return Diagnosis(
        findings,
        attempts,
        predicted.rate,
        passes,
        seconds,
        settings={
            **problem.identity(),
            "learning_rate": learning_rate,
            "steps": steps,
            "batch_size": planned.batch_size,
            "seed": problem.seed,
        },
        provenance=provenance(),
        delta=problem.delta,
        warm_start=solve(problem, "gauss-newton", budget=_WARM) if warm_start else None,
    )


def check_run(learning_rate: float | None, steps: int, batch_size: int) -> None:
    """Refuse what no run has, before anything is loaded.

    Raises:
        ValueError: for a learning rate, a number of steps or a batch size out of range.
    """
    check_number("steps", steps, whole=True, least=1)
    check_number("batch_size", batch_size, whole=True, least=1)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, above=0)


def attempt(
    problem: ClassificationProblem,
    run: Training,
    fault: str = "",
    *,
    at: Float[Tensor, " m"],
    rate: float,
    steps: int,
    examples: int,
) -> Attempt:
    """Take the first steps of a run, as it is or under a remedy.

    Args:
        problem: whose delta is trained.
        run: how.
        fault: whose remedy is tried, one of `REMEDIES`; empty for the run as it is.
        at: where the run starts.
        rate: the predicted one.
        steps: to take; Gauss-Newton makes as many passes.
        examples: training examples whose loss is shown.
    """
    batch, labels = problem.batch(problem.train, range(examples))
    change, start = "", at
    if fault == _RATE:
        change, run = f"a learning rate of {rate:.2g}", replace(run, learning_rate=rate)
    elif fault == _CLOUD:
        change, start = "a start from words", problem.delta.initial()
    elif fault == _JACOBIAN:
        change = "Gauss-Newton of as many passes"
    before, after = problem.loss_at(start, batch, labels), None
    try:
        end = (_gauss_newton if fault == _JACOBIAN else _adam)(problem, run, start, steps)
        loss = problem.loss_at(end, batch, labels)
        after = loss if math.isfinite(loss) else None
    except FloatingPointError:
        pass
    finally:
        problem.restore()
    return Attempt(fault, change, steps, before, after)


def _adam(problem: ClassificationProblem, run: Training, start: Tensor, steps: int) -> Tensor:
    delta = start.clone()
    optimizer = run.make_optimizer(delta)
    order = epochs(problem.train.lengths, run.batch_size, run.seed)
    for step in range(steps):
        _, _, gradient = problem.loss_and_gradient(delta, *problem.batch(problem.train, next(order)))
        optimizer.step(gradient, run.rate(step))
    return delta


def _gauss_newton(problem: ClassificationProblem, run: Training, start: Tensor, steps: int) -> Tensor:
    passes = steps * run.batch_size * (FORWARD + BACKWARD)
    return solve(problem, "gauss-newton", start=start, budget=passes / len(problem.train)).value


def _of(successes: int, runs: int) -> str:
    low, high = wilson(successes, runs) if runs else (0.0, 1.0)
    return f"{successes} of {runs} ({low:.0%} to {high:.0%})"


def _finding(fault: str, number: float, limit: float, says: str, remedy: str, clause: str) -> Finding:
    shown = number if math.isfinite(number) else None
    if number <= limit:
        return Finding(fault, "not found", shown, limit, says)
    return Finding(fault, "found", shown, limit, says, remedy, clause)


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
        _MASKS,
        worst,
        _LEAK,
        f"padding, or a later token, changes outputs by {worst:.1e} of their size",
        "Give the model a 4-D mask and explicit positions, and switch its cache off.",
        "outputs depend on padding or on later tokens",
    )


@torch.no_grad()
def _cloud(problem: ClassificationProblem, origin: Tensor) -> Finding:
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
        return Finding(_CLOUD, "not applicable", None, None, f"{delta.name!r} has no virtual tokens")
    worst = 0.0
    for virtual, cloud_of_words in pairs:
        center = cloud_of_words.mean(0)
        spread = (cloud_of_words - center).norm(dim=1).mean()
        worst = max(worst, float((virtual - center).norm(dim=1).max() / spread))
    return _finding(
        _CLOUD,
        worst,
        _OFF,
        f"the virtual {kind} lie up to {worst:.2g} times as far from the mean of real ones as those do",
        "Start from words of the vocabulary, as this package does by default, not from random vectors.",
        "the start lies off the cloud of real activations",
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
        _TARGET,
        missed,
        _OUT_OF_REACH,
        f"{missed:.0%} of the examples stay wrong under the least-norm control of the linearized network, "
        f"|δ| = {energy:.3g}",
        "Take a longer prefix, more blocks, or another delta; or look for contradicting labels.",
        "the target is out of reach",
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
        _JACOBIAN,
        needed / steps,
        _SLOW,
        f"gradient descent needs about {needed:.3g} steps for nine tenths of the fit (budget {steps}); the "
        f"largest eigenvalue of J Jᵀ is {spread:.2g} times the median",
        "Train with Gauss-Newton, or rescale δ: prefix values move the outputs more evenly than keys.",
        "the Jacobian is ill-conditioned",
    )


def _step_size(predicted: RatePrediction, learning_rate: float | None) -> Finding:
    """Compare the learning rate with the one that is predicted for the run."""
    if not predicted.found:
        return Finding(_RATE, "not applicable", None, None, predicted.status)
    rate = predicted.rate if learning_rate is None else learning_rate
    ratio = rate / predicted.rate
    size, change = ("large", "Lower") if ratio > 1 else ("small", "Raise")
    off = max(ratio, 1 / ratio)
    judged = f"too {size}, " if off > _STEP else ""
    return _finding(
        _RATE,
        off,
        _STEP,
        f"the learning rate {rate:.3g} is {judged}{ratio:.2g} times the one that is predicted to "
        f"train best, {predicted.rate:.2g}; {predicted.low:.2g} to {predicted.high:.2g} work",
        f"{change} the learning rate to about {predicted.rate:.1g}.",
        f"the learning rate {rate:.3g} is {off:.2g} times too {size}",
    )
