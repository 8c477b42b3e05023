"""Classification: the logits of a task's classes as a pure function of δ ∈ R^m."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.deltas import Delta, InPlaceDelta, WithHead
from deltatheory.problems.base import NOT_FINITE, Problem
from deltatheory.problems.heads import Head, make_head, unseen_logits
from deltatheory.problems.losses import Loss
from deltatheory.problems.tokens import batch_of, suffixed
from deltatheory.tasks import Examples, Task

__all__ = ["ClassificationProblem", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Examples with their lengths in tokens and their labels as a tensor."""

    examples: Examples
    lengths: np.ndarray
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.examples)

    def subset(self, indices: Sequence[int]) -> Split:
        """Return some of the examples, in the order given."""
        chosen = list(indices)
        return Split(self.examples.subset(chosen), self.lengths[chosen], self.labels[chosen])


class ClassificationProblem(Problem):
    """f(δ) = logits of a task under the backbone ψ(δ), its loss, and their derivatives.

    The self-check of the derivatives runs when a problem is built (`self_check`, about a second).

    Args:
        backbone: frozen and prepared.
        task: classification.
        delta: what is tuned.
        head: a key of `deltatheory.problems.heads.HEADS`, or a head made before (it must be made at θ₀).
        max_length: longer texts are cut here.
        loss: a key of `deltatheory.problems.losses.LOSSES`, or a loss.
        check: switch the self-check off where the same backbone and kind of delta have just passed it.

    Attributes:
        passes: forward-equivalents spent so far, in passes over single examples.

    Raises:
        ValueError: for a generation task, a max_length that the backbone does not take, or a delta with a
            trained head of another kind or form.
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
        loss: str | Loss = "cross-entropy",
        check: bool = True,
    ) -> None:
        if isinstance(head, str):
            head = make_head(head, backbone, task, max_length=min(max_length, backbone.max_length))
        self.head = head
        if isinstance(delta, WithHead):
            head.check(delta.head, delta.start)
        super().__init__(backbone, task, delta, max_length, loss)
        if check:
            self.check()

    def _split(self, examples: Examples) -> Split:
        rows, _ = suffixed(self.backbone, examples, self.max_length, self.head.suffix)
        lengths = np.array([len(row) for row in rows])
        return Split(examples, lengths, torch.tensor(examples.labels, device=self.backbone.device))

    def batch(self, split: Split, indices: Sequence[int]) -> tuple[Batch, Int[Tensor, " B"]]:
        """Return the encoded texts, with the head's suffix, and the labels of some examples."""
        part, labels = split.examples.subset(indices), split.labels[list(indices)]
        if not self.head.suffix:
            return self.head.reading(self.backbone.encode(part.texts, part.pairs, self.max_length)), labels
        return batch_of(
            self.backbone, *suffixed(self.backbone, part, self.max_length, self.head.suffix)
        ), labels

    def identity(self) -> dict:
        """Return what makes two problems the same; of a head its kind and suffix."""
        about = {"head": self.head.kind, "suffix": list(self.head.suffix)}
        return {**super().identity(), **about, **self.head.identity()}

    def outputs(
        self, delta: Float[Tensor, " m"] | None, batch: Batch, labels: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C"], Int[Tensor, " B"]]:
        """Return the logits and the labels."""
        return (self._logits(batch, Edit()) if delta is None else self.logits(delta, batch)), labels

    def _logits(self, batch: Batch, edit: Edit) -> Float[Tensor, "B C"]:
        with self._precision():
            return self.read(self.backbone.hidden_states(batch, edit), batch, edit)

    def read(
        self, hidden: Float[Tensor, "B T O"], batch: Batch, edit: Edit | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the logits of last hidden states.

        Args:
            hidden: of the batch's own tokens.
            batch: the texts that they belong to.
            edit: what the head does otherwise.
        """
        pooled = self.backbone.pool(hidden, batch, self.head.pooling)
        return self.head(pooled, edit).to(self.backbone.wide_dtype)

    # Pure functions of δ.

    def logits(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, "B C"]:
        """Return f(δ) on a batch; pure and differentiable in δ."""
        return self._logits(batch, self._edit(delta))

    def jvp(self, delta: Tensor, v: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (f(δ), J v); of a delta that writes in place without θ(δ) as a vector."""
        self.count(len(batch), tangent=1.0)
        in_place = self.delta if isinstance(self.delta, InPlaceDelta) else None
        if in_place is None:
            return autodiff.jvp(lambda x: self.logits(x, batch), delta.contiguous(), v)

        def logits(step: Tensor) -> Tensor:
            in_place.write_along(delta, v, step)
            return self._logits(batch, Edit())

        try:
            with torch.no_grad():
                return autodiff.jvp(logits, delta.new_zeros(()), delta.new_ones(()))
        finally:
            self.restore()

    def vjp(self, delta: Tensor, batch: Batch) -> tuple[Tensor, autodiff.Function]:
        """Return (f(δ), w ↦ Jᵀ w)."""
        self.count(len(batch), forward=1.0)
        return autodiff.vjp(lambda x: self.logits(x, batch), delta)

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
            len(split), self.task.num_classes, device=self.backbone.device, dtype=self.backbone.wide_dtype
        )
        for start in range(0, len(order), chunk):
            indices = order[start : start + chunk].tolist()
            batch, _ = self.batch(split, indices)
            outputs[indices] = self._logits(batch, edit)
        self.count(len(split), forward=1.0)
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
        self.count(len(found), forward=1.0)
        return torch.cat([found[:train].to(logits), logits[train:]])

    def evaluate(self, delta: Float[Tensor, " m"], split: Split) -> dict[str, float]:
        """Return accuracy and mean loss on a split, and the loss at the best scale of the logits there.

        Otherwise as `predict`.
        """
        return self.judged(self.predict(delta, split), split)

    def judged(self, logits: Float[Tensor, "n C"], split: Split) -> dict[str, float]:
        """Return what `evaluate` says of the logits of a split."""
        loss = self.loss_function
        accuracy = loss.right(logits, split.labels).double().mean()
        scale = loss.best_scale(logits, split.labels)
        return {
            "accuracy": float(accuracy),
            "loss": float(loss.mean(logits, split.labels)),
            "calibrated_loss": float(loss.mean(scale * logits, split.labels)),
        }
