"""Classification heads: the map from a pooled hidden state to logits, fixed at θ₀.

A head is part of the frozen model, for every delta and for full fine-tuning alike, so that all of them are
compared on one function f(x; θ). It must mean something at δ = 0: with a zero head the Jacobian of the logits
loses rank and nothing can be predicted from it. A head that is trained beside a delta (`WithHead`) starts at
its frozen values.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NoReturn, cast

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from deltatheory._shapes import Float
from deltatheory.autodiff import functional_call
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.problems.folds import folds
from deltatheory.problems.losses import CrossEntropy
from deltatheory.problems.tokens import answer_tokens, batch_of, check_suffix, check_template, suffixed
from deltatheory.tasks import Examples, Task

__all__ = ["HEADS", "Head", "OwnHead", "Verbalizer", "make_head", "unseen_logits"]

# Logits are this times a cosine: the inverse temperature with which sentence encoders are trained.
SCALE = 20.0
_CHUNK = 64
_FOLDS = 8
# Zhao et al. 2021, section 5: an ensemble is steadier than one of them.
_CONTENT_FREE = ("N/A", "", "[MASK]")
_CALIBRATED = "calibrated-"


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """logits(h) = W (h - c)/‖h - c‖ + b, less log p̄ where it is calibrated.

    Attributes:
        kind: key in `HEADS`.
        weight: shape (C, H), W.
        bias: shape (C,), b.
        centre: shape (H,), c: the mean feature, which encoders that were not trained for cosines share.
        passes: forward passes over single examples that making it took.
        suffix: tokens that the problem puts after each text.
        content_free: shape (C,), log p̄: p̄ the mean of what it answers to texts that say nothing.
    """

    kind: str
    weight: Float[Tensor, "C H"]
    bias: Float[Tensor, " C"]
    centre: Float[Tensor, " H"]
    passes: int
    suffix: tuple[int, ...] = ()
    content_free: Float[Tensor, " C"] | None = None

    def __repr__(self) -> str:
        classes, width = self.weight.shape
        return f"<{type(self).__name__} {self.kind}: {classes} classes of states of {width} numbers>"

    @property
    def pooling(self) -> Literal["last", "cls", "mask"] | None:
        """How it reads the hidden states; `None`: as the backbone does."""
        return None

    def __call__(self, pooled: Float[Tensor, "B H"], edit: Edit | None = None) -> Float[Tensor, "B C"]:
        """Return the logits of pooled hidden states; the parameters that an edit replaces are replaced."""
        logits = self._logits(pooled, edit or Edit())
        return logits if self.content_free is None else logits - self.content_free

    def _logits(self, pooled: Tensor, edit: Edit) -> Tensor:
        new = {**self.parameters(), **edit.head}
        return normalize(pooled - self.centre, dim=-1) @ new["weight"].T + new["bias"]

    def reading(self, batch: Batch) -> Batch:
        """Return encoded texts as the head wants the backbone to read them."""
        return batch

    def parameters(self) -> dict[str, Tensor]:
        """Return what can be trained beside a delta, by name; nothing where the head is not its own."""
        return {"weight": self.weight, "bias": self.bias}

    def check(self, kind: str, parameters: Mapping[str, Tensor]) -> None:
        """Refuse parameters that are of another head.

        Raises:
            ValueError: for another kind, other names or other shapes.
        """
        own = {name: tuple(p.shape) for name, p in self.parameters().items()}
        given = {name: tuple(p.shape) for name, p in parameters.items()}
        if kind != self.kind or own != given:
            raise ValueError(
                f"head={self.kind!r} with {own}: trained beside δ was head={kind!r} with {given}; take that."
            )

    def trained(self, parameters: Mapping[str, Tensor]) -> Head:
        """Return the head with other parameters, named as in `parameters()`."""
        return replace(self, **parameters)

    def identity(self) -> dict[str, Any]:
        """Return what makes it, beside backbone and task, the head that it is, for configuration hashes."""
        return {"head": self.kind, **({"suffix": list(self.suffix)} if self.suffix else {})}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Head:
        """Move or cast."""
        tensors = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **{name: x.to(device=device, dtype=dtype) for name, x in tensors.items()})


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Verbalizer(Head):
    """logits(h)_c = z_{v(c)}, z = lm_head(h) as the model caps it: the logits of label words v(c).

    They are those of the next token in a causal backbone, those of the decoder's first in an encoder-decoder,
    and those at the mask of the suffix in an encoder.
    The last rows of lm_head are `weight` at θ₀. Where lm_head is tied to an embedding that is tuned, the
    tuned one counts: it is one tensor of the model.

    Attributes:
        backbone: with lm_head.
        tokens: v, the first token of each class's words as it follows the text, or the only one.
    """

    backbone: Backbone
    tokens: tuple[int, ...]

    @property
    def pooling(self) -> Literal["last", "mask"]:
        """The last token, or the mask."""
        return "mask" if self.backbone.kind == "encoder" else "last"

    def _logits(self, pooled: Tensor, edit: Edit) -> Tensor:
        return self.backbone.vocabulary_logits(pooled, edit.parameters)[:, list(self.tokens)]

    def parameters(self) -> dict[str, Tensor]:
        """Return nothing: lm_head is the model's."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class OwnHead(Head):
    """The classification head of the checkpoint, at the token that it reads: an encoder's first, or the last.

    What the checkpoint puts between is kept (BERT's pooler, RoBERTa's dense layer). The decoder of an
    encoder-decoder reads the text itself. The rows of its last linear map are `weight` at θ₀.

    Attributes:
        backbone: with a classifier.
        order: the number, in the checkpoint, of each class of the task.
        new: parameters of the classifier in the place of the checkpoint's.
    """

    backbone: Backbone
    order: tuple[int, ...]
    new: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def pooling(self) -> Literal["last", "cls"]:
        """The last token, or the first."""
        return "cls" if self.backbone.kind == "encoder" else "last"

    def reading(self, batch: Batch) -> Batch:
        """Return the texts, and an encoder-decoder's twice."""
        return self.backbone.repeated(batch) if self.backbone.kind == "encoder-decoder" else batch

    @property
    def classifier(self) -> nn.Module:
        """The checkpoint's, without a pooler before it."""
        assert self.backbone.classifier is not None
        return self.backbone.classifier

    def _logits(self, pooled: Tensor, edit: Edit) -> Tensor:
        before, encoder = pooled, self.backbone.kind == "encoder"
        if encoder and _reads_states(self.classifier):
            before = pooled[:, None]
        elif encoder:
            prefix, pooler = "pooler.", cast(nn.Module, self.backbone.model.pooler)
            edited = {n.removeprefix(prefix): p for n, p in edit.parameters.items() if n.startswith(prefix)}
            first = pooled[:, None].to(self.backbone.dtype)
            before = functional_call(pooler, edited, (first,)).to(pooled.dtype)
        logits = functional_call(self.classifier, {**self.new, **edit.head}, (before,))
        return logits[:, list(self.order)].to(pooled.device)

    def parameters(self) -> dict[str, Tensor]:
        """Return those of the classifier; a pooler stays frozen, as in PEFT's modules_to_save."""
        return {name: p.detach() for name, p in self.classifier.named_parameters()} | dict(self.new)

    def trained(self, parameters: Mapping[str, Tensor]) -> OwnHead:
        """Return the head with other parameters of the classifier."""
        return replace(self, new=parameters)

    def identity(self) -> dict[str, Any]:
        """Return its kind and a digest of its parameters, which an adapter may have brought."""
        digest = hashlib.sha256()
        for name, p in self.parameters().items():
            digest.update(name.encode() + p.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return {**super().identity(), "head_sha256": digest.hexdigest()}


def _reads_states(classifier: nn.Module) -> bool:
    """Return whether a classifier takes the states of all tokens, as RoBERTa's does, and needs no pooler."""
    return hasattr(classifier, "out_proj")


@torch.no_grad()
def _features(backbone: Backbone, examples: Examples, max_length: int | None) -> Tensor:
    pieces = []
    for start in range(0, len(examples), _CHUNK):
        part = examples.subset(range(start, min(start + _CHUNK, len(examples))))
        pieces.append(backbone.pooled(backbone.encode(part.texts, part.pairs, max_length)))
    return torch.cat(pieces)


def _label_words(backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str) -> Head:
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


def _fitted(
    kind: str, backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str
) -> Head:
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


def _random(backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str) -> Head:
    """W = random directions, as in Li et al. (2018): the task starts at chance."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(task.num_classes, backbone.output_size, generator=generator)
    rows = normalize(rows, dim=-1).to(backbone.device, backbone.wide_dtype)
    return Head("random", SCALE * rows, rows.new_zeros(len(rows)), rows.new_zeros(rows.shape[1]), 0)


def _verbalizer(backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str) -> Verbalizer:
    """v(c) = a token of class c's words (Schick & Schütze 2021): the first after the suffix, or the only one.

    At a mask there is room for one token alone; of words that follow a text the first must tell them apart.
    """
    before, masked = suffix, backbone.kind == "encoder"
    if masked:
        after, before = check_template(backbone, suffix)
    else:
        after = check_suffix(backbone, suffix)
    words = [answer_tokens(backbone, word, before) for word in task.label_words]
    for word, ids in zip(task.label_words, words, strict=True):
        if masked and len(ids) > 1:
            raise ValueError(
                f"label_words={word!r} of task {task.name!r} is {len(ids)} tokens to {backbone.name!r}, "
                f"{backbone.tokenizer.convert_ids_to_tokens(ids)}, and a mask is one: give Task.label_words "
                "of one each."
            )
    tokens = tuple(ids[0] for ids in words)
    first: dict[int, str] = {}
    for token, word in zip(tokens, task.label_words, strict=True):
        if token in first:
            raise ValueError(
                f"label_words={first[token]!r} and {word!r} of task {task.name!r} begin with the same token "
                f"{backbone.tokenizer.decode([token])!r}: give Task.label_words that differ in their first."
            )
        first[token] = word
    lm_head: Any = backbone.lm_head
    last = getattr(lm_head, "predictions", lm_head).decoder if masked else lm_head
    about = "verbalizer", *_rows_of(last, tokens), 0, after
    return Verbalizer(*about, backbone=backbone, tokens=tokens)


def _rows_of(linear: Any, rows: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return some rows of W and b of a linear map, and 0 for c."""
    weight = linear.weight.detach()[list(rows)].clone()
    zeros = weight.new_zeros(len(rows))
    bias = zeros if linear.bias is None else linear.bias.detach()[list(rows)].clone()
    return weight, bias, weight.new_zeros(weight.shape[1])


def _own(backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str) -> OwnHead:
    """Take the checkpoint's; classes that both name are told by their names, in whatever order."""
    if backbone.classifier is None:
        raise ValueError(
            f"head='own': {backbone.name!r} has no classification head of its own: take a checkpoint of "
            "AutoModelForSequenceClassification, or another head."
        )
    classifier, config = cast(Any, backbone.classifier), cast(Any, backbone.model.config)
    pooled = backbone.kind == "encoder" and not _reads_states(classifier)
    if pooled and getattr(backbone.model, "pooler", None) is None:
        raise ValueError(f"head='own': {backbone.name!r} lacks the pooler before its classifier.")
    theirs, ours = ([str(name).casefold() for name in names] for names in (_names(config), task.label_names))
    if len(theirs) != len(ours):
        raise ValueError(
            f"head='own': that of {backbone.name!r} has {len(theirs)} classes ({', '.join(theirs[:5])}), and "
            f"task {task.name!r} has {len(ours)} ({', '.join(ours[:5])}): take another head."
        )
    order = map(theirs.index, ours) if set(theirs) == set(ours) else range(len(ours))
    numbers = tuple(order)
    about = "own", *_rows_of(getattr(classifier, "out_proj", classifier), numbers), 0
    return OwnHead(*about, backbone=backbone, order=numbers)


def _names(config: Any) -> list[str]:
    """Return the names of a checkpoint's classes, in their order."""
    return [config.id2label[i] for i in range(config.num_labels)]


@torch.no_grad()
def _calibrated(
    kind: str, backbone: Backbone, task: Task, seed: int, max_length: int | None, suffix: str
) -> Head:
    """Subtract log p̄ (Zhao et al. 2021): on average a text that says nothing leaves the classes equal."""
    head = HEADS[kind](backbone, task, seed, max_length, suffix)
    pairs = None if task.train.pairs is None else _CONTENT_FREE
    empty = Examples(_CONTENT_FREE, pairs, labels=(0,) * len(_CONTENT_FREE))
    limit = backbone.max_length if max_length is None else max_length
    rows, types = suffixed(backbone, empty, limit, head.suffix)
    kept = [i for i, row in enumerate(rows) if row]  # no token is nothing to read
    batch = batch_of(backbone, [rows[i] for i in kept], [types[i] for i in kept])
    log_p = head(backbone.pooled(batch, pooling=head.pooling)).log_softmax(-1)
    mean = log_p.logsumexp(0) - np.log(len(kept))
    return replace(head, kind=_CALIBRATED + kind, content_free=mean, passes=head.passes + len(kept))


_READ_WORDS = {"label-words": _label_words, "verbalizer": _verbalizer}
HEADS: dict[str, Callable[[Backbone, Task, int, int | None, str], Head]] = {
    **{kind: partial(_fitted, kind) for kind in _FITTED},
    "random": _random,
    "own": _own,
    **_READ_WORDS,
    **{_CALIBRATED + kind: partial(_calibrated, kind) for kind in _READ_WORDS},
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
    """Make the head of a classification task.

    Args:
        kind: a key of `HEADS`: "label-words" (the embedded words of each class, no training data),
            "prototypes" (class means of the training features), "probe" (logistic regression on the
            training features), "random" (Li et al. 2018), "verbalizer" (the model's own logits of each
            class's label word after the text, or at the mask of an encoder), "own" (the checkpoint's
            classification head), "calibrated-label-words" or "calibrated-verbalizer" (Zhao et al. 2021).
        backbone: frozen.
        task: with two or more classes.
        seed: of the random head.
        max_length: longer texts are cut here; give that of the problem.
        suffix: put after each text, for the verbalizer (" Topic:"); in an encoder with the mask where the
            word is read (" It was [MASK]."), and after the first text of a pair.

    Raises:
        ValueError: for an unknown kind, a generation task, a class without the examples the head needs, two
            classes with the same row, label words that are the same tokens, a suffix for another head than
            the verbalizer; for the verbalizer also a backbone without lm_head, label words with the same
            first token, and in an encoder a suffix without a mask or label words of several tokens; for the
            own head a checkpoint that has none, or one of other classes.
    """
    check_kind(kind, suffix)
    if task.kind != "classification":
        raise ValueError(f"task={task.name!r} is a {task.kind} task: a head needs classes.")
    head = HEADS[kind](backbone, task, seed, max_length, suffix)
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
    if suffix and kind.removeprefix(_CALIBRATED) != "verbalizer":
        raise ValueError(f"suffix={suffix!r}: head={kind!r} takes none; head='verbalizer' does.")
