"""What the parts of a delta, its coordinates by layer or by module, add to the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from deltatheory._shapes import Int
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import WeightPlace
from deltatheory.linearization.factors import SEVERAL, TangentKernel, places_of, tangent_kernels
from deltatheory.linearization.tangent import TangentRows, joint_tangent_rows
from deltatheory.problems import ClassificationProblem

__all__ = ["NOWHERE", "coordinate_groups", "part_kernels", "part_tangent_rows", "resolved_groups"]

NOWHERE = "no layer"  # name of coordinates that act in none


def coordinate_groups(
    problem: ClassificationProblem, by: Literal["layer", "module"] = "layer", *, examples: int = 64
) -> dict[str, Int[Tensor, " g"]]:
    """Return the coordinates of δ by the layer, or the module, in which they act.

    Every coordinate is in one group. By layer the names are the steps of a `LayeredSystem` ("embedding",
    "block 0", ..., "head"), "several layers" for coordinates that act in more than one of them, and "no
    layer" for those that act in none, such as the embedding of a word that no example has.

    Args:
        problem: with the delta in question.
        by: "layer" finds them by derivatives, for any delta; "module" goes by the names of the tensors that
            the delta holds, and needs such a delta (LoRA, adapters, BitFit, prefix, ...).
        examples: by layer, how many training examples decide which words count.

    Raises:
        ValueError: for another `by`, "module" of a delta that does not hold named tensors, or as
            `LayeredSystem`.
    """
    if by == "layer":
        return _by_layer(problem, examples)
    if by != "module":
        raise ValueError(f"by={by!r}: allowed are 'layer' and 'module'.")
    named = getattr(problem.delta, "coordinates", None)
    if named is None or named.size != problem.delta.size:
        raise ValueError(f"by='module': {problem.delta.name!r} holds no tensors of modules; take by='layer'.")
    groups: dict[str, list[Tensor]] = {}
    first = 0
    for name, shape in named.shapes.items():
        last = first + math.prod(shape)
        groups.setdefault(name.rpartition(".")[0] or name, []).append(torch.arange(first, last))
        first = last
    return {name: torch.cat(pieces) for name, pieces in groups.items()}


def _by_layer(problem: ClassificationProblem, examples: int) -> dict[str, Tensor]:
    system = LayeredSystem(problem, range(min(examples, len(problem.train))))
    once = system.copies == 1
    groups = {}
    for t, name in enumerate(system.names):
        acts = system.coordinates(t)
        groups[name] = acts[once[acts]]
    groups[SEVERAL] = (system.copies > 1).nonzero().flatten()
    groups[NOWHERE] = (system.copies == 0).nonzero().flatten()
    return {name: group for name, group in groups.items() if len(group)}


def resolved_groups(
    problem: ClassificationProblem,
    groups: Mapping[str, Int[Tensor, " g"]] | Literal["layer", "module"],
    examples: int,
) -> tuple[Literal["layer", "module"] | None, Mapping[str, Int[Tensor, " g"]]]:
    """Return by what the groups are made, if by one of the two, and the groups."""
    if isinstance(groups, Mapping):
        return None, groups
    return groups, coordinate_groups(problem, groups, examples=examples)


def part_tangent_rows(
    problem: ClassificationProblem,
    groups: Mapping[str, Int[Tensor, " g"]],
    *,
    train: int,
    test: int = 0,
    outputs: Literal["logits", "margin"] = "logits",
    sketch: int | None = None,
    seed: int = 0,
    at: Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> dict[str, TangentRows]:
    """Return the columns of J of each group of coordinates, all from the same passes.

    Args:
        problem: whose delta is tuned.
        groups: name ↦ coordinates; every coordinate of δ is in exactly one.
        train: number of training examples.
        test: number of held-out examples.
        outputs: "logits" (differences z_c - z_0) or "margin", as in `linearization.outputs`.
        sketch: longest row to keep of each run of neighbouring coordinates; `None` for J itself, which takes
            (train + test) · outputs · m numbers.
        seed: of the sketches.
        at: the δ to differentiate at; δ = 0 by default.
        on_example: called with (done, total).

    Raises:
        ValueError: for groups that leave a coordinate out or have one twice, and as `joint_tangent_rows`.
    """
    label = torch.full((problem.delta.size,), -1)
    for k, group in enumerate(groups.values()):
        label[group.cpu()] = k
    members = sum(len(group) for group in groups.values())
    if (label < 0).any() or members != problem.delta.size:
        raise ValueError(
            f"groups: have {members} coordinates, {int((label >= 0).sum())} of them distinct; every one of "
            f"the delta's {problem.delta.size} must be in exactly one group."
        )
    owners, sizes = torch.unique_consecutive(label, return_counts=True)
    runs = joint_tangent_rows(
        problem,
        sizes.tolist(),
        train=train,
        test=test,
        outputs=outputs,
        sketch=sketch or problem.delta.size,
        seed=seed,
        at=at,
        on_example=on_example,
    )
    features = {}
    for k, name in enumerate(groups):
        own = [run for run, owner in zip(runs, owners.tolist(), strict=True) if owner == k]
        # Rows put side by side have the sum of the kernels; a sketch stays one only alone.
        whole = replace(own[0], rows=torch.cat([run.rows for run in own], -1), size=len(groups[name]))
        features[name] = whole if len(own) == 1 else replace(whole, sketch=None)
    return features


def part_kernels(
    problem: ClassificationProblem,
    groups: Mapping[str, Int[Tensor, " g"]],
    *,
    by: Literal["layer", "module"] | None = None,
    train: int,
    outputs: Literal["logits", "margin"] = "logits",
    sketch: int | None = None,
    seed: int = 0,
    at: Tensor | None = None,
    on_example: Callable[[int, int], None] | None = None,
) -> TangentKernel:
    """Return the kernel J_g J_gᵀ of each group of coordinates.

    By factors (`tangent_kernels`), hence exactly, for the groups of `by` at δ = 0 of a delta that says where
    it acts, there alone; else by rows.

    Args:
        problem: whose delta is tuned.
        groups: as in `part_tangent_rows`.
        by: what `coordinate_groups` made them by, if it did.
        train: number of training examples.
        outputs: "logits" or "margin".
        sketch: longest row to keep, where there are rows.
        seed: of the sketches.
        at: the δ to differentiate at; δ = 0 by default.
        on_example: called with (done, total).

    Raises:
        ValueError: as `part_tangent_rows`.
    """
    places = places_of(problem, problem.delta) if by and at is None else None
    apart = SEVERAL not in groups if by == "layer" else all(isinstance(p, WeightPlace) for p in places or ())
    if by and places and apart:
        (found,) = tangent_kernels(
            problem, [problem.delta], train=train, test=0, outputs=outputs, by=by, on_example=on_example
        )
        problem.passes += found.passes
        still = torch.zeros_like(found.kernel())  # of coordinates that move nothing at δ = 0
        return replace(found, parts={name: found.parts.get(name, still) for name in groups})
    features = part_tangent_rows(
        problem,
        groups,
        train=train,
        outputs=outputs,
        sketch=sketch,
        seed=seed,
        at=at,
        on_example=on_example,
    )
    first = next(iter(features.values()))
    kept = sum(part.rows.shape[-1] for part in features.values())
    return TangentKernel(
        parts={name: part.kernel() for name, part in features.items()},
        start=first.start,
        exact=kept == problem.delta.size,
        train=train,
        passes=first.passes,
        seconds=first.seconds,
    )
