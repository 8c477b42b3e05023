"""The kernel of every candidate at δ = 0, in one pass for all, and what is fitted with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltatheory._memory import give_back
from deltatheory._shapes import Bool, Float
from deltatheory.deltas import Delta
from deltatheory.linearization.factors import tangent_kernels
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.ridge import FOLDS, cross_fitted_logits, fit_path
from deltatheory.problems import ClassificationProblem, Setup, folds

__all__ = ["KernelFit", "fitted_delta", "kernel_fits"]

_SKETCH = 2048
_CHUNK = 8  # examples of a backward pass, whose activations are the memory that it takes


@dataclass(frozen=True, eq=False)
class KernelFit:
    """What a candidate's linearized logits need.

    Attributes:
        modules: K_l of each module that is kept apart, shape (n, n); their sum is K.
        start: where the logits begin, in float64 on the CPU.
    """

    modules: Mapping[str, Float[Tensor, "n n"]]
    start: LinearizationStart

    @property
    def kernel(self) -> Float[Tensor, "n n"]:
        """Return K."""
        return torch.stack(list(self.modules.values())).sum(0)

    def solved(self) -> Bool[np.ndarray, "r n"]:
        """Return whether each example, held out, is solved by the fit with each ridge."""
        return self.start.solved(cross_fitted_logits(self.kernel, self.start)).numpy()

    def score(self) -> float:
        """Return the accuracy on held-out examples with the best ridge."""
        return float(self.solved().mean(1).max())


def kernel_fits(
    setup: Setup, deltas: Sequence[Delta], on_example: Callable[[int, int], None] | None = None
) -> tuple[list[KernelFit], float]:
    """Return every candidate's kernels over all training examples, and what they cost.

    Args:
        setup: of a classification task.
        deltas: on its backbone.
        on_example: called with (done, total), for progress bars.
    """
    problem = setup.classification(deltas[0])
    kernels = tangent_kernels(
        problem,
        deltas,
        train=len(problem.train),
        test=0,
        outputs="contrast",
        sketch=_SKETCH,
        on_example=on_example,
    )
    give_back()  # factors, in pieces, before what is as long as θ
    return [KernelFit(found.parts, found.start.double()) for found in kernels], kernels[0].passes


def fitted_delta(problem: ClassificationProblem, fit: KernelFit) -> Float[Tensor, " m"]:
    """Return the fitted δ = Jᵀα without the first fold, with the ridge whose loss is least there.

    Jᵀα is the gradient of Σ α_ic z_ic, so it costs one pass over the examples and no stored row.

    Args:
        problem: of the candidate, with the examples of the fit.
        fit: its kernel.
    """
    kept, held = folds(len(fit.start), FOLDS)[0]
    alphas = fit_path(fit.kernel[kept][:, kept], fit.start.subset(kept))
    unseen = fit.start.subset(held)
    heldout = unseen.logits + fit.kernel[held][:, kept] @ alphas / 2
    alpha = alphas[int(np.argmin([float(fit.start.loss.mean(z, unseen.labels)) for z in heldout]))]
    order = np.argsort(problem.train.lengths[kept], kind="stable")  # texts of like length: less padding
    texts = problem.texts_at_once(_CHUNK)
    weights = iter(alpha[order].split(texts))
    kept = np.array(kept)[order].tolist()
    chunks = (kept[first : first + texts] for first in range(0, len(kept), texts))
    batches = (problem.batch(problem.train, chunk) for chunk in chunks)
    found = problem.sum_with_gradient(
        problem.delta.zero(), batches, lambda z, _: (z * next(weights).to(z)).sum()
    )
    problem.restore()
    return found.gradient
