"""Why a run does not converge: five possible faults, each with its number, and remedies that are tried."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.adapters import has_peft_form, to_peft
from deltatheory.control.faults import (
    CLOUD,
    JACOBIAN,
    MASKS,
    RATE,
    Finding,
    cloud,
    conditioning,
    masking,
    reach,
    step_size,
)
from deltatheory.control.solvers import solve
from deltatheory.control.solvers.base import Solution
from deltatheory.deltas import Delta
from deltatheory.deltas.files import save_delta
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem, epochs
from deltatheory.results import Result, provenance, wilson
from deltatheory.training import Training, predict_learning_rate

__all__ = [
    "HELPED",
    "REMEDIES",
    "UNNOTICED",
    "Attempt",
    "Diagnosis",
    "attempt",
    "check_run",
    "diagnose",
]

_WARM = 10.0  # passes over the examples that the warm start may take
_FIRST = 20  # steps that are tried, of a run of at least twice as many
_LOWER = 0.95  # times the loss that the run comes to as it is: a remedy that comes below helps

REMEDIES = (CLOUD, JACOBIAN, RATE)  # the faults that have one that can be tried
# Counts of the study `remedies`, calibration half. Fault that a verdict names ↦ (runs that its remedy helped,
# runs), and (broken runs in which nothing was found, broken runs):
HELPED = {CLOUD: (6, 6), JACOBIAN: (4, 6), RATE: (12, 12)}
UNNOTICED = (4, 36)


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
        return found.get(MASKS) or found.get(best or "") or next(iter(self.found), None)

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
        yield masking(problem, origin)
        yield cloud(problem, origin)
        features = tangent_rows(problem, train=examples, test=0, outputs="margin", at=origin)
        yield reach(problem, origin, features)
        yield conditioning(features, steps)
        yield step_size(predicted, learning_rate)

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
    if fault == RATE:
        change, run = f"a learning rate of {rate:.2g}", replace(run, learning_rate=rate)
    elif fault == CLOUD:
        change, start = "a start from words", problem.delta.initial()
    elif fault == JACOBIAN:
        change = "Gauss-Newton of as many passes"
    before, after = problem.loss_at(start, batch, labels), None
    try:
        end = (_gauss_newton if fault == JACOBIAN else _adam)(problem, run, start, steps)
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
