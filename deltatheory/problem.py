"""The one object: a frozen backbone, a task, a head and a delta as pure functions of δ ∈ R^m."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory import autodiff
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch
from deltatheory.deltas import Delta, InPlaceDelta
from deltatheory.heads import Head, make_head
from deltatheory.tasks import Examples, Task

__all__ = ["BACKWARD", "FORWARD", "Problem", "Split"]

# Costs in forward-equivalents: passes over one example. A backward pass that also forms weight gradients
# takes about two forwards (measured: experiments/benchmarks/passes.py).
FORWARD = 1.0
BACKWARD = 2.0

_NOT_FINITE = "lower the learning rate, or look for NaN in the weights"
_CHECKED = 4  # examples in the derivative self-check: enough to differ, few enough for a second


@dataclass(frozen=True, eq=False)
class Split:
    """Examples with their lengths in tokens and their labels as a tensor."""

    examples: Examples
    lengths: np.ndarray
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.examples)


class Problem:
    """f(δ) = logits of a task under the backbone ψ(δ), its loss, and their derivatives.

    The self-check of the derivatives runs when a problem is built (`autodiff.self_check`, about a second).

    Args:
        backbone: frozen and prepared.
        task: classification.
        delta: what is tuned.
        head: a key of `deltatheory.heads.HEADS`, or a head made before (it must be made at θ₀).
        max_length: longer texts are cut here.
        check: switch the self-check off where the same backbone and kind of delta have just passed it.

    Attributes:
        passes: forward-equivalents spent so far, in passes over single examples.

    Raises:
        ValueError: for a generation task, or a max_length that the backbone does not take.
        DerivativeError: if the derivatives are not right; the message has the remedy.
    """

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
        self.backbone, self.task, self.delta = backbone, task, delta
        self.max_length = min(max_length, backbone.max_length)
        if isinstance(head, str):
            head = make_head(head, backbone, task, max_length=self.max_length)
        self.head = head
        self.train = self._split(task.train)
        self.test = self._split(task.test)
        self.passes = 0.0
        if check:
            self.check()

    def _split(self, examples: Examples) -> Split:
        batches = self.backbone.tokenizer(
            list(examples.texts),
            None if examples.pairs is None else list(examples.pairs),
            truncation=True,
            max_length=self.max_length,
        )
        lengths = np.array([len(ids) for ids in batches["input_ids"]])
        return Split(examples, lengths, torch.tensor(examples.labels, device=self.backbone.device))

    def batch(self, split: Split, indices: Sequence[int]) -> tuple[Batch, Int[Tensor, " B"]]:
        """Return the encoded texts and the labels of some examples."""
        part = split.examples.subset(indices)
        return self.backbone.encode(part.texts, part.pairs, self.max_length), split.labels[list(indices)]

    # Pure functions of δ.

    def logits(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, "B C"]:
        """Return f(δ) on a batch; pure and differentiable in δ."""
        return self.head(self.backbone.pooled(batch, self.delta.edit(delta)))

    def loss(self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """Return the mean cross-entropy on a batch; pure and differentiable in δ."""
        return cross_entropy(self.logits(delta, batch), labels)

    def jvp(self, delta: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (f(δ), J v)."""
        self.passes += 3 * FORWARD * len(batch)  # forward mode carries the tangent of every activation
        return autodiff.jvp(lambda x: self.logits(x, batch), delta, v)

    def vjp(self, delta: Tensor, batch: Batch) -> tuple[Tensor, autodiff.Function]:
        """Return (f(δ), w ↦ Jᵀ w)."""
        self.passes += FORWARD * len(batch)
        return autodiff.vjp(lambda x: self.logits(x, batch), delta)

    def check(self) -> autodiff.SelfCheck:
        """Run the derivative self-check at δ = 0 on the shortest examples.

        Raises:
            DerivativeError: if it fails.
        """
        shortest = np.argsort(self.train.lengths, kind="stable")[:_CHECKED]
        batch, labels = self.batch(self.train, shortest.tolist())
        result = autodiff.self_check(
            lambda x: self.logits(x, batch), lambda x: self.loss(x, batch, labels), self.delta.initial()
        )
        autodiff.require(result)
        return result

    # What a trainer needs.

    def loss_and_gradient(
        self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, " B"]
    ) -> tuple[float, float, Float[Tensor, " m"]]:
        """Return the loss and the accuracy on a batch, and the loss's gradient in δ.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        self.passes += (FORWARD + BACKWARD) * len(batch)
        if isinstance(self.delta, InPlaceDelta):
            self.delta.write(delta)
            self.delta.clear()
            logits = self.head(self.backbone.pooled(batch))
            loss = cross_entropy(logits, labels)
            loss.backward()
            gradient = self.delta.gradient(delta)
        else:
            leaf = delta.detach().requires_grad_()
            logits = self.logits(leaf, batch)
            loss = cross_entropy(logits, labels)
            (gradient,) = torch.autograd.grad(loss, leaf)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss became {value}: {_NOT_FINITE}")
        return value, float((logits.argmax(1) == labels).double().mean()), gradient

    @torch.no_grad()
    def predict(self, delta: Float[Tensor, " m"], split: Split, chunk: int = 64) -> Float[Tensor, "n C"]:
        """Return the logits of a whole split, batched by length.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.

        Raises:
            FloatingPointError: if a logit is not finite.
        """
        edit = None
        if isinstance(self.delta, InPlaceDelta):
            self.delta.write(delta)
        else:
            edit = self.delta.edit(delta)
        order = np.argsort(split.lengths, kind="stable")
        outputs = torch.empty(
            len(split), self.task.num_classes, device=self.backbone.device, dtype=self.backbone.dtype
        )
        for start in range(0, len(order), chunk):
            indices = order[start : start + chunk].tolist()
            batch, _ = self.batch(split, indices)
            outputs[indices] = self.head(self.backbone.pooled(batch, edit))
        self.passes += FORWARD * len(split)
        if not outputs.isfinite().all():
            raise FloatingPointError(f"the logits are not finite: {_NOT_FINITE}")
        return outputs

    def evaluate(self, delta: Float[Tensor, " m"], split: Split) -> dict[str, float]:
        """Return accuracy and mean cross-entropy on a split; as `predict` otherwise."""
        logits = self.predict(delta, split)
        accuracy = (logits.argmax(1) == split.labels).double().mean()
        return {"accuracy": float(accuracy), "loss": float(cross_entropy(logits, split.labels))}

    def restore(self) -> None:
        """Put θ₀ back into the model."""
        if isinstance(self.delta, InPlaceDelta):
            self.delta.restore()


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
