"""The empirical tangent kernel K = J Jᵀ of a problem at δ = 0, exact or sketched.

J is the Jacobian of the logits in δ, one row an example and output (`outputs.py`). K is all that linearized
training in a random subspace can depend on (for a Gaussian P the rows of J P are distributed as K^½ G), and
it is the output-controllability Gramian of the frozen network with δ as its control.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.deltas import InPlaceDelta
from deltatheory.linearization.full_rows import FullRows
from deltatheory.linearization.outputs import LinearizationStart, Outputs, output_map
from deltatheory.problems import ClassificationProblem, Split
from deltatheory.projections import Projection, make_projection

__all__ = ["TangentRows", "check_counts", "joint_tangent_rows", "start_of", "tangent_rows"]


@dataclass(frozen=True, eq=False)
class TangentRows:
    """Rows of J (or of J S for a sketch S) over training and held-out examples, and where they start.

    Attributes:
        rows: shape (n, outputs, s), scaled so that rows · rowsᵀ is K, or an unbiased estimate of it.
        start: the logits at δ = 0, the labels, and what judges an example.
        train: the first `train` examples are training examples, the others are held out.
        size: m, the number of columns of J.
        sketch: S, or `None` where the rows are J itself.
        passes: forward-equivalents spent, in passes over single examples.
        seconds: time taken.
    """

    rows: Float[Tensor, "n outputs s"]
    start: LinearizationStart
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
    check_counts(problem, train=train, test=test, sketch=sketch)
    of_logits, count = output_map(outputs, problem.loss_function, problem.task.num_classes, seed)
    began, before = time.perf_counter(), problem.passes
    projections = [
        make_projection("hashed", sketch, size, seed=seed) if size > sketch else None for size in sizes
    ]
    origin = problem.delta.zero() if at is None else at
    labels = torch.cat([problem.train.labels[:train], problem.test.labels[:test]])
    logits = origin.new_empty(train + test, problem.task.num_classes)
    rows = [origin.new_empty(train + test, count, min(size, sketch)) for size in sizes]
    if at is None and FullRows.serves(problem):
        rows_of = FullRows(problem, of_logits, count).of
    else:
        rows_of = partial(_one_by_one, problem, origin, of_logits)
    try:
        done = 0
        for split, examples, first in ((problem.train, train, 0), (problem.test, test, train)):
            for i, logits[first + i], found in rows_of(split, examples):
                for c, row in enumerate(found):
                    for out, part, projection in zip(rows, row.split(list(sizes)), projections, strict=True):
                        out[first + i, c] = projection.adjoint(part.contiguous()) if projection else part
                done += 1
                if on_example:
                    on_example(done, len(labels))
    finally:
        problem.restore()
    for size, out, projection in zip(sizes, rows, projections, strict=True):
        if projection:
            out *= (size / out.shape[-1]) ** 0.5  # E[S Sᵀ] = (s/m) I for S with orthonormal columns
    problem.count(len(labels), forward=1.0, backward=float(count))
    start = start_of(problem, logits, labels, train, outputs)
    passes, seconds = problem.passes - before, time.perf_counter() - began
    return [
        TangentRows(out, start, train, size, projection, passes, seconds)
        for size, out, projection in zip(sizes, rows, projections, strict=True)
    ]


def check_counts(problem: ClassificationProblem, **counts: int) -> None:
    """Refuse more examples than there are, and too few.

    Raises:
        ValueError: for one of `train`, `test` and `sketch` outside its limits.
    """
    limits = {"train": (2, len(problem.train)), "test": (0, len(problem.test)), "sketch": (1, None)}
    for name, value in counts.items():
        least, most = limits[name]
        check_number(name, value, whole=True)
        if value < least or (most is not None and value > most):
            limit = "" if most is None else f" and at most {most}, the examples there are"
            raise ValueError(f"{name}={value}: must be at least {least}{limit}.")


def start_of(
    problem: ClassificationProblem, logits: Tensor, labels: Tensor, train: int, outputs: Outputs
) -> LinearizationStart:
    """Return where the linearized network starts, from the logits of the first `train` and other examples."""
    loss = problem.loss_function
    if outputs == "logits":
        return LinearizationStart(logits, labels, torch.zeros_like(logits), loss)
    judged = problem.unseen(logits, train)
    if outputs == "margin":
        return LinearizationStart.of_margins(logits, labels, judged, loss)
    return LinearizationStart(logits, labels, judged - logits, loss)


def _one_by_one(
    problem: ClassificationProblem,
    origin: Tensor,
    of_logits: Callable[[Tensor, Tensor], Tensor],
    split: Split,
    count: int,
) -> Iterator[tuple[int, Tensor, Iterator[Tensor]]]:
    """Yield the number of each of the first texts, its logits and a row of J for each of its outputs."""
    in_place = problem.delta if isinstance(problem.delta, InPlaceDelta) else None
    if in_place:
        in_place.write(origin)
    for i in range(count):
        batch, labels = problem.batch(split, [i])
        leaf = origin
        if in_place:
            logits = problem.read(problem.backbone.hidden_states(batch), batch)[0]
        else:
            leaf = origin.clone().requires_grad_()
            logits = problem.logits(leaf, batch)[0]
        yield i, logits.detach(), _backward(of_logits(logits, labels[0]).reshape(-1), leaf, in_place)


def _backward(values: Tensor, leaf: Tensor, in_place: InPlaceDelta | None) -> Iterator[Tensor]:
    """Yield the gradient of each of an example's outputs."""
    for i, value in enumerate(values):
        keep = i < len(values) - 1
        if in_place:
            in_place.clear()
            value.backward(retain_graph=keep)
            yield in_place.gradient(leaf)
        else:
            yield torch.autograd.grad(value, leaf, retain_graph=keep)[0]
