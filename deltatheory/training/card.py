"""The model card of a trained delta: base, data, rate, score and command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from deltatheory.adapters import base_of

if TYPE_CHECKING:
    from deltatheory.training.result import TrainingResult

__all__ = ["model_card"]


def model_card(result: TrainingResult) -> str:
    """Return the text of README.md for a run that has ended well."""
    about, task, how = result.provenance, result.settings["task"], result.settings["training"]
    base, backbone, read = base_of(result.tuned.backbone), result.tuned.backbone, result.classifier
    name = str(result.settings["delta"]["delta"])
    head = "none: it generates."
    if read is not None:
        kind = read.head.kind
        which = "AutoModelForSequenceClassification" if kind == "own" else f"AutoModel, head {kind}"
        head = f"for {which}, in head.safetensors; classes {_code(', '.join(read.label_names))}."
    scores = ", ".join(f"{metric} {value:.3f}" for metric, value in (result.test or {}).items())
    lines = [
        "---",
        f"base_model: {json.dumps(base['base_model_name_or_path'])}",
        "library_name: peft",
        f"tags: [deltatheory, {name}]",
        "---",
        "",
        f"# {name} for {_code(task['name'])}",
        "",
        f"- Base: {_code(base['base_model_name_or_path'])}, revision {_code(base['revision'] or 'none')}; "
        f"trained on {_code(backbone.name)}, {_code(str(backbone.revision))}, in {result.settings['dtype']}.",
        f"- Delta: {_code(json.dumps(result.settings['delta']))}, {result.tuned_parameters:,} parameters.",
        f"- Head: {head}",
        f"- Data: {_code(str(about['task'].get('source', 'made in Python')))}, SHA-256 of the examples "
        f"{task['examples_sha256']}.",
        f"- Training: {how['steps']} steps of {how['batch_size']} examples, learning rate "
        f"{how['learning_rate']:.3g}, seed {how['seed']}.",
        f"- Test: {scores}.",
        f"- Command: {_code(' '.join(about['command']))}, of deltatheory "
        f"{about['versions'].get('deltatheory')}.",
        "",
        "Predict with it: `deltatheory predict --adapter FOLDER --task texts.csv --out predictions.csv`.",
        "",
    ]
    return "\n".join(lines)


def _code(text: str) -> str:
    """Return a text as it stands, whatever it holds, in Markdown."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
