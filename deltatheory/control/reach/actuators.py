"""Where to act: which layers, or modules, a delta should control, from kernels before any training.

Two questions, both answered from W_i = J_i J_iᵀ over the coordinates of place i. How far can the outputs be
moved at all: f(S) = log det(εI + Σ_{i∈S} W_i), which knows no labels. And how much of what the labels ask for
can be fitted so that it also holds on examples that were held out. The second decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deltatheory._shapes import Int
from deltatheory.control.reach.parts import NOWHERE, part_kernels, resolved_groups
from deltatheory.linearization.factors import TangentKernel
from deltatheory.linearization.ridge import cross_fitted_logits
from deltatheory.linearization.selection import Selection, greedy_log_det, log_det_gain
from deltatheory.problems import ClassificationProblem
from deltatheory.results import Result

__all__ = ["ActuatorScore", "Ranking", "rank_actuators", "rank_layers"]


@dataclass(frozen=True)
class ActuatorScore:
    """One place at which the delta could act alone.

    Attributes:
        name: of the layer or module.
        size: coordinates of δ there.
        gain: log det(I + W_i/ε): how far it moves the outputs, whatever the labels.
        energy: pᵀ W_i p with p_j = -∂loss_j/∂m_j: the squared length of the loss's gradient there.
        score: predicted accuracy on held-out examples, with the best ridge.
        loss: predicted loss on held-out examples, with the best ridge.
    """

    name: str
    size: int
    gain: float
    energy: float
    score: float
    loss: float


@dataclass(frozen=True, eq=False)
class Ranking(Result):
    """Places, the most promising first, and the order in which a set of them should grow.

    Attributes:
        places: by predicted held-out loss.
        selection: greedy order by log det over all places.
        frozen: accuracy of the frozen model on the same examples.
        passes: forward-equivalents over single examples.
        seconds: time taken by the Jacobians.
    """

    places: list[ActuatorScore]
    selection: Selection
    frozen: float
    passes: float
    seconds: float

    @property
    def chosen(self) -> str:
        """The place to act at, if only at one."""
        return self.places[0].name


def rank_layers(kernel: TangentKernel, sizes: Mapping[str, int], *, epsilon: float | None = None) -> Ranking:
    """Rank places from what each adds to the kernel of the margins.

    For each place alone the linearized margins m₀ + W_i α are fitted by ridge-regularized logistic regression
    and judged on held-out folds (`ridge.cross_fitted_logits`). With more than two classes the scores are
    optimistic, as `outputs.py` says of margins: they serve to compare places on the same examples.

    Args:
        kernel: with a part for each place, as `part_kernels` returns it with outputs="margin".
        sizes: name ↦ number of coordinates.
        epsilon: ε of the log det, as in `greedy_log_det`.

    Raises:
        ValueError: for no place, or a kernel of logits.
    """
    if not kernel.parts:
        raise ValueError("kernel.parts={}: give at least one place.")
    if kernel.start.logits[:, 0].any():
        raise ValueError("kernel: is of logits; compute it with outputs='margin'.")
    used = kernel.train
    gramians = {name: part[:used, :used].cpu() for name, part in kernel.parts.items()}
    selection = greedy_log_det(gramians, len(gramians), epsilon=epsilon)
    frozen = kernel.start.subset(range(used)).double()
    pull = frozen.residual()[:, 1]
    places = []
    for name, gramian in gramians.items():
        fitted = cross_fitted_logits(gramian, frozen)
        losses = frozen.loss.values(fitted, frozen.labels.expand(fitted.shape[:-1]))
        places.append(
            ActuatorScore(
                name=name,
                size=sizes[name],
                gain=log_det_gain(gramians, [name], selection.epsilon),
                energy=float(pull @ gramian @ pull),
                score=float(frozen.solved(fitted).double().mean(1).max()),
                loss=float(losses.mean(1).min()),
            )
        )
    return Ranking(
        places=sorted(places, key=lambda place: place.loss),
        selection=selection,
        frozen=float(frozen.solved(frozen.logits).double().mean()),
        passes=kernel.passes,
        seconds=kernel.seconds,
    )


def rank_actuators(
    problem: ClassificationProblem,
    groups: Mapping[str, Int[Tensor, " g"]] | Literal["layer", "module"] = "layer",
    *,
    examples: int = 448,
    epsilon: float | None = None,
    sketch: int | None = 2048,
    seed: int = 0,
    on_example: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank the places of a problem's delta: where to act, if not everywhere.

    Two forward passes and one backward pass through the activations give the kernels of all places, or one
    forward and one backward pass the rows of a delta that does not say where it acts.

    Args:
        problem: its delta acts at every place in question (a LoRA on all layers, say).
        groups: "layer", "module", or names ↦ coordinates as in `part_tangent_rows`.
        examples: training examples, at most those there are.
        epsilon: ε of the log det, as in `greedy_log_det`.
        sketch: longest row to keep of each run of coordinates, where the kernels take rows.
        seed: of the sketches.
        on_example: called with (done, total).

    Raises:
        ValueError: as `coordinate_groups` and `part_tangent_rows`.
    """
    examples = min(examples, len(problem.train))
    by, chosen = resolved_groups(problem, groups, examples)
    kernel = part_kernels(
        problem,
        chosen,
        by=by,
        train=examples,
        outputs="margin",
        sketch=sketch,
        seed=seed,
        on_example=on_example,
    )
    kernel.parts.pop(NOWHERE, None)
    return rank_layers(kernel, {name: len(group) for name, group in chosen.items()}, epsilon=epsilon)
