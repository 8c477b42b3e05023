"""Which method, which size and which modules a task needs, from kernels at δ = 0, before any training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from deltatheory._numbers import check_number
from deltatheory.advice.candidates import CANDIDATES, Candidate
from deltatheory.advice.fits import KernelFit, fitted_delta, kernel_fits
from deltatheory.advice.lora_ranks import adapter_config
from deltatheory.advice.result import Advice, Estimate
from deltatheory.deltas import Delta, LoRA, check_options
from deltatheory.linearization.error import linearization_error
from deltatheory.linearization.ridge import FOLDS
from deltatheory.problems import ClassificationProblem, Problem, Setup, folds
from deltatheory.results import provenance
from deltatheory.training import Training, predict_learning_rate

__all__ = ["advise"]

_BOOTSTRAP = 500
# Spread of logit(trained score) around logit(predicted score) that linearization leaves, beside sampling: so
# wide that 90 % of the trained scores of experiments/results/chosen/advice lie in their intervals.
_MODEL_SPREAD = 1.45
_TRUSTED_ERROR = 0.5
_JUDGED = 32  # held-out examples that tell the rough size of the linearization's error


def advise(
    setup: Setup | Problem | Mapping[str, Any] | None = None,
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    max_parameters: int | None = None,
    max_minutes: float | None = None,
    steps: int = 120,
    batch_size: int = 32,
    examples: int = 448,
    on_example: Callable[[int, int], None] | None = None,
) -> Advice:
    """Predict, before training, the score of every candidate, and rank them.

    Two forward passes over each example and one backward pass through the activations give the kernels
    K_i = J_i J_iᵀ of all deltas at δ = 0 (`linearization/factors.py`), of a contrast of the logits by lot
    (`linearization/outputs.py`). With each the linearized logits z_c = z⁰_c + ½Kα_c are fitted by
    ridge-regularized logistic regression and judged on held-out folds; the best ridge stands for the best
    learning rate and number of steps. With two classes that is exact; with more, K stands for the kernels of
    all their differences.

    Args:
        setup: backbone, classification task, head, limits and seed (`Setup.of`). The seed is that of the
            deltas, the examples, the sketches and the bootstrap.
        candidates: what to compare; of `CANDIDATES` those that have no place in the model are left out.
        max_parameters: budget of tuned numbers.
        max_minutes: budget of training time for `steps` steps.
        steps: of the training that is planned.
        batch_size: of that training; steps are timed with it.
        examples: training examples whose Jacobian rows are computed, at most those there are.
        on_example: called with (done, total), for progress bars.

    Raises:
        ValueError: for no candidates, an unknown method or option, or a budget that is not positive.
    """
    if not candidates:
        raise ValueError("candidates=(): give at least one.")
    counts = {
        "steps": steps,
        "batch_size": batch_size,
        "examples": examples,
        "max_parameters": max_parameters,
    }
    for name, value in counts.items():
        if value is not None:
            check_number(name, value, whole=True, above=0)
    if max_minutes is not None:
        check_number("max_minutes", max_minutes, above=0)
    for candidate in candidates:
        check_options(candidate.method, candidate.options)
    began = time.perf_counter()
    setup = Setup.of(setup)
    setup.check_head()
    setup = setup.replace(train_examples=min(examples, len(setup.task.train)), test_examples=1)
    candidates, deltas, left_out = _placed(setup, candidates)
    fits, passes = kernel_fits(setup, deltas, on_example)

    rng = np.random.default_rng(setup.seed)
    plan = Training(steps=steps, batch_size=batch_size, seed=setup.seed)
    ranked = []
    for candidate, delta, fit in zip(candidates, deltas, fits, strict=True):
        solved = fit.solved()
        problem = setup.classification(delta, check=False)
        seconds = _seconds_per_step(problem, batch_size)
        rate = predict_learning_rate(problem, training=plan)
        passes += rate.passes
        within = (max_parameters is None or delta.size <= max_parameters) and (
            max_minutes is None or seconds * steps <= 60 * max_minutes
        )
        score, low, high = _interval(solved, rng)
        about = candidate.method, dict(candidate.options), score, low, high
        state = 3 * setup.backbone.wide_dtype.itemsize * delta.size  # a gradient and the two moments of AdamW
        rates = (rate.rate, rate.low, rate.high) if rate.found else (None, None, None)
        estimate = Estimate(*about, delta.size, state, seconds, within, *rates)
        ranked.append(_Ranked(estimate, delta, fit, solved[solved.mean(1).argmax()]))
    ranked.sort(key=lambda one: one.key)
    best = ranked[0] if ranked[0].estimate.within_budget else None
    findings, config = ["Budget: no candidate keeps to it; add smaller ones, or raise it."], None
    arguments = None
    if best is not None:
        if best.estimate.learning_rate:
            arguments = replace(plan, learning_rate=best.estimate.learning_rate).to_transformers()
        winner = setup.classification(best.delta, check=False)
        findings = [*_ties(ranked), *_errors(winner, best)]
        passes += winner.passes
        if isinstance(best.delta, LoRA):
            config, finding = adapter_config(best.delta, best.fit, setup.backbone.name)
            findings.append(finding)
    start = next((fit for fit, delta in zip(fits, deltas, strict=True) if delta.exact_zero), fits[0]).start
    return Advice(
        ranked=[one.estimate for one in ranked],
        frozen=float(start.solved(start.logits).double().mean()),
        winner=best and best.estimate.label,
        adapter_config=config,
        training_arguments=arguments,
        findings=[*findings, *_stand_in(setup.task.num_classes), *left_out],
        passes=passes + setup.head.passes,
        seconds=time.perf_counter() - began,
        provenance={
            **provenance(),
            "model": setup.backbone.provenance,
            "task": {"name": setup.task.name, **setup.task.provenance},
            "seed": setup.seed,
            "settings": {
                "examples": len(setup.task.train),
                **setup.head.identity(),
                "outputs": "contrast",
                "steps": steps,
                "batch_size": batch_size,
                "model_spread": _MODEL_SPREAD,
            },
        },
    )


def _placed(setup: Setup, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Delta], list[str]]:
    """Return the candidates that have a place in the model, their deltas, and a sentence on each other one.

    The usual ones are valid in themselves: what refuses one of them is the model (no biases, too narrow).
    """
    placed: list[tuple[Candidate, Delta]] = []
    left_out = []
    for candidate in candidates:
        try:
            placed.append((candidate, setup.delta(candidate.method, **candidate.options)))
        except ValueError as error:
            if candidate not in CANDIDATES:
                raise
            left_out.append(f"Left out: {candidate.label} has no place here: {error}")
    if not placed:
        raise ValueError(f"candidates: none has a place in {setup.backbone.name!r}. {' '.join(left_out)}")
    return [candidate for candidate, _ in placed], [delta for _, delta in placed], left_out


@dataclass(frozen=True, eq=False)
class _Ranked:
    """A candidate with what its estimate rests on; `solved` is with the best ridge, shape (n,)."""

    estimate: Estimate
    delta: Delta
    fit: KernelFit
    solved: np.ndarray

    @property
    def key(self) -> tuple[bool, float, int]:
        """The order: within the budget, the highest score, the fewest parameters."""
        one = self.estimate
        return not one.within_budget, -one.score, one.parameters


def _interval(solved: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the score of the best ridge and a 90 % interval of the trained score: examples and model."""
    count = solved.shape[1]
    score = float(solved.mean(1).max())
    draws = np.array([solved[:, rng.integers(0, count, count)].mean(1).max() for _ in range(_BOOTSTRAP)])
    edge = 0.5 / count
    logits = np.log(np.clip(draws, edge, 1 - edge) / (1 - np.clip(draws, edge, 1 - edge)))
    logits += _MODEL_SPREAD * rng.standard_normal(_BOOTSTRAP)
    low, high = 1 / (1 + np.exp(-np.quantile(logits, (0.05, 0.95))))
    return score, float(low), float(high)


def _ties(ranked: Sequence[_Ranked]) -> list[str]:
    """Say which candidates the examples cannot tell from the first, by a paired test."""
    first, *rest = ranked
    tied = []
    for one in rest:
        more, less = (int(x.sum()) for x in (first.solved & ~one.solved, one.solved & ~first.solved))
        if one.estimate.within_budget and more - less <= 1.645 * math.sqrt(more + less):
            tied.append(one.estimate)
    if not tied:
        return []
    cheapest = min([*tied, first.estimate], key=lambda e: e.parameters)
    return [
        f"Ties: {len(tied)} candidate(s) cannot be told from {first.estimate.label} with these examples: "
        f"{', '.join(e.label for e in tied)}. The smallest of them is {cheapest.label} "
        f"({cheapest.parameters:,} parameters)."
    ]


def _stand_in(classes: int) -> list[str]:
    """Say so where one output an example stands for several."""
    if classes == 2:
        return []
    return [
        f"Outputs: kernels of one contrast of the {classes} logits, drawn by lot, stand for those of their "
        f"{classes - 1} differences."
    ]


def _errors(winner: ClassificationProblem, best: _Ranked) -> list[str]:
    """Say so where the network under the winner's fitted δ is not the linearized one."""
    _, held = folds(len(winner.train), FOLDS)[0]
    error = linearization_error(winner, fitted_delta(winner, best.fit), held[:_JUDGED])
    if error <= _TRUSTED_ERROR:
        return []
    return [
        f"Linearization: at the fitted δ of {best.estimate.label} the network's logits differ from "
        f"the linearized ones by {error:.0%} of their change (trusted to {_TRUSTED_ERROR:.0%}): the "
        "order of methods is better known than their scores."
    ]


def _seconds_per_step(problem: ClassificationProblem, batch_size: int) -> float:
    """Return the time of a training step; a step of one example before it warms up."""
    delta, seconds = problem.delta.zero(), 0.0
    for count in (1, min(batch_size, len(problem.train))):
        batch, labels = problem.batch(problem.train, range(count))
        began = time.perf_counter()
        problem.loss_and_gradient(delta, batch, labels)
        if problem.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    problem.restore()
    return seconds
