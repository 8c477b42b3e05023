"""Which method, which size and which modules a task needs, from kernels at δ = 0, before any training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.adapters import peft_config
from deltatheory.advice.candidates import CANDIDATES, Candidate
from deltatheory.advice.fits import KernelFit, fitted_delta, kernel_fits
from deltatheory.advice.lora_ranks import spread_ranks
from deltatheory.advice.posterior import POINT, SPREAD, TrainedScores
from deltatheory.advice.race import ShortRuns, race
from deltatheory.advice.result import ADAPTER_ARGUMENTS, Advice, Decision, Difference, Estimate, Run
from deltatheory.deltas import Delta, LoRA, check_options
from deltatheory.deltas.unilora import UniLoRA
from deltatheory.linearization.error import linearization_error
from deltatheory.linearization.ridge import FOLDS
from deltatheory.problems import ClassificationProblem, Problem, Setup, epochs, folds
from deltatheory.results import provenance
from deltatheory.training import RatePrediction, Training, predict_learning_rate

__all__ = ["advise"]

_NOTHING_WITHIN = "Budget: no candidate keeps to it; add smaller ones, or raise it."
_TRUSTED_ERROR = 0.5
_GROUP = 4  # batches, of which one of middle length is timed
_JUDGED = 32  # held-out examples that tell the rough size of the linearization's error


def advise(
    setup: Setup | Problem | Mapping[str, Any] | None = None,
    *,
    candidates: Sequence[Candidate | str] = CANDIDATES,
    max_parameters: int | None = None,
    max_memory: int | float | None = None,
    max_minutes: int | float | None = None,
    training: Training | None = None,
    examples: int = 448,
    train_runs: int = 0,
    on_example: Callable[[int, int], None] | None = None,
) -> Advice:
    """Say which candidate is the smallest that suffices, before training or after a few runs.

    Two forward passes over each example and one backward pass through the activations give the kernels
    K_i = J_i J_iᵀ of all deltas at δ = 0 (`linearization/factors.py`), of a contrast of the logits by lot
    (`linearization/outputs.py`). With each the linearized logits z_c = z⁰_c + ½Kα_c are fitted by
    ridge-regularized logistic regression and judged on held-out folds; the best ridge stands for the best
    learning rate and number of steps. With two classes that is exact; with more, K stands for the kernels of
    all their differences.

    All are judged on the same examples, so that differences are known better than scores: `TrainedScores`
    is their joint distribution. Taken is the smallest candidate within the budget behind which nothing is
    likely to be more than one point better. Runs, where asked for, are of the candidates whose results are
    likeliest to change that, and sharpen the same distribution.

    Args:
        setup: backbone, classification task, head, limits and seed (`Setup.of`). The seed is that of the
            deltas, the examples, the sketches and the bootstrap.
        candidates: what to compare, also as texts ("lora:8", "prefix:16 gate=values"); of `CANDIDATES` those
            that have no place in the model are left out.
        max_parameters: budget of tuned numbers.
        max_memory: budget of gradient and AdamW state, in MB.
        max_minutes: budget of training time.
        training: what is planned, with AdamW: 120 steps of 32 by default; its learning rate plays no part.
        examples: training examples whose Jacobian rows are computed, at most those there are.
        train_runs: trainings at most, each as planned, judged on training and dev examples that it has not
            seen; they end where none would change what is taken.
        on_example: called with (done, total), for progress bars.

    Raises:
        ValueError: for no candidates, an unknown method or option, a budget that is not positive, or SGD.
    """
    if not candidates:
        raise ValueError("candidates=(): give at least one.")
    wanted = [Candidate.of(one) for one in candidates]
    for name, value in {"examples": examples, "max_parameters": max_parameters}.items():
        if value is not None:
            check_number(name, value, whole=True, above=0)
    for name, value in {"max_memory": max_memory, "max_minutes": max_minutes}.items():
        if value is not None:
            check_number(name, value, above=0)
    check_number("train_runs", train_runs, whole=True, least=0)
    for candidate in wanted:
        check_options(candidate.method, candidate.options)
    if training is not None and training.optimizer != "adamw":
        raise ValueError(f"training.optimizer={training.optimizer!r}: advice is for 'adamw'.")
    began = time.perf_counter()
    given = Setup.of(setup)
    given.check_head()
    plan = training or Training(steps=120, seed=given.seed)
    setup = given.replace(train_examples=min(examples, len(given.task.train)), test_examples=1)
    candidates, deltas, left_out = _placed(setup, wanted)
    fits, passes = kernel_fits(setup, deltas, on_example)

    solved = [fit.solved() for fit in fits]
    costs = [_costs(setup, delta, plan) for delta in deltas]
    passes += sum(cost.rate.passes for cost in costs)
    within = [
        (max_parameters is None or delta.size <= max_parameters)
        and (max_memory is None or cost.optimizer_bytes <= 1e6 * max_memory)
        and (max_minutes is None or cost.minutes <= max_minutes)
        for delta, cost in zip(deltas, costs, strict=True)
    ]
    scores = TrainedScores.predicted(
        solved,
        [delta.size for delta in deltas],
        [candidate.method for candidate in candidates],
        np.random.default_rng(setup.seed),
    )
    ladder = [i for i in range(len(deltas)) if within[i]]
    ladder.sort(key=lambda i: (deltas[i].size, -scores.mean[i]))
    runs: list[Run] = []
    if train_runs and ladder:
        short = ShortRuns(setup, given.task, deltas, [cost.rate.rate for cost in costs], plan)
        for sharper in islice(race(scores, ladder, short.run, short.examples), train_runs):
            scores = sharper
        runs = [Run(candidates[i].label, float(x.mean()), len(x)) for i, x in short.solved.items()]
        passes += short.passes
    draws = scores.draws()
    taken, worse = scores.smallest(ladder) if ladder else (None, 0.0)

    def estimate(i: int) -> Estimate:
        score, low, high = _quantiles(draws[:, i])
        rate = costs[i].rate
        return Estimate(
            candidates[i].method,
            dict(candidates[i].options),
            score=score,
            low=low,
            high=high,
            kernel_score=float(solved[i].mean(1).max()),
            parameters=deltas[i].size,
            optimizer_bytes=costs[i].optimizer_bytes,
            seconds_per_step=costs[i].seconds,
            within_budget=within[i],
            difference=None if taken is None else _difference(draws[:, i] - draws[:, taken]),
            learning_rate=rate.rate if rate.found else None,
            lowest_rate=rate.low if rate.found else None,
            highest_rate=rate.high if rate.found else None,
        )

    estimates = [estimate(i) for i in range(len(deltas))]
    findings, config, arguments, beside, decision = [_NOTHING_WITHIN], None, None, None, None
    if taken is not None:
        one = estimates[taken]
        decision = Decision(
            one.label,
            one.parameters,
            one.learning_rate,
            one.optimizer_bytes,
            costs[taken].minutes,
            probability=1 - worse,
        )
        arguments = _arguments(plan, one)
        problem = setup.classification(deltas[taken], check=False)
        findings = _errors(problem, one.label, fits[taken])
        passes += problem.passes
        if configs := {i: found for i in ladder if (found := _peft_config(setup, deltas[i]))}:
            formed = taken if taken in configs else scores.smallest([*configs])[0]
            config = configs[formed]
            if isinstance(delta := deltas[formed], LoRA):
                spread, said = spread_ranks(delta, fits[formed])
                config = _peft_config(setup, spread)
                findings.append(said)
            if formed != taken:
                findings.append(
                    f"peft: has no form of {one.label} here; adapter_config.json is of "
                    f"{estimates[formed].label}, the smallest that suffices of those that it has"
                    + (
                        f"; its learning rate is {rate:.2g}, in {ADAPTER_ARGUMENTS}."
                        if (rate := estimates[formed].learning_rate)
                        else "."
                    )
                )
                beside = _arguments(plan, estimates[formed])
    start = next((fit for fit, delta in zip(fits, deltas, strict=True) if delta.exact_zero), fits[0]).start
    return Advice(
        decision=decision,
        ranked=sorted(estimates, key=lambda e: (not e.within_budget, -e.score, e.parameters)),
        runs=runs,
        frozen=float(start.solved(start.logits).double().mean()),
        winner=decision and decision.label,
        adapter_config=config,
        training_arguments=arguments,
        adapter_training_arguments=beside,
        findings=[*findings, *_stand_in(setup.task.num_classes), *_cautions(costs), *left_out],
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
                "steps": plan.steps,
                "batch_size": plan.batch_size,
                "model_spread": SPREAD,
                "train_runs": train_runs,
                "max_parameters": max_parameters,
                "max_memory": max_memory,
                "max_minutes": max_minutes,
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


def _peft_config(setup: Setup, delta: Delta) -> dict[str, Any] | None:
    """Return the configuration with which `peft` trains a delta; `None` where it has none.

    Where words answer there is no classifier to train beside it.
    """
    if isinstance(delta, UniLoRA):  # PEFT would train all of its LoRA
        return None
    with suppress(ValueError):
        return peft_config(delta, train_head=not setup.head.kind.endswith("verbalizer"))
    return None


def _arguments(plan: Training, one: Estimate) -> dict[str, Any] | None:
    """Return the `transformers.TrainingArguments` of a candidate, named by it; `None` without a rate."""
    if not one.learning_rate:
        return None
    return {**replace(plan, learning_rate=one.learning_rate).to_transformers(), "run_name": one.label}


@dataclass(frozen=True, eq=False)
class _Costs:
    """What training takes: time of a step and of all, memory, and the predicted rate."""

    seconds: float
    minutes: float
    optimizer_bytes: int
    rate: RatePrediction


def _costs(setup: Setup, delta: Delta, plan: Training) -> _Costs:
    problem = setup.classification(delta, check=False)
    seconds = _seconds_per_step(problem, plan)
    state = 3 * setup.backbone.wide_dtype.itemsize * delta.size  # a gradient and the two moments of AdamW
    return _Costs(seconds, seconds * plan.steps / 60, state, predict_learning_rate(problem, training=plan))


def _cautions(costs: Sequence[_Costs]) -> list[str]:
    """Say what is known against the rates, once."""
    return [f"Rates: {caution}." for caution in {cost.rate.caution for cost in costs} if caution]


def _quantiles(draws: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95))
    return float(middle), float(low), float(high)


def _difference(draws: Float[np.ndarray, " n"]) -> Difference:
    return Difference(*_quantiles(draws), chance=float((draws > POINT).mean()))


def _stand_in(classes: int) -> list[str]:
    """Say so where one output an example stands for several."""
    if classes == 2:
        return []
    return [
        f"Outputs: kernels of one contrast of the {classes} logits, drawn by lot, stand for those of their "
        f"{classes - 1} differences."
    ]


def _errors(problem: ClassificationProblem, label: str, fit: KernelFit) -> list[str]:
    """Say so where the network under the fitted δ is not the linearized one."""
    _, held = folds(len(problem.train), FOLDS)[0]
    error = linearization_error(problem, fitted_delta(problem, fit), held[:_JUDGED])
    if error <= _TRUSTED_ERROR:
        return []
    return [
        f"Linearization: at the fitted δ of {label} the network's logits differ from the linearized ones by "
        f"{error:.0%} of their change (trusted to {_TRUSTED_ERROR:.0%}): the order of methods is better "
        "known than their scores."
    ]


def _seconds_per_step(problem: ClassificationProblem, plan: Training) -> float:
    """Return the time of a training step on a batch of middle length; one of a single example warms up."""
    lengths = problem.train.lengths
    batches = islice(epochs(lengths, plan.batch_size, plan.seed), _GROUP)
    middle = sorted(batches, key=lambda batch: lengths[batch].max())[_GROUP // 2]
    delta, seconds = problem.delta.zero(), 0.0
    problem.gradient_checkpointing = plan.gradient_checkpointing
    for indices in (middle[:1], middle):
        batch, labels = problem.batch(problem.train, indices)
        began = time.perf_counter()
        problem.loss_and_gradient(delta, batch, labels)
        if problem.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    problem.restore()
    return seconds
