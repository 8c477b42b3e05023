"""The one object: a frozen backbone, a task, a head and a delta as pure functions of δ ∈ R^m."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory import autodiff
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit, load_backbone
from deltatheory.deltas import Delta, InPlaceDelta, make_delta, split_size
from deltatheory.problems.heads import Head, make_head, unseen_logits
from deltatheory.problems.tokens import batch_of, token_rows
from deltatheory.tasks import Examples, Task, load_task
from deltatheory.tasks.task import digest

__all__ = ["BACKWARD", "FORWARD", "NOT_FINITE", "ClassificationProblem", "Problem", "Split", "load_problem"]

# Costs in forward-equivalents: passes over one example. A backward pass that also forms weight gradients
# takes about two forwards (measured: experiments/benchmarks/passes.py).
FORWARD = 1.0
BACKWARD = 2.0

NOT_FINITE = "lower the learning rate, or look for NaN in the weights"
_CHECKED = 4  # examples in the derivative self-check: enough to differ, few enough for a second


@dataclass(frozen=True, eq=False)
class Split:
    """Examples with their lengths in tokens and their labels as a tensor."""

    examples: Examples
    lengths: np.ndarray
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.examples)


class Problem(ABC):
    """A task under a backbone ψ(δ), as a trainer sees it: splits, batches, loss, gradient and scores.

    Attributes:
        metric: which of the scores of `evaluate` says how good a δ is; more is better.
        train, dev, test: the splits; dev is encoded when it is first asked for.
        passes: forward-equivalents spent so far, in passes over single examples.
        autocast: run the network, not δ ↦ θ, in bfloat16 where that is safe (CUDA only).
    """

    metric: ClassVar[str]

    def __init__(self, backbone: Backbone, task: Task, delta: Delta, max_length: int) -> None:
        self.backbone, self.task, self.delta = backbone, task, delta
        self.max_length = min(max_length, backbone.max_length)
        self.passes = 0.0
        self.autocast = False
        self.train = self._split(task.train)
        self.test = self._split(task.test)

    @cached_property
    def dev(self) -> Any:
        """The split that decides when to stop."""
        return self._split(self.task.dev)

    @abstractmethod
    def _split(self, examples: Examples) -> Any:
        """Return examples with what batches of them need."""

    @abstractmethod
    def batch(self, split: Any, indices: Sequence[int]) -> tuple[Batch, Int[Tensor, "*n"]]:
        """Return the encoded texts and the answers of some examples."""

    @abstractmethod
    def _answers(self, batch: Batch, labels: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits of all answers and the right ones; δ is `None` where it stands in the model."""

    @abstractmethod
    def evaluate(self, delta: Float[Tensor, " m"], split: Any) -> dict[str, float]:
        """Return the scores and the loss on a split."""

    def identity(self) -> dict:
        """Return what makes two problems the same function of δ, for configuration hashes."""
        splits = (self.task.train, self.task.dev, self.task.test)
        return {
            "backbone": self.backbone.provenance,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "delta": self.delta.specification(),
            "task": {"name": self.task.name, "kind": self.task.kind, "examples_sha256": digest(*splits)},
            "max_length": self.max_length,
        }

    def loss(self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy on a batch; pure and differentiable in δ."""
        return cross_entropy(*self._answers(batch, labels, delta))

    def check(self) -> autodiff.SelfCheck:
        """Run the derivative self-check at δ = 0 on the shortest examples, with the loss of unlikely answers.

        Raises:
            DerivativeError: if it fails.
        """
        shortest = np.argsort(self.train.lengths, kind="stable")[:_CHECKED]
        batch, labels = self.batch(self.train, shortest.tolist())

        def logits(x: Tensor) -> Tensor:
            return self._answers(batch, labels, x)[0]

        zero = self.delta.initial()
        with torch.no_grad():
            # A head that fits its examples leaves a loss so flat that its differences are rounding.
            least_likely = logits(zero).argmin(1)
        result = autodiff.self_check(logits, lambda x: cross_entropy(logits(x), least_likely), zero)
        autodiff.require(result)
        return result

    def loss_and_gradient(
        self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, "*n"]
    ) -> tuple[float, float, Float[Tensor, " m"]]:
        """Return the loss and the accuracy of the answers on a batch, and the loss's gradient in δ.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        self.passes += (FORWARD + BACKWARD) * len(batch)
        if isinstance(self.delta, InPlaceDelta):
            self.delta.write(delta)
            self.delta.clear()
            logits, right = self._answers(batch, labels, None)
            loss = cross_entropy(logits, right)
            loss.backward()
            gradient = self.delta.gradient(delta).clone()
        else:
            leaf = delta.detach().requires_grad_()
            logits, right = self._answers(batch, labels, leaf)
            loss = cross_entropy(logits, right)
            (gradient,) = torch.autograd.grad(loss, leaf)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss became {value}: {NOT_FINITE}")
        return value, float((logits.argmax(1) == right).double().mean()), gradient

    def restore(self) -> None:
        """Put θ₀ back into the model."""
        if isinstance(self.delta, InPlaceDelta):
            self.delta.restore()

    def _placed(self, delta: Tensor) -> Edit:
        """Write θ(δ) into the model where the delta can; return what else the forward pass must do."""
        if isinstance(self.delta, InPlaceDelta):
            self.delta.write(delta)
            return Edit()
        return self.delta.edit(delta)

    def _precision(self) -> AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if self.autocast else nullcontext()


class ClassificationProblem(Problem):
    """f(δ) = logits of a task under the backbone ψ(δ), its loss, and their derivatives.

    The self-check of the derivatives runs when a problem is built (`autodiff.self_check`, about a second).

    Args:
        backbone: frozen and prepared.
        task: classification.
        delta: what is tuned.
        head: a key of `deltatheory.problems.heads.HEADS`, or a head made before (it must be made at θ₀).
        max_length: longer texts are cut here.
        check: switch the self-check off where the same backbone and kind of delta have just passed it.

    Attributes:
        passes: forward-equivalents spent so far, in passes over single examples.

    Raises:
        ValueError: for a generation task, or a max_length that the backbone does not take.
        DerivativeError: if the derivatives are not right; the message has the remedy.
    """

    metric: ClassVar[str] = "accuracy"

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        delta: Delta,
        head: str | Head = "label-words",
        *,
        max_length: int = 64,
        check: bool = True,
    ) -> None:
        if isinstance(head, str):
            head = make_head(head, backbone, task, max_length=min(max_length, backbone.max_length))
        self.head = head
        super().__init__(backbone, task, delta, max_length)
        if check:
            self.check()

    def _split(self, examples: Examples) -> Split:
        rows = token_rows(self.backbone, examples, self._room)
        lengths = np.array([len(row) + len(self.head.suffix) for row in rows])
        return Split(examples, lengths, torch.tensor(examples.labels, device=self.backbone.device))

    @property
    def _room(self) -> int:
        """Tokens that the head's suffix leaves to the text."""
        room = self.max_length - len(self.head.suffix)
        if room < 1:
            raise ValueError(
                f"max_length={self.max_length}: must be above {len(self.head.suffix)}, the head's suffix."
            )
        return room

    def batch(self, split: Split, indices: Sequence[int]) -> tuple[Batch, Int[Tensor, " B"]]:
        """Return the encoded texts, with the head's suffix, and the labels of some examples."""
        part, labels = split.examples.subset(indices), split.labels[list(indices)]
        if not self.head.suffix:
            return self.backbone.encode(part.texts, part.pairs, self.max_length), labels
        rows = token_rows(self.backbone, part, self._room)
        return batch_of(self.backbone, [[*row, *self.head.suffix] for row in rows]), labels

    def identity(self) -> dict:
        """Return what makes two problems the same; of a head its kind and suffix."""
        return {**super().identity(), "head": self.head.kind, "suffix": list(self.head.suffix)}

    def _answers(self, batch: Batch, labels: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        return (self._outputs(batch, Edit()) if delta is None else self.logits(delta, batch)), labels

    def _outputs(self, batch: Batch, edit: Edit) -> Float[Tensor, "B C"]:
        with self._precision():
            return self.head(self.backbone.pooled(batch, edit), edit.parameters).to(self.backbone.dtype)

    # Pure functions of δ.

    def logits(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, "B C"]:
        """Return f(δ) on a batch; pure and differentiable in δ."""
        return self._outputs(batch, self.delta.edit(delta))

    def jvp(self, delta: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (f(δ), J v)."""
        self.passes += 3 * FORWARD * len(batch)  # forward mode carries the tangent of every activation
        return autodiff.jvp(lambda x: self.logits(x, batch), delta, v)

    def vjp(self, delta: Tensor, batch: Batch) -> tuple[Tensor, autodiff.Function]:
        """Return (f(δ), w ↦ Jᵀ w)."""
        self.passes += FORWARD * len(batch)
        return autodiff.vjp(lambda x: self.logits(x, batch), delta)

    def linearization_error(self, delta: Float[Tensor, " m"], indices: Sequence[int]) -> float:
        """Return ‖f(δ) - f(0) - J δ‖ / ‖J δ‖ over some training examples, J at δ = 0.

        Logits are taken less their mean over the classes, which cross-entropy does not see.
        """
        missed, linear = [], []
        for start in range(0, len(indices), 32):
            batch, _ = self.batch(self.train, indices[start : start + 32])
            before, moved = self.jvp(self.delta.initial(), delta, batch)
            with torch.no_grad():
                missed.append(self.logits(delta, batch) - before - moved)
            linear.append(moved)
        self.passes += FORWARD * len(indices)
        missed, linear = (x - x.mean(1, keepdim=True) for x in (torch.cat(missed), torch.cat(linear)))
        return float(missed.norm() / linear.norm().clamp(min=1e-12))

    # What a trainer needs.

    @torch.no_grad()
    def predict(self, delta: Float[Tensor, " m"], split: Split, chunk: int = 64) -> Float[Tensor, "n C"]:
        """Return the logits of a whole split, batched by length.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.

        Raises:
            FloatingPointError: if a logit is not finite.
        """
        edit = self._placed(delta)
        order = np.argsort(split.lengths, kind="stable")
        outputs = torch.empty(
            len(split), self.task.num_classes, device=self.backbone.device, dtype=self.backbone.dtype
        )
        for start in range(0, len(order), chunk):
            indices = order[start : start + chunk].tolist()
            batch, _ = self.batch(split, indices)
            outputs[indices] = self._outputs(batch, edit)
        self.passes += FORWARD * len(split)
        if not outputs.isfinite().all():
            raise FloatingPointError(f"the logits are not finite: {NOT_FINITE}")
        return outputs

    def unseen(self, logits: Float[Tensor, "n C"], train: int) -> Float[Tensor, "n C"]:
        """Return logits, those of training examples as of a head that has not seen them.

        Args:
            logits: of the first `train` training examples, then of others.
            train: how many there are.

        Returns:
            The same logits where the head is not fitted; else those of `heads.unseen_logits` at θ₀ first.
        """
        length = min(self.max_length, self.backbone.max_length)
        found = unseen_logits(self.head, self.backbone, self.task, length)
        if found is None:
            return logits
        self.passes += FORWARD * len(found)
        return torch.cat([found[:train].to(logits), logits[train:]])

    def evaluate(self, delta: Float[Tensor, " m"], split: Split) -> dict[str, float]:
        """Return accuracy and mean cross-entropy on a split; as `predict` otherwise."""
        logits = self.predict(delta, split)
        accuracy = (logits.argmax(1) == split.labels).double().mean()
        return {"accuracy": float(accuracy), "loss": float(cross_entropy(logits, split.labels))}


def load_problem(
    model: str | Backbone,
    task: str | Task,
    delta: str,
    options: Mapping[str, Any] | None = None,
    *,
    examples: int | None = None,
    test_examples: int | None = None,
    head: str = "label-words",
    max_length: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> ClassificationProblem:
    """Return the problem that a command line names.

    Args:
        model: a backbone, or what `load_backbone` takes.
        task: a classification task, or what `load_task` takes.
        delta: a key of `deltatheory.deltas.DELTAS`, with its size after a colon where it has one: "lora:4".
        options: further arguments of its class.
        examples: training examples, a stratified draw; all by default.
        test_examples: test examples; all by default.
        head: a key of `deltatheory.problems.heads.HEADS`.
        max_length: longer texts are cut here.
        seed: of the draws.
        device: "cpu" or "cuda".

    Raises:
        ValueError: for bad arguments.
    """
    name, size = split_size(delta)
    task = load_task(task) if isinstance(task, str) else task
    backbone = load_backbone(model, device=device) if isinstance(model, str) else model
    tuned = make_delta(name, backbone, **{**size, **(options or {})})
    return ClassificationProblem(
        backbone, task.limited(examples, test_examples, seed), tuned, head, max_length=max_length
    )


def epochs(lengths: np.ndarray, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices for ever: every epoch is a permutation, batched with texts of like length.

    Within groups of four batches the examples are sorted by length, which saves about a third of the padding
    and keeps the order of the groups random. What does not fill a batch is left out of that epoch.
    """
    rng = np.random.default_rng(seed)
    batch_size = min(batch_size, len(lengths))
    while True:
        order = rng.permutation(len(lengths))
        batches: list[list[int]] = []
        for start in range(0, len(order), 4 * batch_size):
            group = order[start : start + 4 * batch_size]
            group = group[: len(group) // batch_size * batch_size]
            group = group[np.argsort(lengths[group], kind="stable")]
            batches += group.reshape(-1, batch_size).tolist()
        for i in rng.permutation(len(batches)):
            yield batches[i]
