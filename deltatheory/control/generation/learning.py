"""Policies that are trained: what they are made of goes down the loss of what texts of the target say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory.backbones import Backbone
from deltatheory.control.generation.acting import acting
from deltatheory.control.generation.contrast import Contrast
from deltatheory.control.generation.policies import LayerPolicy, StatePolicy
from deltatheory.problems.tokens import NO_ANSWER, answered

__all__ = ["learn"]

_STEPS, _BATCH, _LENGTH = 40, 4, 32  # of Adam, texts of each, tokens of a text
_RATE = 0.03  # in root mean squares of what is trained


@torch.enable_grad()
def learn(
    backbone: Backbone,
    found: Contrast,
    start: Mapping[str, Tensor],
    scale: Mapping[str, float],
    made: Callable[[Mapping[str, Tensor]], LayerPolicy],
    seed: int,
) -> dict[str, Tensor]:
    """Return tensors with which a policy makes the target's texts likely: Adam on -log p(2nd half | 1st).

    The first half of a text's tokens is its prompt, the second its answer, and the policy moves those that it
    will move while the model generates.

    Args:
        backbone: causal or an encoder-decoder, frozen.
        found: whose texts of the target are said.
        start: where the tensors start.
        scale: root mean square of the numbers that each is to be compared with.
        made: tensors ↦ the policy, differentiable.
        seed: of the draws of texts.

    Raises:
        ValueError: if no text of the target has two tokens.
    """
    texts = [text for text, on in zip(found.texts, found.target.tolist(), strict=True) if on]
    longest = min(_LENGTH, backbone.max_length - len(backbone.start))
    tokens = backbone.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    halves = [_halves(backbone, row) for row in tokens if len(row) > 1]
    if not halves:
        raise ValueError("texts: those of the target have one token each; a policy learns of longer ones.")
    draws = np.random.default_rng(seed)
    leaves = {name: x.detach().clone().requires_grad_() for name, x in start.items()}
    groups = [{"params": [x], "lr": _RATE * scale[name]} for name, x in leaves.items()]
    optimizer = torch.optim.Adam(groups)
    for _ in range(_STEPS):
        some = draws.choice(len(halves), min(_BATCH, len(halves)), replace=False)
        prompts, answers = zip(*(halves[i] for i in some), strict=True)
        batch, labels = answered(backbone, prompts, answers)
        policy, where = made(leaves), labels != NO_ANSWER
        lengths = where.long().argmax(1) + 1  # an answer's first token follows the last of its prompt
        acts = isinstance(policy, StatePolicy)
        with acting(backbone.model, backbone.layers, policy, lengths) if acts else nullcontext():
            hidden = backbone.hidden_states(batch, policy.edit())
        loss = cross_entropy(backbone.vocabulary_logits(hidden[where]), labels[where])
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        for leaf, slope in zip(leaves.values(), slopes, strict=True):
            leaf.grad = slope
        optimizer.step()
    return {name: x.detach() for name, x in leaves.items()}


def _halves(backbone: Backbone, row: list[int]) -> tuple[list[int], list[int]]:
    """Return a prompt and its answer; an encoder reads the mark of a text's end behind its prompt too."""
    half = len(row) // 2
    ends = backbone.kind == "encoder-decoder" and row[-1] == backbone.tokenizer.eos_token_id
    return [*row[:half], *(row[-1:] if ends else [])], row[half:]
