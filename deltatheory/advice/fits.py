"""The kernel of every candidate at δ = 0, in one pass for all, and what is fitted with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Bool, Float
from deltatheory.deltas import Delta, LoRA, make_delta
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.ridge import FOLDS, cross_fitted_logits, fit_path
from deltatheory.linearization.tangent import joint_tangent_rows
from deltatheory.problems import ClassificationProblem, Setup, folds

__all__ = ["KernelFit", "fitted_delta", "kernel_fits"]

_SKETCH = 2048
_CHUNK = 32  # examples of a backward pass


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

    Deltas that are the frozen model at 0 share one pass; each of the others has a reference point of its own.

    Args:
        setup: of a classification task.
        deltas: on its backbone.
        on_example: called with (done, total), for progress bars.
    """
    exact = [i for i, delta in enumerate(deltas) if delta.exact_zero]
    groups = [exact] * bool(exact) + [[i] for i in range(len(deltas)) if i not in exact]
    fits: dict[int, KernelFit] = {}
    passes = 0.0
    for group in groups:
        joined = make_delta("combined", setup.backbone, deltas=[deltas[i] for i in group])
        problem = setup.classification(joined)
        parts = {i: _modules(deltas[i]) for i in group}
        features = joint_tangent_rows(
            problem,
            [size for modules in parts.values() for size in modules.values()],
            train=len(problem.train),
            test=0,
            outputs="contrast",
            sketch=_SKETCH,
            seed=setup.seed,
            on_example=on_example,
        )
        start, pieces = features[0].start.double(), iter(features)
        for i, modules in parts.items():
            fits[i] = KernelFit({name: next(pieces).kernel().cpu() for name in modules}, start)
        passes += problem.passes
    return [fits[i] for i in range(len(deltas))], passes


def _modules(delta: Delta) -> dict[str, int]:
    """Return the lengths of the parts of δ whose kernels are kept apart: the modules of a LoRA."""
    if not isinstance(delta, LoRA):
        return {"": delta.size}
    sizes: dict[str, int] = {}
    for name, shape in delta.coordinates.shapes.items():
        module = name.rsplit(".", 1)[0]
        sizes[module] = sizes.get(module, 0) + math.prod(shape)
    return sizes


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
    weights = iter(alpha.split(_CHUNK))
    chunks = (kept[first : first + _CHUNK] for first in range(0, len(kept), _CHUNK))
    batches = (problem.batch(problem.train, chunk) for chunk in chunks)
    zero = problem.delta.initial()
    found = problem.sum_with_gradient(zero, batches, lambda z, _: (z * next(weights).to(z)).sum())
    problem.restore()
    return found.gradient
