"""A toy task over the letters of the tiny tokenizer, and problems made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tiny_models import tiny

from deltatheory.backbones import Backbone
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem
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


def first(task: Task, count: int) -> Task:
    """The task with its first training examples alone, and what else has their classes."""
    train = task.train.subset(range(count))
    rest = {}
    for name in ("dev", "test"):
        split = getattr(task, name)
        rest[name] = split.subset([i for i, label in enumerate(split.labels) if label in train.labels])
    return replace(task, train=train, **rest)


def toy_problem(
    delta: str = "full",
    *,
    family: str = "bert",
    dtype: torch.dtype = torch.float32,
    task: Task | None = None,
    head: str = "label-words",
    **options,
) -> ClassificationProblem:
    backbone = tiny(family, dtype=dtype)
    return ClassificationProblem(
        backbone, task or toy_task(), make_delta(delta, backbone, **options), head, check=False
    )


def origin(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backbone.model.named_parameters()}


def copy_task(train: int = 48, test: int = 12) -> Task:
    """Say the last letter of the source again, twice."""
    rng = np.random.default_rng(0)

    def examples(count: int) -> Examples:
        texts = [" ".join(rng.choice(list(LETTERS[:4]), 1 + i % 3)) for i in range(count)]
        return Examples(tuple(texts), targets=tuple(f"{t[-1]} {t[-1]}" for t in texts))

    return Task("copy", "generation", (), examples(train), examples(6), examples(test), {})


def same_run(a, b):
    assert torch.equal(a.delta, b.delta)
    assert a.losses == b.losses
    assert (a.train_loss, a.train_accuracy, a.test, a.dev) == (b.train_loss, b.train_accuracy, b.test, b.dev)
    assert (a.passes, a.optimizer_state_bytes) == (b.passes, b.optimizer_state_bytes)
