"""What a trainer sees of a problem: splits, batches, outputs, a loss with its gradient, scores, and costs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory._memory import give_back
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.deltas import Delta, InPlaceDelta
from deltatheory.deltas.selected import Selected
from deltatheory.problems.losses import Loss, make_loss
from deltatheory.self_check import SelfCheck, require, self_check
from deltatheory.tasks import Examples, Task
from deltatheory.tasks.task import digest

__all__ = ["BACKWARD", "FORWARD", "NOT_FINITE", "Problem", "SumWithGradient", "epochs", "like_lengths"]

# Costs in forward-equivalents: passes over one example. A backward pass that also forms weight gradients
# takes about two forwards (measured: experiments/benchmarks/passes.py); forward mode
# carries the tangent of every activation.
FORWARD = 1.0
BACKWARD = 2.0
TANGENT = 3.0

NOT_FINITE = "lower the learning rate, or look for NaN in the weights"
_PASS = 64  # tokens that cost as much as a pass forward and backward does beside them, on a CPU
_FEW = 2  # texts whose activations are in memory beside a δ and a gradient as long as θ
_CHECKED = 4  # examples in the derivative self-check: enough to differ, few enough for a second


@dataclass(frozen=True, eq=False)
class SumWithGradient:
    """A sum over answers, and its gradient in δ.

    Attributes:
        value: the sum.
        right: how many answers are right.
        answers: how many there are.
        gradient: shape (m,).
    """

    value: float
    right: int
    answers: int
    gradient: Float[Tensor, " m"]


class Problem(ABC):
    """A task under a backbone ψ(δ), as a trainer sees it: splits, batches, loss, gradient and scores.

    Args:
        backbone: frozen and prepared.
        task: what is to be answered.
        delta: what is tuned.
        max_length: longer texts are cut here.
        loss: a key of `deltatheory.problems.losses.LOSSES`, or a loss.

    Attributes:
        metric: which of the scores of `evaluate` says how good a δ is; more is better.
        train, dev, test: the splits; dev is encoded when it is first asked for.
        loss_function: ℓ.
        seed: of the setup that the problem was made by.
        passes: forward-equivalents spent so far, in passes over single examples.
        autocast: run the network, not δ ↦ θ, in bfloat16 where that is safe (CUDA only).
        gradient_checkpointing: where a gradient is taken, let the blocks keep their inputs alone, and run
            again in the backward pass.
    """

    metric: ClassVar[str]

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        delta: Delta,
        max_length: int,
        loss: str | Loss = "cross-entropy",
    ) -> None:
        self.backbone, self.task, self.delta = backbone, task, delta
        self.max_length = min(max_length, backbone.max_length)
        self.loss_function = make_loss(loss)
        self.seed = 0
        self.passes = 0.0
        self.autocast = self.gradient_checkpointing = False
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
    def outputs(
        self, delta: Float[Tensor, " m"] | None, batch: Batch, labels: Tensor
    ) -> tuple[Float[Tensor, "n C"], Int[Tensor, " n"]]:
        """Return the outputs for all answers of a batch and the right ones; differentiable in δ.

        Args:
            delta: δ, or `None` where it stands in the model.
            batch: as `batch` returns it.
            labels: with it.
        """

    @abstractmethod
    def evaluate(self, delta: Float[Tensor, " m"], split: Any) -> dict[str, float]:
        """Return the scores and the loss on a split."""

    def identity(self) -> dict:
        """Return what makes two problems the same function of δ, for configuration hashes."""
        splits = (self.task.train, self.task.dev, self.task.test)
        loss = self.loss_function.name
        return {
            "backbone": self.backbone.provenance,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "delta": self.delta.specification(),
            "task": {"name": self.task.name, "kind": self.task.kind, "examples_sha256": digest(*splits)},
            "max_length": self.max_length,
            **({} if loss == "cross-entropy" else {"loss": loss}),  # as in folders of older versions
        }

    def with_delta(self, delta: Delta, task: Task | None = None) -> Problem:
        """Return the same problem with another delta, with passes of its own.

        Args:
            delta: on the same backbone.
            task: with other examples of the same task; the same ones by default.
        """
        other = copy(self)
        other.delta, other.passes = delta, 0.0
        if task is not None:
            other.task, other.train, other.test = task, self._split(task.train), self._split(task.test)
            vars(other).pop("dev", None)
        return other

    def count(
        self, examples: int | float, forward: float = 0.0, backward: float = 0.0, tangent: float = 0.0
    ) -> None:
        """Add to `passes` what was computed on so many examples.

        Args:
            examples: how many.
            forward: forward passes over each.
            backward: backward passes with weight gradients; one that differentiates activations only is half
                of one.
            tangent: passes in forward mode, the value included.
        """
        self.passes += examples * (forward * FORWARD + backward * BACKWARD + tangent * TANGENT)

    def loss(self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, "*n"]) -> Float[Tensor, ""]:
        """Return the mean loss on a batch; pure and differentiable in δ."""
        return self.loss_function.mean(*self.outputs(delta, batch, labels))

    def check(self) -> SelfCheck:
        """Run the derivative self-check at δ = 0 on the shortest examples, with the loss of unlikely answers.

        For a delta that writes in place, whose tangents may be as long as θ, those of the blocks' vectors
        (norms and biases) stand in.

        Raises:
            DerivativeError: if it fails.
        """
        if isinstance(self.delta, InPlaceDelta):
            named, block_of = self.backbone.model.named_parameters(), self.backbone.block_of
            vectors = [name for name, p in named if p.ndim == 1 and block_of(name) is not None]
            return self.with_delta(Selected(self.backbone, vectors)).check()
        shortest = np.argsort(self.train.lengths, kind="stable")[:_CHECKED]
        batch, labels = self.batch(self.train, shortest.tolist())

        def outputs(x: Tensor) -> Tensor:
            return self.outputs(x, batch, labels)[0]

        zero = self.delta.initial()
        with torch.no_grad():
            # A head that fits its examples leaves a loss so flat that its differences are rounding.
            least_likely = outputs(zero).argmin(1)
        loss = self.loss_function
        result = self_check(
            outputs, lambda x: loss.mean(outputs(x), least_likely), zero, dtype=self.backbone.dtype
        )
        give_back()  # forward mode has filled about as much as all weights take, in pieces
        require(result)
        return result

    def sum_with_gradient(
        self,
        delta: Float[Tensor, " m"],
        batches: Iterable[tuple[Batch, Tensor]],
        summand: Callable[[Tensor, Tensor], Float[Tensor, ""]] | None = None,
        *,
        backward: float = 1.0,
    ) -> SumWithGradient:
        """Return Σ over batches of a function of outputs and answers, by default the loss, and its gradient.

        This is where backward passes through the network are taken and counted. A delta that writes in place
        leaves θ(δ) in the model: call `restore` at the end.

        Args:
            delta: δ.
            batches: as `batch` returns them.
            summand: (outputs, answers) ↦ the part of the sum that a batch adds; the total loss by default.
            backward: what a backward pass counts, in those with weight gradients.
        """
        part_of = summand or self.loss_function.total
        in_place = self.delta if isinstance(self.delta, InPlaceDelta) else None
        if in_place:  # a gradient may be as long as θ: no second one beside it
            in_place.write(delta)
            in_place.clear()
            leaf, total = None, delta.new_zeros(0)
        else:
            leaf, total = delta.detach().clone().requires_grad_(), torch.zeros_like(delta)
        value, right, answers = 0.0, 0, 0
        forward = 2.0 if self.gradient_checkpointing else 1.0
        for batch, labels in batches:
            with self._recomputing():
                outputs, wanted = self.outputs(leaf, batch, labels)
            part = part_of(outputs, wanted)
            if leaf is None:
                part.backward()
            else:
                total += torch.autograd.grad(part, leaf)[0]
            self.count(len(batch), forward=forward, backward=backward)
            value += float(part.detach())
            right += int(self.loss_function.right(outputs, wanted).sum())
            answers += len(wanted)
        return SumWithGradient(value, right, answers, in_place.gradient(delta) if in_place else total)

    def loss_and_gradient(
        self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, "*n"]
    ) -> tuple[float, float, Float[Tensor, " m"]]:
        """Return the loss and the accuracy of the answers on a batch, and the loss's gradient in δ.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        found = self.mean_with_gradient(delta, [(batch, labels)])
        return found.value, found.right / found.answers, found.gradient

    def mean_with_gradient(
        self, delta: Float[Tensor, " m"], batches: Sequence[tuple[Batch, Tensor]]
    ) -> SumWithGradient:
        """Return the mean loss over the answers of several batches, and its gradient in δ.

        Of several batches only the activations of one are in memory.

        Args:
            delta: δ.
            batches: as `batch` returns them, at least one.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        whole = len(batches) == 1  # in the order of addition of a single pass
        found = self.sum_with_gradient(delta, batches, self.loss_function.mean if whole else None)
        if not whole:
            mean = found.gradient.div_(found.answers)
            found = replace(found, value=found.value / found.answers, gradient=mean)
        if not math.isfinite(found.value):
            raise FloatingPointError(f"the loss became {found.value}: {NOT_FINITE}")
        return found

    @torch.no_grad()
    def loss_at(self, delta: Float[Tensor, " m"], batch: Batch, labels: Int[Tensor, "*n"]) -> float:
        """Return the mean loss on a batch as a number, from one forward pass.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.
        """
        in_place = isinstance(self.delta, InPlaceDelta)
        self._placed(delta)
        outputs, wanted = self.outputs(None if in_place else delta, batch, labels)
        self.count(len(batch), forward=1.0)
        return float(self.loss_function.mean(outputs, wanted))

    @torch.no_grad()
    def features(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, "n O"]:
        """Return the last hidden states of a batch's own tokens, or its decoder's, without padding.

        A delta that writes in place leaves θ(δ) in the model: call `restore` at the end.
        """
        with self._precision():
            hidden = self.backbone.hidden_states(batch, self._placed(delta))
        self.count(len(batch), forward=1.0)
        return hidden[batch.final.mask.bool()].to(self.backbone.wide_dtype)

    def restore(self) -> None:
        """Put θ₀ back into the model."""
        if isinstance(self.delta, InPlaceDelta):
            self.delta.restore()
            give_back()  # activations, in pieces, of what comes in vectors as long as θ

    def texts_at_once(self, most: int) -> int:
        """Return how many texts pass at once: where δ and a gradient may be as long as θ, few have room."""
        return min(most, _FEW) if isinstance(self.delta, InPlaceDelta) else most

    def _placed(self, delta: Tensor) -> Edit:
        """Write θ(δ) into the model where the delta can; return what else the forward pass must do."""
        if isinstance(self.delta, InPlaceDelta):
            self.delta.write(delta)
            return Edit()
        return self._edit(delta)

    def _edit(self, delta: Tensor) -> Edit:
        """Return the edit at δ, which is not finer than what the network computes with."""
        wide = self.backbone.wide_dtype
        if torch.promote_types(delta.dtype, wide) != wide:
            raise ValueError(
                f"delta.dtype={delta.dtype}: with weights in {self.backbone.dtype} δ is {wide}; load them in "
                "'float64' for more."
            )
        edit = self.delta.edit(delta)
        return edit if len(self.backbone.devices) == 1 else edit.at(delta.device)

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        self.backbone.gradient_checkpointing = self.gradient_checkpointing
        try:
            yield
        finally:
            self.backbone.gradient_checkpointing = False

    def _precision(self) -> AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if self.autocast else nullcontext()


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


def like_lengths(lengths: np.ndarray) -> list[list[int]]:
    """Return the texts of a batch in passes of like length, such that padding and passes cost least.

    A pass counts as much as 64 tokens: batches that are small, or even, stay whole. Of texts of a sentence or
    two a batch holds as much padding again.

    Args:
        lengths: of the texts, in tokens.

    >>> like_lengths(np.array([9, 60, 8, 8, 7, 9, 8, 9]))
    [[0, 2, 3, 4, 5, 6, 7], [1]]
    >>> like_lengths(np.array([9, 12, 8]))
    [[0, 1, 2]]
    """
    order = np.argsort(lengths, kind="stable")
    longest = lengths[order]
    # least[n]: cost of the n shortest texts, the last of whose passes begins at first[n]
    least, first = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=int)
    for n in range(1, len(order) + 1):
        costs = least[:n] + _PASS + longest[n - 1] * np.arange(n, 0, -1)
        first[n] = costs.argmin()
        least[n] = costs[first[n]]
    passes: list[list[int]] = []
    stop = len(order)
    while stop:
        passes.append(sorted(order[first[stop] : stop].tolist()))
        stop = first[stop]
    return passes[::-1]
