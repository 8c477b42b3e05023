"""The learning rate of a delta before it is trained, by how far a step of Adam moves features on the way.

Adam moves every coordinate by about the rate η, whatever the gradient's size. After the steps of a training a
coordinate is off by about κη, κ² = 9 Σ_t (η_t/η)² with η_t the schedule: three times as far as steps in
independent directions would lead. What training feels is the size of a step in function space *there*: M(η)
is how far -η sign(g) moves the last hidden states of texts that g is not of, in units of their spread over
tokens. At δ = 0 a product of factors (LoRA) shows only the part of its growth that its non-zero factor lets
through; after the walk it shows all of it. At the rate that trains best M is about the same for every delta
and size, although these rates differ by three decades; tasks that the frozen model is further from take
more, and deep backbones bear less: M* falls as one over the number of blocks from six on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.deltas import Delta
from deltatheory.problems import BACKWARD, FORWARD, NOT_FINITE, Problem, Setup, epochs
from deltatheory.results import Result, provenance
from deltatheory.training.trainer import Training, settings_of

__all__ = ["RatePrediction", "predict_learning_rate"]

# What the rule rests on, set on calibration tasks of the study `learning_rate` alone, with MiniLM; the depth
# with SmolLM2, on its calibration task there and on trec6, where the study `performance` tunes its rates:
_DRIFT = 3.0  # κ, in what steps in independent directions come to
_WANTED = 0.4  # M* at the best rate, where the loss at the start is ½
_BLOCKS = 6  # up to which that holds; at 30 blocks .08 did best on the calibration tasks
_FARNESS = 0.3  # power of twice that loss by which the rate grows
_LOSSES = (0.25, 4.0)  # between which that holds
_FLAT = 1.1  # factor by which M grows at most between two rates where it has reached its ceiling (prompts)
_BEYOND = 3.5  # times the rate from which M has stopped growing

_SPREAD = 3.0  # to either side: holds a rate within a point of the best in nine of ten calibration sweeps
_SHARE = 0.1  # of the passes of the training, which the prediction may cost
_EXAMPLES = 8  # that a gradient is taken of, and others that are looked at
_BATCHES = 4  # whose loss is taken where training starts
_LOOKS = 4  # that are taken however short the training is
_FIRST = 0.25  # length of the step at the rate where the search begins, which mostly lies below the right one
_CLOSE = 1.2  # the search ends where M is so near to the wanted one
_FURTHEST = 100.0  # factor between two rates that are tried
_LEAST, _MOST = 1e-9, 1e3
_CAUTION = (  # experiments/results/language-rates
    "for more than six blocks the rule rests on one language model (SmolLM2), where it was within a point "
    "of the best on 4 of 12 held-out pairs of a task and a delta, and the best of it, a third and three "
    "times of it on 9: train at these, too"
)
_MISSED = (
    "not found: no rate that was tried moves the features as far as training does; take more steps, which "
    "pay for a longer search, or look whether the delta acts (`diagnose`)"
)


@dataclass(frozen=True, eq=False)
class RatePrediction(Result):
    """A peak learning rate, and what it rests on.

    Attributes:
        rate: the peak of the schedule.
        low: from here on a training is expected to be about as good.
        high: up to here.
        wanted: M*, how far a step at the peak should move the features, in units of their spread.
        loss: ℓ₀, the mean loss where training starts, on a few training examples.
        moved: (η, M(η)) as measured, in order of η.
        status: "found", or what is known where M(η) does not pass M*, with the remedy.
        caution: what is known against the rate on a backbone of this depth; empty for one of few blocks.
        passes: forward-equivalents, in passes over single examples.
        seconds: wall-clock time.
        settings: of the training, with the rate.
        provenance: versions, machine, commit and command.
    """

    FILE: ClassVar[str] = "learning_rate.json"

    rate: float
    low: float
    high: float
    wanted: float
    loss: float
    moved: list[tuple[float, float]]
    status: str
    caution: str
    passes: float
    seconds: float
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def found(self) -> bool:
        """Whether M(η) passes M* where it was measured."""
        return self.status == "found"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file; a movement that is not finite is `None`."""
        moved = [(rate, m if math.isfinite(m) else None) for rate, m in self.moved]
        return {**super().to_dict(), "moved": moved}

    def __str__(self) -> str:
        said = (
            f"Learning rate {self.rate:.2g} ({self.low:.2g} to {self.high:.2g}), predicted with "
            f"{self.passes:,.0f} passes in {self.seconds:.1f} s"
        )
        return f"{said}; {self.caution}" if self.caution else said


def predict_learning_rate(
    setup: Setup | Problem | Mapping[str, Any] | None = None,
    delta: str | Delta | None = None,
    training: Training | None = None,
    *,
    start: Float[Tensor, " m"] | None = None,
) -> RatePrediction:
    """Predict the peak learning rate of a training, by a few gradients and no run.

    At each of a few rates: δ = κηξ with random signs ξ, a gradient g there on a batch, and the movement M(η)
    of other examples under -η sign(g). Secants of ln M over ln η close in on M(η) = M*, which is 0.4 for at
    most six blocks and 2.4/L for L; they end near it, where M has stopped growing, or when a tenth of the
    passes of the training is spent (but not before the fourth look). The rate is (2ℓ₀)^0.3 times that η, with
    ℓ₀ the loss where training starts.

    Args:
        setup: a setup (`Setup.of`), or a built problem.
        delta: what is to be trained; a built problem's own by default.
        training: how: steps, batch size, schedule and seed count, its own rate plays no part.
        start: δ to start from; 0, the frozen backbone, by default.

    Raises:
        ValueError: for no delta, SGD, whose steps have another size, fewer than 2 training examples, or a
            start of another length.
        FloatingPointError: where the loss is not finite where training starts.
    """
    training = training or Training()
    if training.optimizer != "adamw":
        raise ValueError(f"optimizer={training.optimizer!r}: rates are predicted for 'adamw'.")
    began = time.perf_counter()
    problem = _problem(setup, delta)
    training.check_device(problem.backbone.device)
    if len(problem.train) < 2:
        raise ValueError(f"train: {len(problem.train)} example(s); a learning rate takes at least 2.")
    origin = problem.delta.zero() if start is None else start
    if origin.shape != (problem.delta.size,):
        raise ValueError(f"start.shape={tuple(origin.shape)}: must be ({problem.delta.size},).")
    problem.autocast = training.autocast
    problem.gradient_checkpointing = training.gradient_checkpointing
    blocks = len(problem.backbone.layers)
    wanted = _WANTED * min(1.0, _BLOCKS / blocks)
    budget = _SHARE * training.steps * training.batch_size * (FORWARD + BACKWARD)
    try:
        probe = _Probe(problem, training, origin)
        looks = max(_LOOKS, int((budget - problem.passes) / probe.cost))
        moved = sorted(_search(probe.movement, wanted, _FIRST / math.sqrt(problem.delta.size), looks))
    finally:
        problem.restore()
        problem.autocast = problem.gradient_checkpointing = False
    ceiling = _ceiling(moved, wanted)
    farness = (2 * min(max(probe.loss, _LOSSES[0]), _LOSSES[1])) ** _FARNESS
    rate = farness * (_BEYOND * ceiling if ceiling else _crossing(moved, wanted))
    least, most = (extreme(m for _, m in moved) for extreme in (min, max))
    reached = ceiling or (least <= wanted * _CLOSE and most >= wanted / _CLOSE)
    return RatePrediction(
        rate=rate,
        low=rate / _SPREAD,
        high=rate * _SPREAD,
        wanted=wanted,
        loss=probe.loss,
        moved=moved,
        status="found" if reached else _MISSED,
        caution=_CAUTION if blocks > _BLOCKS else "",
        passes=problem.passes,
        seconds=time.perf_counter() - began,
        settings=settings_of(problem, replace(training, learning_rate=rate)),
        provenance={**provenance(), "task": {"name": problem.task.name, **problem.task.provenance}},
    )


def _problem(setup: Setup | Problem | Mapping[str, Any] | None, delta: str | Delta | None) -> Problem:
    """Return the problem whose rate is asked for, with passes of its own."""
    if not isinstance(setup, Problem):
        if delta is None:
            raise ValueError(
                "delta=None: name what is to be trained, as in 'lora:8', or give a built problem."
            )
        return Setup.of(setup).problem(delta)
    if isinstance(delta, str):
        raise ValueError(f"delta={delta!r}: with a built problem give a delta that is made, or none.")
    return setup.with_delta(setup.delta if delta is None else delta)


class _Probe:
    """Measures M(η) at the places where a training at the rate η will be."""

    def __init__(self, problem: Problem, training: Training, start: Float[Tensor, " m"]) -> None:
        self.problem, self.start = problem, start
        self._at_once = training.micro_batch or training.batch_size
        count = min(_EXAMPLES, training.batch_size, len(problem.train) // 2)
        self.cost = count * (FORWARD + BACKWARD + 2 * FORWARD)
        self._batches = epochs(problem.train.lengths, count, training.seed)
        self._others = problem.batch(problem.train, next(self._batches))
        unit = replace(training, learning_rate=1.0)
        self._distance = _DRIFT * math.sqrt(sum(unit.rate(step) ** 2 for step in range(unit.steps)))
        generator = torch.Generator().manual_seed(training.seed)
        signs = torch.randint(2, self.start.shape, generator=generator, dtype=torch.int8)
        self._signs = np.packbits(signs.numpy())  # a bit each
        features = problem.features(self.start, self._others[0])
        self._spread = (features - features.mean(0)).norm()
        seen = (problem.batch(problem.train, next(self._batches)) for _ in range(_BATCHES))
        self.loss: float = mean(problem.loss_at(self.start, *batch) for batch in seen)
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"the loss is {self.loss} where training starts: {NOT_FINITE}")

    def movement(self, rate: float) -> float:
        """Return M(η); infinite where the network is no longer finite."""
        problem, (others, _) = self.problem, self._others
        problem.restore()  # where δ is as long as θ, the last one goes before the next one comes
        distance = rate * self._distance
        there = torch.from_numpy(np.unpackbits(self._signs, count=len(self.start))).to(self.start)
        there.mul_(2 * distance).sub_(distance).add_(self.start)
        indices = next(self._batches)
        texts = min(problem.texts_at_once(len(indices)), self._at_once)
        parts = (indices[first : first + texts] for first in range(0, len(indices), texts))
        found = problem.sum_with_gradient(there, (problem.batch(problem.train, part) for part in parts))
        before = problem.features(there, others)
        after = problem.features(there.sub_(found.gradient.sign_(), alpha=rate), others)
        moved = float((after - before).norm() / self._spread)
        return moved if math.isfinite(moved) else math.inf


def _search(
    movement: Callable[[float], float], wanted: float, first: float, looks: int
) -> list[tuple[float, float]]:
    """Return (η, M(η)) at rates that close in on M(η) = M*.

    Args:
        movement: η ↦ M(η).
        wanted: M*.
        first: η to begin with, better too small: where the network has collapsed M says nothing.
        looks: measurements at most.

    >>> [(round(rate, 6), round(m, 6)) for rate, m in _search(lambda rate: 200 * rate, 0.8, 1e-3, looks=4)]
    [(0.001, 0.2), (0.002, 0.4), (0.004, 0.8)]
    """
    rate, moved = first, []
    for _ in range(looks):
        moved.append((rate, movement(rate)))
        rate = _crossing(moved, wanted)
        near = 1 / _CLOSE < moved[-1][1] / wanted < _CLOSE
        if near or _ceiling(moved, wanted) or any(math.isclose(rate, tried) for tried, _ in moved):
            break
    return moved


def _ceiling(moved: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Return the rate from which M has stopped growing well below M*, else `None`.

    >>> _ceiling([(0.01, 0.1), (0.02, 0.15), (0.06, 0.16)], 0.5)
    0.02
    """
    if len(moved) < 2 or max(m for _, m in moved) > wanted:
        return None
    (low, less), (high, more) = sorted(moved)[-2:]
    grows = high < 1.35 * low or more > _FLAT * less
    if grows or not wanted / 10 < more < wanted / 2:
        return None
    return min(rate for rate, m in moved if m > more / 1.3)


def _crossing(moved: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return the rate at which M passes M*: ln M is linear in ln η between two rates.

    From below the slope goes on, and is 2 as long as one rate is known; from above it is ½, for a network
    that has collapsed moves no further.

    Args:
        moved: (η, M(η)), at least one.
        wanted: M*.

    >>> round(_crossing([(1.0, 1.0), (4.0, 16.0)], 4.0), 6)  # M = η²
    2.0
    """
    above = min((one for one in moved if one[1] > wanted), default=None)
    below = sorted(one for one in moved if one[1] <= wanted and (above is None or one[0] < above[0]))
    if above and below:
        (low, less), (high, more) = below[-1], above
        share = math.log(wanted / less) / math.log(more / less) if less and math.isfinite(more) else 0.5
        return low * (high / low) ** share
    if above:
        rate, factor = above[0], (wanted / above[1]) ** 2
    else:
        rate, found = below[-1]
        slope = _slope(*below[-2:]) if len(below) > 1 else 2.0
        factor = (wanted / found) ** (1 / slope) if found else math.inf
    return min(max(rate * min(max(factor, 1 / _FURTHEST), _FURTHEST), _LEAST), _MOST)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return d ln M / d ln η between two rates, kept within what a network shows before it collapses."""
    (low, less), (high, more) = one, other
    return min(max(math.log(more / less) / math.log(high / low), 1.0), 4.0) if less and more else 2.0
