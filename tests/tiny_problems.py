"""A toy task over the letters of the tiny tokenizer, and problems made of it."""

from __future__ import annotations

import numpy as np
import torch
from tiny_models import tiny

from deltatheory.backbones import Backbone
from deltatheory.deltas import make_delta
from deltatheory.problem import Problem
from deltatheory.tasks import Examples, Task

LETTERS = "abcdefghijklmnop"


def toy_task(classes: int = 2, train: int = 24, test: int = 12, length: int | None = None) -> Task:
    """Class c has letters of the c-th part of the alphabet; texts of 3 to 6 letters, or all of one length."""
    rng = np.random.default_rng(0)
    part = len(LETTERS) // classes

    def examples(count: int) -> Examples:
        labels = tuple(i % classes for i in range(count))
        sizes = [length or int(rng.integers(3, 7)) for _ in labels]
        letters = [
            rng.choice(list(LETTERS[c * part : (c + 1) * part]), n)
            for c, n in zip(labels, sizes, strict=True)
        ]
        return Examples(tuple(" ".join(x) for x in letters), labels=labels)

    return Task(
        "toy",
        "classification",
        tuple(f"class-{c}" for c in range(classes)),
        examples(train),
        examples(2 * classes),
        examples(test),
        {},
        label_words=tuple(LETTERS[c * part] for c in range(classes)),
    )


def toy_problem(
    delta: str = "full",
    *,
    family: str = "bert",
    dtype: torch.dtype = torch.float32,
    task: Task | None = None,
    head: str = "label-words",
    **options,
) -> Problem:
    backbone = tiny(family, dtype=dtype)
    return Problem(backbone, task or toy_task(), make_delta(delta, backbone, **options), head, check=False)


def origin(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
