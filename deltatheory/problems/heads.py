"""Frozen classification heads: the map from a pooled hidden state to logits, fixed at θ₀.

A head is part of the frozen model, for every delta and for full fine-tuning alike, so that all of them are
compared on one function f(x; θ). It must mean something at δ = 0: with a zero head the Jacobian of the logits
loses rank and nothing can be predicted from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.problems.folds import folds
from deltatheory.problems.losses import CrossEntropy
from deltatheory.problems.tokens import check_suffix, continuation
from deltatheory.tasks import Examples, Task

__all__ = ["HEADS", "Head", "Verbalizer", "make_head", "unseen_logits"]

# Logits are this times a cosine: the inverse temperature with which sentence encoders are trained.
SCALE = 20.0
_CHUNK = 64
_FOLDS = 8


@dataclass(frozen=True, eq=False)
class Head:
    """logits(h) = W (h - c)/‖h - c‖ + b.

    Attributes:
        kind: key in `HEADS`.
        weight: shape (C, H), W.
        bias: shape (C,), b.
        centre: shape (H,), c: the mean feature, which encoders that were not trained for cosines share.
        passes: forward passes over single examples that making it took.
        suffix: tokens that the problem puts after each text.
    """

    kind: str
    weight: Float[Tensor, "C H"]
    bias: Float[Tensor, " C"]
    centre: Float[Tensor, " H"]
    passes: int
    suffix: tuple[int, ...] = ()

    def __call__(
        self, pooled: Float[Tensor, "B H"], parameters: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the logits of pooled hidden states; `parameters` are those that an edit replaces."""
        return normalize(pooled - self.centre, dim=-1) @ self.weight.T + self.bias

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Head:
        """Move or cast."""
        weight, bias, centre = (
            x.to(device=device, dtype=dtype) for x in (self.weight, self.bias, self.centre)
        )
        return replace(self, weight=weight, bias=bias, centre=centre)


@dataclass(frozen=True, eq=False, kw_only=True)
class Verbalizer(Head):
    """logits(h)_c = z_{v(c)}, z = lm_head h as the model caps it: the next-token logits of label words v(c).

    The rows of lm_head are `weight` at θ₀. Where lm_head is tied to an embedding that is tuned, the tuned one
    counts: it is one tensor of the model.

    Attributes:
        backbone: causal, with lm_head.
        tokens: v, the first token of each class's words as it follows the text.
    """

    backbone: Backbone
    tokens: tuple[int, ...]

    def __call__(
        self, pooled: Float[Tensor, "B H"], parameters: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "B C"]:
        """Return the label words' logits of the last hidden states."""
        return self.backbone.vocabulary_logits(pooled, parameters)[:, list(self.tokens)]


@torch.no_grad()
def _features(backbone: Backbone, examples: Examples, max_length: int | None) -> Tensor:
    pieces = []
    for start in range(0, len(examples), _CHUNK):
        part = examples.subset(range(start, min(start + _CHUNK, len(examples))))
        pieces.append(backbone.pooled(backbone.encode(part.texts, part.pairs, max_length)))
    return torch.cat(pieces)


def _label_words(backbone: Backbone, task: Task, seed: int, max_length: int | None) -> Head:
    """W = the backbone's own embedding of each class's words: zero-shot classification."""
    _check_tokens(backbone, task)
    words = Examples(task.label_words, labels=tuple(range(task.num_classes)))
    rows = normalize(_features(backbone, words, max_length), dim=-1)
    return Head(
        "label-words", SCALE * rows, rows.new_zeros(len(rows)), rows.new_zeros(rows.shape[1]), len(rows)
    )


def _check_tokens(backbone: Backbone, task: Task) -> None:
    """Refuse label words that the tokenizer does not tell apart: their rows would be equal."""
    seen: dict[tuple[int, ...], str] = {}
    for word in task.label_words:
        ids = tuple(backbone.tokenizer(word)["input_ids"])
        if ids in seen:
            tokens = backbone.tokenizer.convert_ids_to_tokens(list(ids))
            raise ValueError(
                f"label_words={seen[ids]!r} and {word!r} of task {task.name!r} are the same tokens to "
                f"{backbone.name!r}, {tokens}: name the classes, or give Task.label_words, in words that it "
                "knows and that differ by more than case and accents, as 'negative' and 'positive' do; or "
                "take head='prototypes' or 'probe', which read none."
            )
        seen[ids] = word


def _check_rows(head: Head, task: Task) -> None:
    """Refuse a head that gives two classes the same logits for every text."""
    rows = torch.cat([head.weight, head.bias[:, None]], 1).double()
    apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    equal = (apart <= 8 * torch.finfo(head.weight.dtype).eps * rows.norm(dim=1)).nonzero()
    if len(equal):
        _refuse(head.kind, task, *equal[0].tolist())


def _check_examples(kind: str, task: Task) -> None:
    """Refuse two classes with the same texts: what a head fits to them is the rounding of their features."""
    train, seen = task.train, {}
    labelled = list(zip(train.labels or (), train.texts, train.pairs or train.texts, strict=True))
    for c in range(task.num_classes):
        own = tuple(sorted((text, pair) for label, text, pair in labelled if label == c))
        if seen.setdefault(own, c) != c:
            _refuse(kind, task, seen[own], c)


def _refuse(kind: str, task: Task, one: int, other: int) -> NoReturn:
    raise ValueError(
        f"head={kind!r} gives classes {task.label_names[one]!r} and {task.label_names[other]!r} of task "
        f"{task.name!r} equal rows: no text tells them apart: give words or examples that differ, or take "
        "head='random'."
    )


def _labelled(backbone: Backbone, task: Task, max_length: int | None) -> tuple[Tensor, Tensor]:
    missing = sorted(set(range(task.num_classes)) - set(task.train.labels or ()))
    if missing:
        raise ValueError(
            f"task={task.name!r} has no training example of {task.label_names[missing[0]]!r}: drop the "
            "class, or take head='label-words', which needs none."
        )
    features = _features(backbone, task.train, max_length)
    return features, torch.tensor(task.train.labels, device=features.device)


def _prototypes(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """W = the direction of each class's mean training feature (Snell et al. 2017)."""
    centre = features.mean(0)
    sums = one_hot(labels, classes).to(features).T @ normalize(features - centre, dim=-1)
    means = normalize(sums, dim=-1)
    return SCALE * means, means.new_zeros(classes), centre


def _probe(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """W, b = ridge-regularized logistic regression on the frozen features, started at the prototypes."""
    weight, _, centre = _prototypes(features, labels, classes)
    x, y = normalize(features - centre, dim=-1).double().cpu(), labels.cpu()
    ridge, width, loss = 0.01 / len(x), x.shape[1], CrossEntropy()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(flat)
        weight, bias = point[:-classes].view(classes, width), point[-classes:]
        logits = x @ weight.T + bias
        uphill = -loss.residual(logits, y) / len(x)
        value = loss.mean(logits, y) + 0.5 * ridge * weight.square().sum()
        return float(value), torch.cat([(uphill.T @ x + ridge * weight).flatten(), uphill.sum(0)]).numpy()

    start = np.concatenate([weight.double().cpu().numpy().ravel(), np.zeros(classes)])
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    weight = torch.from_numpy(solution[:-classes].reshape(classes, width)).to(features)
    return weight, torch.from_numpy(solution[-classes:]).to(features), centre


# What is fitted on training features and their labels: (features, labels, C) ↦ W, b, c.
_FITTED = {"prototypes": _prototypes, "probe": _probe}


def _fitted(kind: str, backbone: Backbone, task: Task, seed: int, max_length: int | None) -> Head:
    features, labels = _labelled(backbone, task, max_length)
    _check_examples(kind, task)
    return Head(kind, *_FITTED[kind](features, labels, task.num_classes), len(features))


def unseen_logits(
    head: Head, backbone: Backbone, task: Task, max_length: int | None
) -> Float[Tensor, "n C"] | None:
    """Return the logits of each training example from a head fitted on the other folds of eight.

    A fitted head has seen the labels of the training split: its own logits there say nothing of other
    examples. Every eighth example is a fold.

    Args:
        head: made by `make_head`.
        backbone: that it was made for.
        task: that it was made for.
        max_length: longer texts are cut here.

    Returns:
        `None` for a head that is not fitted.
    """
    if head.kind not in _FITTED:
        return None
    features, labels = _labelled(backbone, task, max_length)
    logits = features.new_empty(len(features), task.num_classes)
    for kept, held in folds(len(features), _FOLDS):
        fitted = _FITTED[head.kind](features[kept], labels[kept], task.num_classes)
        logits[held] = Head(head.kind, *fitted, len(features))(features[held])
    return logits


def _random(backbone: Backbone, task: Task, seed: int, max_length: int | None) -> Head:
    """W = random directions, as in Li et al. (2018): the task starts at chance."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(task.num_classes, backbone.output_size, generator=generator)
    rows = normalize(rows, dim=-1).to(backbone.device, backbone.wide_dtype)
    return Head("random", SCALE * rows, rows.new_zeros(len(rows)), rows.new_zeros(rows.shape[1]), 0)


def _verbalizer(
    backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str = ""
) -> Verbalizer:
    """v(c) = the first token of class c's words, as they follow the suffix (Schick & Schütze 2021)."""
    after = check_suffix(backbone, suffix)
    tokens = tuple(continuation(backbone, word, suffix)[0] for word in task.label_words)
    first: dict[int, str] = {}
    for token, word in zip(tokens, task.label_words, strict=True):
        if token in first:
            raise ValueError(
                f"label_words={first[token]!r} and {word!r} of task {task.name!r} begin with the same token "
                f"{backbone.tokenizer.decode([token])!r}: give Task.label_words that differ in their first."
            )
        first[token] = word
    lm_head: Any = backbone.lm_head
    weight = lm_head.weight.detach()[list(tokens)].clone()
    zeros = weight.new_zeros(len(tokens))
    bias = zeros if lm_head.bias is None else lm_head.bias.detach()[list(tokens)].clone()
    centre = weight.new_zeros(weight.shape[1])
    return Verbalizer("verbalizer", weight, bias, centre, 0, after, backbone=backbone, tokens=tokens)


HEADS: dict[str, Callable[[Backbone, Task, int, int | None], Head]] = {
    "label-words": _label_words,
    **{kind: partial(_fitted, kind) for kind in _FITTED},
    "random": _random,
    "verbalizer": _verbalizer,
}


def make_head(
    kind: str,
    backbone: Backbone,
    task: Task,
    *,
    seed: int = 0,
    max_length: int | None = None,
    suffix: str = "",
) -> Head:
    """Make the frozen head of a classification task.

    Args:
        kind: a key of `HEADS`: "label-words" (the embedded words of each class, no training data),
            "prototypes" (class means of the training features), "probe" (logistic regression on the
            training features), "random" (Li et al. 2018) or "verbalizer" (a causal backbone's own logits of
            each class's label word after the text).
        backbone: frozen.
        task: with two or more classes.
        seed: of the random head.
        max_length: longer texts are cut here; give that of the problem.
        suffix: put after each text, for the verbalizer (" Topic:").

    Raises:
        ValueError: for an unknown kind, a generation task, a class without the examples the head needs, two
            classes with the same row, label words that are the same tokens, a suffix for another head than
            the verbalizer; for the verbalizer also a backbone without lm_head, or label words with the same
            first token.
    """
    check_kind(kind, suffix)
    if task.kind != "classification":
        raise ValueError(f"task={task.name!r} is a {task.kind} task: a head needs classes.")
    if kind == "verbalizer":
        head: Head = _verbalizer(backbone, task, seed, max_length, suffix)
    else:
        head = HEADS[kind](backbone, task, seed, max_length)
    _check_rows(head, task)
    return head


def check_kind(kind: str, suffix: str = "") -> None:
    """Refuse a head that there is not, or a suffix that it does not take, before anything is loaded.

    Raises:
        ValueError: for an unknown kind, or a suffix for another head than the verbalizer.
    """
    if kind not in HEADS:
        near = difflib.get_close_matches(kind, HEADS, cutoff=0.4) or list(HEADS)
        raise ValueError(f"head={kind!r}: no such head; nearest: {', '.join(near)}.")
    if suffix and kind != "verbalizer":
        raise ValueError(f"suffix={suffix!r}: head={kind!r} takes none; head='verbalizer' does.")
