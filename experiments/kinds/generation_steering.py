"""Let one policy of hidden states act while a language model goes on with prompts, at several strengths."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments.environment import Environment
from experiments.trial import Trial

BACKBONE = "causal"  # what it takes
EXAMPLE = Trial(
    "generation_steering",
    "",
    "",
    settings={
        "policy": "mean-difference",
        "strengths": [1.0],
        "contrast_texts": 16,
        "prompts": 2,
        "words": 2,
        "max_new_tokens": 2,
        "batch_size": 2,
    },
)
_PROTOCOL = ("contrast_texts", "prompts", "words", "max_new_tokens", "batch_size")
_benches: dict[tuple, Any] = {}  # a contrast is read once for all policies


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return a row a strength, or that of a baseline, with what the probes and the judge are worth."""
    from deltatheory.control.generation.comparison import BASELINES, GenerationProtocol, SteeringTask

    given = trial.settings
    backbone, task = place.backbone(trial.model), place.task(trial)
    about = {name: given[name] for name in _PROTOCOL if name in given}
    target = given.get("target") or task.label_names[-1]
    key = id(backbone), id(task), target, *about.values()
    if key not in _benches:
        _benches[key] = SteeringTask(backbone, task, target, GenerationProtocol(seed=trial.seed, **about))
    bench, name = _benches[key], given["policy"]
    bench.instruction = given.get("instruction", bench.instruction)
    if name in BASELINES:
        rows = [bench.run(name)]
    else:
        rows = [bench.run(name, bench.policy(name, s), s) for s in given["strengths"]]
    return {
        "rows": [asdict(row) for row in rows],
        "layers": list(bench.layers),
        "accuracy": [bench.found.accuracy[t] for t in bench.layers],
        "held_out": bench.found.held_out,
        "judge": {"accuracy": bench.judge_accuracy, "texts": bench.judge_texts},
        "prompts": len(bench.prompts),
    }
