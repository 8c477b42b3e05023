"""Rank the places where a delta could act, before any training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments.environment import Environment
from experiments.kinds.frozen import SHORT
from experiments.kinds.train import after, training
from experiments.trial import Trial

EXAMPLE = Trial("places", "", "", "lora:2", settings={**SHORT, "places": "layer", "examples": 8})


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return what the Gramian says of each place, and the accuracy of the frozen model.

    `places` among the trial's settings are "layer", "module", or names with the modules that each has. With
    `steps` among them, 0 included, the kernels are of the δ behind so many, of training examples that the
    kernels do not see, and each pair of places is judged as well.
    """
    import torch

    from deltatheory.control import rank_actuators
    from deltatheory.control.reach.parts import coordinate_groups, part_kernels

    problem = place.problem(trial)
    groups: Any = trial.settings["places"]
    if not isinstance(groups, str):
        of = coordinate_groups(problem, "module")
        groups = {name: torch.cat([of[module] for module in modules]) for name, modules in groups.items()}
    examples, steps = trial.settings["examples"], trial.settings.get("steps")
    if steps is not None:
        at = after(problem, training(trial), first=examples) if steps else problem.delta.initial()
        if isinstance(groups, str):
            groups = coordinate_groups(problem, groups)
        kernel = part_kernels(problem, groups, train=examples, outputs="margin", sketch=2048, at=at)
        return {"losses": _losses(kernel), "passes": problem.passes}
    ranking = rank_actuators(problem, groups, examples=examples)
    return {
        "frozen": problem.evaluate(problem.delta.initial(), problem.test)["accuracy"],
        "places": [asdict(one) for one in ranking.places],
        "greedy": ranking.selection.chosen,
        "passes": ranking.passes,
        "seconds": ranking.seconds,
    }


def _losses(kernel: Any) -> dict[str, Any]:
    """Return the predicted held-out loss of each place alone, and the mean over its pairs with the others."""
    from itertools import combinations

    import torch

    from deltatheory.linearization.ridge import cross_fitted_logits

    used = kernel.start.subset(range(kernel.train)).double()
    parts = {name: part[: kernel.train, : kernel.train].double() for name, part in kernel.parts.items()}

    def loss(*names: str) -> float:
        fitted = cross_fitted_logits(torch.stack([parts[name] for name in names]).sum(0), used)
        return float(used.loss.values(fitted, used.labels.expand(fitted.shape[:-1])).mean(1).min())

    pairs = {pair: loss(*pair) for pair in combinations(parts, 2)}
    of = {name: [value for pair, value in pairs.items() if name in pair] for name in parts}
    return {
        "alone": {name: loss(name) for name in parts},
        "pairs": {n: sum(v) / len(v) for n, v in of.items()},
    }
