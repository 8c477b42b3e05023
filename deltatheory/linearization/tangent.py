"""The empirical tangent kernel K = J Jᵀ of a problem at δ = 0, exact or sketched.

J is the Jacobian of the logits in δ, one row an example and output. K is all that linearized training in a
random subspace can depend on (for a Gaussian P the rows of J P are distributed as K^½ G), and it is the
output-controllability Gramian of the frozen network with δ as its control.

Outputs are one of

- "logits": the differences z_c - z_0, c = 1 .. C-1; cross-entropy sees nothing else.
- "margin": m = z_y - log Σ_{c≠y} exp z_c, in which cross-entropy is softplus(-m) exactly: one backward pass
  an example for any number of classes. With more than two, linearizing m fixes the weights of the
  competitors, and the row of a held-out example then knows which class to raise above all of them together:
  held-out scores of margins are optimistic, those of the others are not.
- "contrast": v·z for one direction v drawn by lot, Σ v_c = 0 and |v|² = 2, the same for all examples: one
  backward pass, and no label. Its kernel stands for that of every difference of logits, as K ⊗ (I - 11ᵀ/C)/2
  for all logits: the sum of the logits serves so in the pseudo-kernel of Mohamadi, Bae and Sutherland (2023).

With two classes the three are the same, but for signs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from deltatheory._shapes import Bool, Float, Int
from deltatheory.backbones import Batch
from deltatheory.deltas import InPlaceDelta
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem
from deltatheory.projections import Projection, make_projection

Outputs = Literal["logits", "margin", "contrast"]

__all__ = ["TangentRows", "as_margins", "joint_tangent_rows", "tangent_rows"]


@dataclass(frozen=True, eq=False)
class TangentRows:
    """Rows of J (or of J S for a sketch S) over training and held-out examples, and where they start.

    Attributes:
        rows: shape (n, outputs, s), scaled so that rows · rowsᵀ is K, or an unbiased estimate of it.
        logits: shape (n, C): the logits f(0); (0, m) for margins.
        labels: shape (n,): the class, or 1 for margins.
        judging_offset: shape (n, C): what is added to the logits before an example is judged. With it they
            are those of a head fitted without the example where heads are fitted (`heads.unseen_logits`), so
            that held-out judgements are such. For margins (0, x): m then has the sign of z_y - max_{c≠y} z_c.
            For "logits" 0.
        train: the first `train` examples are training examples, the others are held out.
        size: m, the number of columns of J.
        sketch: S, or `None` where the rows are J itself.
        passes: forward-equivalents spent, in passes over single examples.
        seconds: time taken.
    """

    rows: Float[Tensor, "n outputs s"]
    logits: Float[Tensor, "n C"]
    labels: Int[Tensor, " n"]
    judging_offset: Float[Tensor, "n C"]
    train: int
    size: int
    sketch: Projection | None
    passes: float
    seconds: float

    def kernel(self) -> Float[Tensor, "no no"]:
        """Return K in float64, rows ordered by example, then output."""
        flat = self.rows.flatten(0, 1).double()
        return flat @ flat.T

    def spectrum(self) -> Float[Tensor, " no"]:
        """Return the eigenvalues of K over the training examples, largest first."""
        rows = self.rows[: self.train].flatten(0, 1).double()
        if len(rows) > rows.shape[1]:
            return torch.linalg.svdvals(rows).square()
        return torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0).flip(0)  # a fifth of the time

    def rank(self, tolerance: float = 1e-6) -> int:
        """Return how many eigenvalues over the training examples exceed `tolerance` times the largest."""
        values = self.spectrum()
        return int((values > tolerance * values[0]).sum())

    def solved(self, logits: Float[Tensor, "*s n C"]) -> Bool[Tensor, "*s n"]:
        """Return which examples the outputs of a linearized run solve."""
        return (logits + self.judging_offset).argmax(-1) == self.labels

    def restricted(self, d: int) -> tuple[Float[Tensor, "n outputs d"], Projection]:
        """Return J P_d and P_d, for the subspace of dimension d that the sketch contains (its own seed).

        Raises:
            ValueError: without a nested sketch, or for a d that does not divide the sketch's.
        """
        if self.sketch is None or not self.sketch.nested or d < 1 or self.sketch.d % d:
            raise ValueError(f"d={d}: must divide the dimension of a nested sketch; sketch={self.sketch!r}.")
        smaller = make_projection(self.sketch.name, d, self.size, seed=self.sketch.seed)
        unit = torch.eye(d).to(self.rows)
        lift = torch.stack([smaller.lift(row, self.sketch) for row in unit])
        scale = (self.sketch.d / self.size) ** 0.5  # undo what made the rows an estimate of K
        return (self.rows @ lift.T) * scale, smaller


def tangent_rows(
    problem: ClassificationProblem,
    *,
    train: int,
    test: int,
    outputs: Outputs = "logits",
    sketch: int = 4096,
    seed: int = 0,
    at: Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> TangentRows:
    """Compute J, row by row in reverse mode, over the first examples of the train and test splits.

    Each example costs one forward pass and, for each of its outputs, one backward pass. Rows longer than
    `sketch` are projected as they come, so that memory is n (C-1) · sketch numbers beside O(m).

    Args:
        problem: whose delta is tuned; `FullFineTuning` for the kernel of all parameters.
        train: number of training examples.
        test: number of held-out examples.
        outputs: "logits" (C-1 rows an example), "margin" or "contrast" (one).
        sketch: longest row to keep.
        seed: of the sketch.
        at: the δ to differentiate at; δ = 0, the frozen backbone, by default.
        on_example: called with (done, total), for progress bars.

    Raises:
        ValueError: for more examples than there are, or fewer than 2 training examples.
    """
    return joint_tangent_rows(
        problem,
        [problem.delta.size],
        train=train,
        test=test,
        outputs=outputs,
        sketch=sketch,
        seed=seed,
        at=at,
        on_example=on_example,
    )[0]


def joint_tangent_rows(
    problem: ClassificationProblem,
    sizes: Sequence[int],
    *,
    train: int,
    test: int,
    outputs: Outputs = "logits",
    sketch: int = 4096,
    seed: int = 0,
    at: Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> list[TangentRows]:
    """Compute the features of consecutive parts of δ, for all of them in the same passes.

    Where δ = (δ_1, ..., δ_k) joins several deltas, J = (J_1 ... J_k) at δ = 0, so one backward pass serves
    all of their kernels. Every part reports the cost of the whole.

    Args:
        problem: whose delta is tuned.
        sizes: length of each part.
        train: as the other arguments, see `tangent_rows`.
        test: number of held-out examples.
        outputs: "logits", "margin" or "contrast".
        sketch: longest row to keep of each part.
        seed: of the sketches.
        at: the δ to differentiate at.
        on_example: called with (done, total).

    Raises:
        ValueError: for sizes that do not add up to the delta's, and as `tangent_rows`.
    """
    if sum(sizes) != problem.delta.size or min(sizes, default=0) < 1:
        raise ValueError(f"sizes={list(sizes)}: must be at least 1 and add up to {problem.delta.size}.")
    for name, value, least, most in (
        ("train", train, 2, len(problem.train)),
        ("test", test, 0, len(problem.test)),
        ("sketch", sketch, 1, None),
    ):
        if value < least or (most is not None and value > most):
            limit = "" if most is None else f" and at most {most}, the examples there are"
            raise ValueError(f"{name}={value}: must be at least {least}{limit}.")
    began = time.perf_counter()
    total, width_out = train + test, problem.task.num_classes - 1 if outputs == "logits" else 1
    projections = [
        make_projection("hashed", sketch, size, seed=seed) if size > sketch else None for size in sizes
    ]
    blank = torch.empty(0, device=problem.backbone.device, dtype=problem.backbone.dtype)
    rows = [blank.new_empty(total, width_out, min(size, sketch)) for size in sizes]
    start = blank.new_empty(total, problem.task.num_classes)
    labels = torch.cat([problem.train.labels[:train], problem.test.labels[:test]])
    of_logits = differences if outputs == "logits" else random_contrast(problem.task.num_classes, seed)
    origin = problem.delta.initial() if at is None else at
    if isinstance(problem.delta, InPlaceDelta):
        problem.delta.write(origin)
    try:
        for i in range(total):
            split, index = (problem.train, i) if i < train else (problem.test, i - train)
            wanted = partial(margin, label=int(labels[i])) if outputs == "margin" else of_logits
            batch, _ = problem.batch(split, [index])
            for c, (start[i], row) in enumerate(_rows(problem, origin, batch, wanted)):
                for out, part, projection in zip(rows, row.split(list(sizes)), projections, strict=True):
                    out[i, c] = projection.adjoint(part.contiguous()) if projection else part
            if on_example:
                on_example(i + 1, total)
    finally:
        problem.restore()
    for size, out, projection in zip(sizes, rows, projections, strict=True):
        if projection:
            out *= (size / out.shape[-1]) ** 0.5  # E[S Sᵀ] = (s/m) I for S with orthonormal columns
    before, judging_offset = problem.passes, torch.zeros_like(start)
    problem.passes += total * (FORWARD + width_out * BACKWARD)
    if outputs == "margin":
        start, judging_offset = as_margins(start, labels, problem.unseen(start, train))
        labels = torch.ones_like(labels)
    elif outputs == "contrast":
        judging_offset = problem.unseen(start, train) - start
    passes = problem.passes - before
    seconds = time.perf_counter() - began
    return [
        TangentRows(out, start, labels, judging_offset, train, size, projection, passes, seconds)
        for size, out, projection in zip(sizes, rows, projections, strict=True)
    ]


def as_margins(
    logits: Float[Tensor, "n C"], labels: Int[Tensor, " n"], judged: Float[Tensor, "n C"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Return the logits (0, m) of margins, and the slack (0, x) by which m may fall short of 0 where solved.

    Args:
        logits: whose margins are taken.
        labels: y.
        judged: the logits that decide what is solved, `ClassificationProblem.unseen(logits, ...)`.
    """
    margins = torch.stack([margin(z, int(y)) for z, y in zip(logits, labels, strict=True)])
    others = judged.scatter(1, labels[:, None], float("-inf")).amax(1)
    judging_offset = judged.gather(1, labels[:, None])[:, 0] - others - margins
    zero = torch.zeros_like(margins)
    return torch.stack([zero, margins], 1), torch.stack([zero, judging_offset], 1)


def margin(logits: Float[Tensor, " C"], label: int) -> Float[Tensor, ""]:
    """Return m = z_y - log Σ_{c≠y} exp z_c; the cross-entropy is softplus(-m)."""
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return logits[label] - others.logsumexp(0)


def differences(logits: Float[Tensor, " C"]) -> Float[Tensor, " C-1"]:
    """Return z_c - z_0 for c = 1 .. C-1."""
    return logits[1:] - logits[0]


def random_contrast(classes: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Return z ↦ v·z for a direction by lot with Σ v_c = 0 and |v|² = 2, the length of a difference."""
    v = torch.randn(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v -= v.mean()
    v *= 2**0.5 / v.norm()
    return lambda logits: logits @ v.to(logits)


def _rows(
    problem: ClassificationProblem, origin: Tensor, batch: Batch, of_logits: Callable[[Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one example's logits and a row of J for each of its outputs."""
    in_place = problem.delta if isinstance(problem.delta, InPlaceDelta) else None
    leaf = origin
    if in_place:
        logits = problem.head(problem.backbone.pooled(batch))[0]
    else:
        leaf = origin.clone().requires_grad_()
        logits = problem.logits(leaf, batch)[0]
    values = of_logits(logits).reshape(-1)
    for i, value in enumerate(values):
        keep = i < len(values) - 1
        if in_place:
            in_place.clear()
            value.backward(retain_graph=keep)
            row = in_place.gradient(origin)
        else:
            (row,) = torch.autograd.grad(value, leaf, retain_graph=keep)
        yield logits.detach(), row
