"""Break the training of a prefix on purpose, let `diagnose` look, and run what it says to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = Trial(
    "broken_run",
    "",
    "",
    "prefix:2",
    {"gate": "none", "shift": True},
    settings={**SHORT, "fault": "", "learning_rate": 0.03, "steps": 4, "batch_size": 4},
)

_LARGE, _SMALL = 30.0, 0.01  # times the rate
_FAR = 30.0  # times the keys and values of real words
_STIFF = 1000.0  # times a direction of δ is amplified
_CONSTANT = 1e-3  # the rate that is right for no delta, and the default of most trainers


def _rate_too_large(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    return problem, problem.delta.initial(), rate * _LARGE


def _rate_too_small(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    return problem, problem.delta.initial(), rate * _SMALL


def _far_start(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    """Start from keys and values that are thirty times as long as those of words."""
    words = problem.delta.keys_values(problem.delta.initial())
    far = problem.delta.delta_of({t: (_FAR * key, _FAR * value) for t, (key, value) in words.items()})
    return problem, far, rate


def _open_masks(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    """Let every token attend to padding, and to the tokens behind it."""
    import torch

    batch = problem.batch

    def opened(split: Any, indices: Any) -> Any:
        texts, labels = batch(split, indices)
        return replace(texts, attention_mask=torch.zeros_like(texts.attention_mask)), labels

    problem.batch = opened
    return problem, problem.delta.initial(), rate


def _labels_by_lot(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    """Give half of the texts, each of them twice, labels by lot."""
    import torch

    task = problem.task
    texts = task.train.texts[: len(task.train) // 2]
    generator = torch.Generator().manual_seed(problem.seed)
    labels = torch.randint(task.num_classes, (2 * len(texts),), generator=generator).tolist()
    twice = replace(task.train, texts=(*texts, *texts), labels=tuple(labels))
    # A lot may leave classes out, which no other split may ask for; only training texts are looked at.
    other = problem.with_delta(problem.delta, replace(task, train=twice, dev=twice, test=twice))
    return other, problem.delta.initial(), rate


def _stiff(problem: Any, rate: float) -> tuple[Any, Tensor, float]:
    """Train P = P₀ + δ + (c - 1)(u·δ) u: one direction u, by lot, is c times as long as the others."""
    import torch

    from deltatheory.deltas.prefix import PrefixTuning

    class Stiff(PrefixTuning):
        def keys_values(self, delta: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
            return super().keys_values(delta + (_STIFF - 1) * (along @ delta) * along)

    words: PrefixTuning = problem.delta
    given = {"length": words.length, "gate": words.gate, "shift": words.shift, "seed": words.seed}
    delta = Stiff(problem.backbone, **given)
    along = torch.randn(delta.size, generator=torch.Generator().manual_seed(delta.seed))
    along = (along / along.norm()).to(delta.initial())
    return problem.with_delta(delta), delta.initial(), rate


# What was done, and the fault of `diagnose` that it is.
FAULTS: dict[str, tuple[str, Callable[[Any, float], tuple[Any, Tensor, float]]]] = {
    "rate 30 times too large": ("step size", _rate_too_large),
    "rate 100 times too small": ("step size", _rate_too_small),
    "start 30 times too far": ("start off the cloud of real activations", _far_start),
    "masks open": ("masks or positions", _open_masks),
    "labels by lot, texts twice": ("target out of reach", _labels_by_lot),
    "a direction 1000 times as long": ("ill-conditioned Jacobian", _stiff),
}


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return what `diagnose` found and tried, and the training loss of whole runs, in nats.

    As it is; under the remedy of the fault that the verdict names, where that has one; at a rate of 0.001;
    and with the data in another order. A loss that is not finite is `None`.
    """
    from deltatheory.control.diagnosis import REMEDIES, attempt, diagnose
    from deltatheory.training import Training

    given = trial.settings
    broken, start, rate = place.problem(trial), None, given["learning_rate"]
    if given["fault"]:
        broken, start, rate = FAULTS[given["fault"]][1](broken, rate)
    everything, size = len(broken.train), min(given["batch_size"], len(broken.train))
    about = {"steps": given["steps"], "batch_size": size}
    found = diagnose(broken, start, learning_rate=rate, examples=everything, **about)
    training = Training(**about, learning_rate=rate, seed=broken.seed)
    whole = {
        "at": broken.delta.initial() if start is None else start,
        "rate": found.predicted_rate,
        "steps": given["steps"],
        "examples": everything,
    }
    named = found.named and found.named.fault
    runs = {
        "as it is": attempt(broken, training, **whole),
        "at 0.001": attempt(broken, replace(training, learning_rate=_CONSTANT), **whole),
        "another order": attempt(broken, replace(training, seed=training.seed + 1), **whole),
    }
    if named in REMEDIES:
        runs["remedy"] = attempt(broken, training, named, **whole)
    return {
        "named": named,
        "found": {one.fault: one.number for one in found.found},
        "findings": [asdict(one) for one in found.findings],
        "attempts": [asdict(one) for one in found.attempts],
        "before": runs["as it is"].before,
        "losses": {name: one.after for name, one in runs.items()},
        "rate": rate,
        "predicted_rate": found.predicted_rate,
        "passes": found.passes,
        "seconds": found.seconds,
    }
