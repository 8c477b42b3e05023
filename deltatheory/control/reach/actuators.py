"""Where to act: which layers, or modules, a delta should control, from kernels before any training.

Two questions, both answered from W_i = J_i J_iᵀ over the coordinates of place i. How far can the outputs be
moved at all: f(S) = log det(εI + Σ_{i∈S} W_i), which knows no labels. And how much of what the labels ask for
can be fitted so that it also holds on examples that were held out. The second decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deltatheory._shapes import Int
from deltatheory.control.reach.gramian import NOWHERE, coordinate_groups, part_tangent_rows
from deltatheory.linearization.ridge import cross_fitted_logits
from deltatheory.linearization.selection import Selection, greedy_log_det, log_det_gain
from deltatheory.linearization.tangent import TangentRows
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


def rank_layers(features: Mapping[str, TangentRows], *, epsilon: float | None = None) -> Ranking:
    """Rank places from the columns of the margins' Jacobian that belong to each.

    For each place alone the linearized margins m₀ + W_i α are fitted by ridge-regularized logistic regression
    and judged on held-out folds (`ridge.cross_fitted_logits`). With more than two classes the scores are
    optimistic, as `tangent.py` says of margins: they serve to compare places on the same examples.

    Args:
        features: name ↦ J_i over the same training examples, as `part_tangent_rows` or `joint_tangent_rows`
            return them with outputs="margin".
        epsilon: ε of the log det, as in `greedy_log_det`.

    Raises:
        ValueError: for no place, features of logits, or of different examples.
    """
    if not features:
        raise ValueError("features={}: give at least one place.")
    first = next(iter(features.values()))
    if first.start.logits[:, 0].any():
        raise ValueError("features: are of logits; compute them with outputs='margin'.")
    for name, part in features.items():
        if not torch.equal(part.start.logits, first.start.logits):
            raise ValueError(f"features[{name!r}]: have other examples, or another δ_0, than the first.")
    used = slice(first.train)
    gramians = {n: f.rows[used].flatten(0, 1).double() for n, f in features.items()}
    gramians = {name: rows @ rows.T for name, rows in gramians.items()}
    selection = greedy_log_det(gramians, len(gramians), epsilon=epsilon)
    frozen = first.start.subset(range(first.train)).double()
    pull = frozen.residual()[:, 1]
    places = []
    for name, gramian in gramians.items():
        kernel = gramian.cpu()
        fitted = cross_fitted_logits(kernel, frozen)
        losses = frozen.loss.values(fitted, frozen.labels.expand(fitted.shape[:-1]))
        places.append(
            ActuatorScore(
                name=name,
                size=features[name].size,
                gain=log_det_gain(gramians, [name], selection.epsilon),
                energy=float(pull @ kernel @ pull),
                score=float(frozen.solved(fitted).double().mean(1).max()),
                loss=float(losses.mean(1).min()),
            )
        )
    return Ranking(
        places=sorted(places, key=lambda place: place.loss),
        selection=selection,
        frozen=float(frozen.solved(frozen.logits).double().mean()),
        passes=first.passes,
        seconds=first.seconds,
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

    One forward and one backward pass an example give the Jacobians of all places.

    Args:
        problem: its delta acts at every place in question (a LoRA on all layers, say).
        groups: "layer", "module", or names ↦ coordinates as in `part_tangent_rows`.
        examples: training examples, at most those there are.
        epsilon: ε of the log det, as in `greedy_log_det`.
        sketch: longest row to keep of each run of coordinates.
        seed: of the sketches.
        on_example: called with (done, total).

    Raises:
        ValueError: as `coordinate_groups` and `part_tangent_rows`.
    """
    examples = min(examples, len(problem.train))
    chosen = coordinate_groups(problem, groups, examples=examples) if isinstance(groups, str) else groups
    features = part_tangent_rows(
        problem,
        chosen,
        train=examples,
        outputs="margin",
        sketch=sketch,
        seed=seed,
        on_example=on_example,
    )
    features.pop(NOWHERE, None)
    return rank_layers(features, epsilon=epsilon)
