"""One plain trainer for every delta."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from deltatheory.problems import ClassificationProblem, Classifier, Problem, epochs
from deltatheory.results import provenance
from deltatheory.training import parallel
from deltatheory.training.checkpoint import Checkpoint
from deltatheory.training.interrupts import held_back
from deltatheory.training.optimizer import SegmentedOptimizer
from deltatheory.training.result import TrainingResult

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["Training", "checkpoint_of", "settings_of", "train"]

_ALWAYS = ("steps", "batch_size", "learning_rate", "warmup", "seed")  # in a configuration also by default


@dataclass(frozen=True)
class Training:
    """How to train: linear warm-up and linear decay to zero, by default with AdamW.

    Attributes:
        steps: the step budget; it is part of every result.
        batch_size: examples a step.
        micro_batch: of these, how many pass through the network at once, whose activations are in memory;
            all by default. The gradients add up to that of the batch.
        learning_rate: the peak.
        warmup: share of the steps before the peak.
        seed: of the data order.
        optimizer: "adamw" (Loshchilov & Hutter 2019) or "sgd".
        momentum: of SGD.
        weight_decay: pull of δ towards 0, the frozen backbone.
        clip: the largest norm of a gradient; longer ones are shortened to it.
        average: share of the last steps whose δ are averaged (tail averaging, after Polyak & Juditsky 1992):
            the result is then their mean. 0 takes the last δ.
        evaluate_every: steps between evaluations of the dev split; the result is then the best δ met there.
        patience: stop after so many evaluations without a better one.
        autocast: run the network in bfloat16 where that is safe (CUDA only).
        gradient_checkpointing: keep of each block what it gets, and run it again in the backward pass
            (Chen et al. 2016): less memory, and a forward pass more.
    """

    steps: int = 240
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.1
    seed: int = 0
    optimizer: str = "adamw"
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    average: float = 0.0
    evaluate_every: int | None = None
    patience: int | None = None
    autocast: bool = False
    micro_batch: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "batch_size": 1,
            "micro_batch": 1,
            "seed": 0,
            "weight_decay": 0,
            "evaluate_every": 1,
            "patience": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                raise ValueError(f"{name}={value}: must be at least {low}, and finite.")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: must be finite and above 0.")
        for name in ("warmup", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie in [0, 1).")
        if not 0 <= self.average <= 1:
            raise ValueError(f"average={self.average}: must lie in [0, 1].")
        if self.average and self.evaluate_every:
            raise ValueError(
                f"average={self.average}: with evaluate_every the result is the best δ met; take one."
            )
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer={self.optimizer!r}: allowed are 'adamw' and 'sgd'.")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum={self.momentum}: only optimizer='sgd' takes it.")
        if self.patience and not self.evaluate_every:
            raise ValueError(f"patience={self.patience}: needs evaluate_every.")

    def check_device(self, device: torch.device | str) -> None:
        """Refuse a device on which a run cannot be.

        Raises:
            ValueError: for autocast on any but CUDA.
        """
        if self.autocast and str(device).partition(":")[0] != "cuda":
            raise ValueError(f"autocast=True: bfloat16 is for CUDA devices; the backbone is on {device}.")

    def rate(self, step: int) -> float:
        """Return the learning rate of step 0 .. steps - 1.

        >>> training = Training(steps=5, learning_rate=3.0, warmup=0.4)
        >>> [round(training.rate(step), 9) for step in range(5)]
        [1.5, 3.0, 3.0, 2.0, 1.0]
        """
        rise = self.warmup * self.steps
        fall = (self.steps - step) / (self.steps - rise)
        return self.learning_rate * min((step + 1) / rise if rise else 1.0, fall, 1.0)

    def make_optimizer(self, delta: Tensor) -> SegmentedOptimizer:
        """Return the optimizer of δ; the rate is set at each step."""
        if self.optimizer == "sgd":
            make = partial(torch.optim.SGD, momentum=self.momentum, weight_decay=self.weight_decay)
        else:
            make = partial(torch.optim.AdamW, weight_decay=self.weight_decay)
        return SegmentedOptimizer(make, delta)

    def averaged_after(self, step: int) -> int:
        """Return over how many δ the average is after so many steps; its last one is over all of its share.

        >>> [Training(steps=4, average=0.5).averaged_after(step) for step in range(1, 5)]
        [0, 0, 1, 2]
        """
        return max(0, step - self.steps + max(1, round(self.average * self.steps)))

    def evaluates_after(self, step: int) -> bool:
        """Whether the dev split is evaluated after so many steps: at every multiple, and at the end."""
        every = self.evaluate_every
        return every is not None and (step % every == 0 or step == self.steps)

    def to_transformers(self) -> dict[str, Any]:
        """Return the arguments of `transformers.TrainingArguments` that train alike, on one device.

        Raises:
            ValueError: for SGD.

        >>> Training(steps=120, learning_rate=2e-3).to_transformers()["warmup_steps"]
        12
        """
        if self.optimizer != "adamw":
            raise ValueError(f"optimizer={self.optimizer!r}: only 'adamw' is written for transformers.")
        at_once = min(self.micro_batch or self.batch_size, self.batch_size)
        parts = -(-self.batch_size // at_once)
        return {
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": round(self.warmup * self.steps),
            "max_steps": self.steps,
            "per_device_train_batch_size": at_once,
            **({"gradient_accumulation_steps": parts} if parts > 1 else {}),
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.clip or 0.0,  # 0 shortens no gradient; theirs is 1 by default
            "bf16": self.autocast,
            **({"gradient_checkpointing": True} if self.gradient_checkpointing else {}),
            "seed": self.seed,
        }

    def to_dict(self) -> dict:
        """Return plain values, for configuration hashes; newer settings only where they were changed."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {n: value for n, (value, default) in values.items() if n in _ALWAYS or value != default}


@dataclass
class _Log:
    """What a run has come to so far, in plain numbers: a checkpoint holds it beside the tensors."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    dev: list[dict[str, int | float]] = field(default_factory=list)
    passes: float = 0.0
    seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)

    def since_best(self, metric: str) -> int:
        """Return how many evaluations there were since the best one."""
        scores = [row[metric] for row in self.dev]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def train(
    problem: Problem,
    training: Training,
    *,
    start: Tensor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
    on_evaluate: Callable[[dict[str, int | float]], None] | None = None,
) -> TrainingResult:
    """Train δ and evaluate it on the test split; the backbone is θ₀ again afterwards.

    With a checkpoint SIGINT and SIGTERM take effect at the end of a step, once its state is kept.

    Called in all processes of a `torch.distributed` group, it shares every batch among them (data
    parallelism); the first one evaluates and writes the checkpoints, and all return the same δ.

    Args:
        problem: what to train.
        training: how.
        start: δ to start from; 0, the frozen backbone, by default.
        checkpoint: a file to write, and to go on from where it exists: on the CPU a run that was killed and
            started again ends in the same bits as one that was not.
        checkpoint_every: steps between checkpoints; SIGINT, SIGTERM and the end of the steps make one too.
        on_step: called with the step's number and loss, for progress bars.
        on_evaluate: called with the scores on the dev split.

    Raises:
        ValueError: for autocast on the CPU, or a checkpoint that is damaged or of another configuration.
    """
    device = problem.backbone.device
    training.check_device(device)
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every}: must be at least 1.")
    delta = (problem.delta.initial() if start is None else start.clone()).requires_grad_(False)
    optimizer, best, log = training.make_optimizer(delta), delta, _Log()
    average = torch.zeros_like(delta) if training.average else None
    saved = None
    if checkpoint is not None:
        saved = checkpoint_of(problem, training, checkpoint, start)
        if found := saved.load(asdict(log)):
            tensors, kept = found
            shapes = {name: tuple(x.shape) for name, x in tensors.items()}
            if not _is_whole(kept) or {"best": tuple(delta.shape), **shapes} != _shapes_of(training, delta):
                raise saved.damaged("what it holds does not fit together")
            log = _Log(**kept)
            delta.copy_(tensors.pop("delta"))
            best = tensors.pop("best", delta).to(delta)
            if average is not None:
                average.copy_(tensors.pop("average"))
            optimizer.load(tensors)
    before, began = problem.passes - log.passes, time.perf_counter() - log.seconds
    memory = _peak_memory(device, reset=True)
    order = islice(epochs(problem.train.lengths, training.batch_size, training.seed), log.step, None)

    def save() -> None:
        if saved is not None and parallel.is_first():
            log.passes, log.seconds = problem.passes - before, time.perf_counter() - began
            tensors = {"delta": delta, **optimizer.state()}
            if log.dev:
                tensors["best"] = best
            if average is not None:
                tensors["average"] = average
            saved.save(tensors, asdict(log))

    def stopped() -> bool:
        return training.patience is not None and log.since_best(problem.metric) >= training.patience

    test, answers, status, final = None, None, "finished", delta
    problem.autocast = training.autocast
    problem.gradient_checkpointing = training.gradient_checkpointing
    try:
        with held_back(when=saved is not None) as signals:
            while log.step < training.steps and not stopped():
                step_began = time.perf_counter()
                loss, accuracy, gradient = parallel.loss_and_gradient(
                    problem, delta, next(order), training.micro_batch
                )
                if training.clip is not None:
                    norm = torch.nn.utils.get_total_norm([gradient])
                    gradient *= (training.clip / (norm + 1e-6)).clamp(max=1.0)
                optimizer.step(gradient, training.rate(log.step))
                del gradient  # as long as δ, and not used again
                log.losses.append(loss)
                log.accuracies.append(accuracy)
                log.step_seconds.append(time.perf_counter() - step_began)
                if on_step:
                    on_step(log.step, loss)
                log.step += 1
                if average is not None and (count := training.averaged_after(log.step)):
                    average += (delta - average) / count
                if training.evaluates_after(log.step):
                    scores = parallel.from_first(partial(problem.evaluate, delta, problem.dev))
                    log.dev.append({"step": log.step, **scores})
                    if log.since_best(problem.metric) == 0:
                        best = delta.clone()
                    if on_evaluate:
                        on_evaluate(log.dev[-1])
                arrived = saved is not None and signals.arrived(device)
                if arrived or log.step % checkpoint_every == 0:
                    save()
                if arrived:
                    signals.let_go()
        save()
        final = best if log.dev else delta if average is None else average
        test, answers = parallel.from_first(partial(_tested, problem, final))
    except FloatingPointError as error:
        status = f"diverged: {error}"
    finally:
        problem.autocast = problem.gradient_checkpointing = False
        problem.restore()
    tail = max(1, training.steps // 10)
    peak = _peak_memory(device)
    return TrainingResult(
        delta=final,
        last=delta,
        train_loss=mean(log.losses[-tail:]) if test else None,
        train_accuracy=mean(log.accuracies[-tail:]) if test else None,
        test=test,
        answers=answers,
        movement=float(final.norm()),
        passes=problem.passes - before,
        seconds=time.perf_counter() - began,
        status=status,
        losses=log.losses,
        dev=log.dev,
        stopped_early=log.step < training.steps and stopped(),
        tuned_parameters=problem.delta.size,
        optimizer_state_bytes=optimizer.state_bytes,
        peak_memory=peak if memory is None or peak is None else peak - memory,
        seconds_per_step=median(log.step_seconds) if log.step_seconds else None,
        full=None,
        settings=settings_of(problem, training),
        provenance={**provenance(), "task": {"name": problem.task.name, **problem.task.provenance}},
        tuned=problem.delta,
        classifier=Classifier.of(problem, final) if isinstance(problem, ClassificationProblem) else None,
    )


def _tested(problem: Problem, delta: Tensor) -> tuple[dict[str, float], list[int] | None]:
    """Return the scores on the test split, and of a classification task what was answered there."""
    if not isinstance(problem, ClassificationProblem):
        return problem.evaluate(delta, problem.test), None
    logits = problem.predict(delta, problem.test)
    return problem.judged(logits, problem.test), logits.argmax(1).tolist()


def settings_of(problem: Problem, training: Training) -> dict[str, Any]:
    """Return what makes a run what it is, in plain values."""
    return {
        **problem.identity(),
        "training": training.to_dict(),
        "device": str(problem.backbone.device),
    }


def checkpoint_of(
    problem: Problem, training: Training, path: str | os.PathLike[str], start: Tensor | None = None
) -> Checkpoint:
    """Return the checkpoint of a run, which must agree in all but the device."""
    origin = None if start is None else hashlib.sha256(start.detach().cpu().numpy().tobytes()).hexdigest()
    configuration = {**problem.identity(), "training": training.to_dict(), "start_sha256": origin}
    changed = [f"training.{f.name}" for f in fields(training) if f.name not in _ALWAYS]
    return Checkpoint(path, configuration, ("delta.", "loss", *changed))


def _is_whole(log: dict[str, Any]) -> bool:
    """Return whether what a file has kept can be the log of a run that has begun."""
    losses, accuracies = log["losses"], log["accuracies"]
    try:
        sum([log["passes"], log["seconds"], *losses, *accuracies, *log["step_seconds"]])
        sum(sum(row.values()) for row in log["dev"])
        return log["step"] == len(losses) == len(accuracies) > 0
    except (TypeError, AttributeError):
        return False


def _shapes_of(training: Training, delta: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a checkpoint holds: δ, the best and the mean one, the optimizer's state."""
    probe = torch.zeros_like(delta[:1])
    optimizer = training.make_optimizer(probe)
    optimizer.step(torch.zeros_like(probe), rate=0.0)
    state = {name: tuple(delta.shape) if x.shape else () for name, x in optimizer.state().items()}
    kept = ("delta", "best", "average") if training.average else ("delta", "best")
    return {**dict.fromkeys(kept, tuple(delta.shape)), **state}


def _peak_memory(device: torch.device, reset: bool = False) -> int | None:
    """Return bytes: the most allocated since the last reset (CUDA), the process's high-water mark (CPU)."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
            return 0
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
