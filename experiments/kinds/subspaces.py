"""Fit subspaces to deltas trained on some tasks, and train within them on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from experiments.environment import Environment
from experiments.kinds.kernel import deltas_of
from experiments.kinds.train import BUDGET, training
from experiments.trial import Trial

EXAMPLE = Trial(
    "subspaces",
    "",
    "",
    settings={
        **BUDGET,
        "sources": ["a", "b", "c"],
        "targets": ["d"],
        "methods": {"prompt": ["prompt:2", 1e-2], "LoRA": ["lora:2", 1e-2], "adapter": ["adapter:2", 1e-2]},
        "options": {},
        "prompt": "prompt",
        "d": 2,
        "rates": [0.1],
        "unified_rates": [0.3],
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Fit subspaces to deltas trained on some tasks, and train within them on others.

    Of prompts: that of intrinsic prompt tuning, beside a random one of the same dimension. Of methods:
    the unified subspace, in which each is trained alone, and evaluated at what another one found.
    """
    from deltatheory.deltas.intrinsic_prompt import IntrinsicPromptTuning, fit_prompt_subspace
    from deltatheory.deltas.unified_subspace import UnifiedSubspace, fit_unified_subspace
    from deltatheory.training.trainer import train

    settings, backbone = trial.settings, place.backbone(trial.model)
    spent = {"passes": 0.0, "seconds": 0.0}

    def bound(task: str, delta: Any) -> Any:
        return place.problem(replace(trial, task=task), delta)

    def best(task: str, delta: Any, rates: Sequence[float]) -> Any:
        """Return the run with the best dev accuracy over the rates."""
        runs = []
        for rate in rates:
            problem = bound(task, delta)
            runs.append(train(problem, training(trial, learning_rate=rate)))
            spent["passes"] += runs[-1].passes
            spent["seconds"] += runs[-1].seconds
        return max(runs, key=lambda run: max((row["accuracy"] for row in run.dev), default=0.0))

    def accuracy(run: Any) -> float:
        return run.test["accuracy"] if run.test else 0.0

    methods: dict[str, tuple[str, float]] = settings["methods"]
    made = deltas_of(trial, [text for text, _ in methods.values()], place)
    parts = {label: made[text] for label, (text, _) in methods.items()}
    found = {x: [best(t, parts[x], [methods[x][1]]).delta for t in settings["sources"]] for x in parts}
    prompt = parts[settings["prompt"]]
    prompts = _stacked([prompt.prompt(delta).detach() for delta in found[settings["prompt"]]])
    fitted = IntrinsicPromptTuning(backbone, subspace=fit_prompt_subspace(prompts, settings["d"]))
    lot = IntrinsicPromptTuning(backbone, d=settings["d"], length=prompt.length)
    unified = [label for label in parts if label != settings["prompt"]]
    bases = fit_unified_subspace([_stacked(found[label]) for label in unified], settings["d"])
    shared = {
        label: UnifiedSubspace(backbone, deltas=[parts[label]], d=settings["d"], bases=[basis])
        for label, basis in zip(unified, bases, strict=True)
    }
    targets = {}
    for task in settings["targets"]:
        own = {label: accuracy(best(task, parts[label], [methods[label][1]])) for label in parts}
        within = {
            "fitted": accuracy(best(task, fitted, settings["rates"])),
            "random": accuracy(best(task, lot, settings["rates"])),
        }
        runs = {label: best(task, shared[label], settings["unified_rates"]) for label in unified}
        moved = {}
        for label in unified:
            for other in unified:
                problem = bound(task, shared[other])
                moved[f"{label} in {other}"] = problem.evaluate(runs[label].delta, problem.test)["accuracy"]
        targets[task] = {"own": own, "prompt": within, "unified": moved}
    return {"targets": targets, **spent}


def _stacked(rows: Sequence[Any]) -> Any:
    """Stack tensors; torch is imported when a trial runs, not before."""
    import torch

    return torch.stack(list(rows))
