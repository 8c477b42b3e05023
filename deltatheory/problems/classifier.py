"""What turns hidden states into answers, in one file that travels with a delta."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory._texts import is_text
from deltatheory.backbones import Backbone
from deltatheory.deltas import Delta, WithHead
from deltatheory.deltas.files import read_tensors, write_tensors
from deltatheory.problems.classification import ClassificationProblem
from deltatheory.problems.heads import HEADS, Head, OwnHead, Verbalizer, make_head
from deltatheory.tasks import Examples, Task

__all__ = ["Classifier"]

_FORMAT = "head 1"
_OWN = "classifier."  # before the names of a checkpoint's own parameters
_PARTS = ("weight", "bias", "centre", "content_free")


@dataclass(frozen=True, eq=False)
class Classifier:
    """A head, the names of its classes, and where texts are cut.

    Attributes:
        head: as it answers, with the parameters that were trained.
        label_names: one a class.
        max_length: longer texts are cut here, in tokens.
    """

    FILE: ClassVar[str] = "head.safetensors"

    head: Head
    label_names: tuple[str, ...]
    max_length: int

    @classmethod
    def of(cls, problem: ClassificationProblem, delta: Float[Tensor, " m"]) -> Classifier:
        """Return that of a problem at δ."""
        head = problem.head
        if isinstance(problem.delta, WithHead):
            head = head.trained(problem.delta.split(delta)[1])
        return cls(head, problem.task.label_names, problem.max_length)

    @classmethod
    def made(
        cls, kind: str, backbone: Backbone, label_names: Sequence[str], *, suffix: str, max_length: int
    ) -> Classifier:
        """Make a head that needs no examples.

        Raises:
            ValueError: for a kind that needs some, and as `make_head`.
        """
        if kind.removeprefix("calibrated-") not in ("label-words", "verbalizer", "own", "random"):
            raise ValueError(f"head={kind!r}: is made of training examples, and there are none here.")
        names = tuple(label_names)
        head = make_head(kind, backbone, _task(names, names), suffix=suffix, max_length=max_length)
        return cls(head, names, max_length)

    def predict(
        self,
        delta: Delta,
        values: Float[Tensor, " m"],
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
    ) -> Float[Tensor, "n C"]:
        """Return the probability of every class for every text, under a delta at δ.

        Args:
            delta: without a trained head.
            values: δ.
            texts: the inputs.
            pairs: the second text of each.

        Raises:
            FloatingPointError: if they are not finite.
        """
        task = _task(self.label_names, tuple(texts), None if pairs is None else tuple(pairs))
        about: dict[str, Any] = {"max_length": self.max_length, "check": False}
        problem = ClassificationProblem(delta.backbone, task, delta, self.head, **about)
        try:
            return problem.predict(values, problem.test).softmax(-1)
        finally:
            problem.restore()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it into a folder, and return the file."""
        head = self.head
        tensors = {name: x for name in _PARTS if (x := getattr(head, name)) is not None}
        note: dict[str, Any] = {
            "format": _FORMAT,
            "kind": head.kind,
            "label_names": self.label_names,
            "max_length": self.max_length,
            "suffix": head.suffix,
        }
        if isinstance(head, Verbalizer):
            note["tokens"] = head.tokens
        if isinstance(head, OwnHead):
            note["order"] = head.order
            tensors |= {_OWN + name: p for name, p in head.parameters().items()}
        path = Path(folder) / self.FILE
        write_tensors(path, tensors, note)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str], backbone: Backbone) -> Classifier:
        """Return what `save` wrote, on the backbone that it belongs to.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a damaged file, another kind of file, or a backbone that does not fit.
        """
        path = Path(folder) / cls.FILE
        tensors, note = read_tensors(path)
        if not _is_whole(note, tensors):
            raise ValueError(f"{str(path)!r} is no whole head: delete it, and write it again.")
        width = tensors["weight"].shape[1]
        if width != backbone.output_size:
            raise ValueError(
                f"{str(path)!r} reads states of {width} numbers, and those of {backbone.name!r} have "
                f"{backbone.output_size}: load the base that it belongs to."
            )
        moved = {name: x.to(backbone.device, backbone.wide_dtype) for name, x in tensors.items()}
        parts: dict[str, Any] = {name: moved.get(name) for name in _PARTS}
        parts |= {"kind": note["kind"], "passes": 0, "suffix": tuple(note["suffix"])}
        kind, base = note["kind"], note["kind"].removeprefix("calibrated-")
        if base == "verbalizer":
            if backbone.lm_head is None or max(note["tokens"]) >= len(backbone.tokenizer):
                raise ValueError(f"{str(path)!r} reads words, and {backbone.name!r} says none of these.")
            head: Head = Verbalizer(**parts, backbone=backbone, tokens=tuple(note["tokens"]))
        elif base == "own":
            if backbone.classifier is None:
                raise ValueError(f"{str(path)!r} is of a classifier that {backbone.name!r} does not have.")
            new = {n.removeprefix(_OWN): p for n, p in moved.items() if n.startswith(_OWN)}
            own = OwnHead(**parts, backbone=backbone, order=tuple(note["order"]))
            own.check(kind, new)
            head = own.trained(new)
        else:
            head = Head(**parts)
        return cls(head, tuple(note["label_names"]), min(note["max_length"], backbone.max_length))


def _task(names: tuple[str, ...], texts: tuple[str, ...], pairs: tuple[str, ...] | None = None) -> Task:
    """Return a task that asks for the class of texts; its other splits show each class's name."""
    shown = Examples(names, None if pairs is None else names, labels=tuple(range(len(names))))
    asked = Examples(texts, pairs, labels=(0,) * len(texts))
    return Task("texts", "classification", names, shown, shown, asked, {})


def _is_whole(note: dict, tensors: dict[str, Tensor]) -> bool:
    """Return whether what a file says fits together."""
    kind, names = note.get("kind"), note.get("label_names")
    if note.get("format") != _FORMAT or kind not in HEADS or not isinstance(names, list):
        return False
    numbers = {"suffix": [], "tokens": [0] * len(names), "order": [0] * len(names)}
    numbers = {key: note.get(key, usual) for key, usual in numbers.items()}
    lists = all(isinstance(x, list) and all(type(i) is int and i >= 0 for i in x) for x in numbers.values())
    length, classes = note.get("max_length"), len(names)
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    whole = shapes.get("weight", ())
    fits = len(whole) == 2 and whole[0] == classes and shapes.get("bias") == (classes,)
    fits = fits and shapes.get("centre") == whole[1:] and shapes.get("content_free", (classes,)) == (classes,)
    finite = all(bool(torch.isfinite(x).all()) for x in tensors.values())
    return (
        all(map(is_text, names))
        and len(set(names)) == classes > 1
        and lists
        and len(numbers["tokens"]) == len(numbers["order"]) == classes
        and type(length) is int
        and length >= 1
        and fits
        and finite
    )
