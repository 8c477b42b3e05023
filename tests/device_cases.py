"""What is asked of two devices to be the same: on a GPU, and in its rehearsal on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task

from deltatheory.backbones import Backbone, wrap_model
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem
from deltatheory.training import Training, predict_learning_rate

# The number of a device for each part of a model of two blocks.
MAPS = {
    "bert": {"embeddings": 0, "encoder.layer.0": 0, "encoder.layer.1": 1, "pooler": 0},
    "llama": {
        **dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.rotary_emb"), 0),
        **dict.fromkeys(("model.layers.1", "model.norm", "lm_head"), 1),
    },
    "t5": {
        **dict.fromkeys(("shared", "encoder.embed_tokens", "encoder.block", "decoder.embed_tokens"), 0),
        **dict.fromkeys(
            ("encoder.final_layer_norm", "decoder.block", "decoder.final_layer_norm", "lm_head"), 1
        ),
    },
}


def spread(family: str, kind: str) -> Backbone:
    """A tiny model that accelerate has spread over two devices of a kind."""
    from accelerate import dispatch_model

    model = tiny_model(family)
    dispatch_model(model, {name: f"{kind}:{place}" for name, place in MAPS[family].items()})
    return wrap_model(model, tiny_tokenizer(family), name="ours")


def problem_on(
    device: str, delta: str, options: dict[str, Any], family: str = "bert"
) -> ClassificationProblem:
    backbone = tiny(family, dtype=torch.float64).to(device)
    made = make_delta(delta, backbone, **options)
    return ClassificationProblem(backbone, toy_task(3), made, check=False)


def predicted_rate(device: str) -> float:
    problem = problem_on(device, "lora", {"r": 2})
    return predict_learning_rate(problem, training=Training(batch_size=8)).rate
