"""A task: texts or text pairs with labels or target strings, in three splits, and where they came from."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from deltatheory._texts import check_texts

Kind = Literal["classification", "generation"]


@dataclass(frozen=True)
class Examples:
    """One split of a task.

    Attributes:
        texts: the inputs.
        pairs: the second text of every input (`None` where inputs are single texts).
        labels: class indices (`None` in generation tasks).
        targets: strings to generate (`None` in classification tasks).

    Raises:
        ValueError: if the columns differ in length, there is neither a label nor a target, or one of texts,
            pairs and targets is no text.

    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.labels is None and self.targets is None:
            raise ValueError(
                "Examples need `labels` (classification) or `targets` (generation); got neither."
            )
        for name in ("pairs", "labels", "targets"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.texts):
                raise ValueError(
                    f"Examples need as many {name} as texts; got len({name})={len(column)}, "
                    f"len(texts)={len(self.texts)}."
                )
        for name in ("texts", "pairs", "targets"):
            check_texts(name, getattr(self, name) or ())

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Iterable[int]) -> Examples:
        """Return the examples at `indices`, in that order.

        >>> Examples(("a", "b", "c"), labels=(0, 1, 0)).subset([2, 1])
        Examples(texts=('c', 'b'), pairs=None, labels=(0, 1), targets=None)
        """
        chosen = tuple(indices)
        columns = {name: column for name, column in vars(self).items() if column is not None}
        return Examples(**{name: tuple(column[i] for i in chosen) for name, column in columns.items()})

    def input_keys(self) -> list[str]:
        """Return what makes two examples the same input: their texts without case and white space.

        >>> Examples(("A  b", "a b"), labels=(0, 1)).input_keys()
        ['a b', 'a b']
        """
        return [
            text_key(*parts) for parts in zip(self.texts, *([self.pairs] if self.pairs else []), strict=True)
        ]


DRAWN = "SHA-256 of the text: "  # how the splits of a table that has none begin to be described


@dataclass(frozen=True, repr=False)
class Task:
    """A supervised text task with disjoint train, dev and test splits.

    Attributes:
        name: short name.
        kind: `"classification"` (labels) or `"generation"` (target strings).
        label_names: one name a class; empty in generation tasks.
        train, dev, test: the splits, none of them empty.
        provenance: where the examples came from and what was done to them; plain JSON values.
        label_words: one natural-language phrase a class, for heads that score words; by default the label
            names, with `_` and `-` as spaces where that leaves them distinct.

    Raises:
        ValueError: for an empty split, fewer than two classes, a label out of range, or a class that is asked
            for in dev or test but never shown in train.

    """

    name: str
    kind: Kind
    label_names: tuple[str, ...]
    train: Examples
    dev: Examples
    test: Examples
    provenance: dict
    label_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        splits = {"train": self.train, "dev": self.dev, "test": self.test}
        for split, examples in splits.items():
            if not len(examples):
                raise ValueError(
                    f"Task {self.name!r} has an empty {split} split; all of train, dev, test need examples: "
                    "give more rows, or say in a column 'split' which is which."
                )
        if len({examples.pairs is None for examples in splits.values()}) > 1:
            raise ValueError(f"Task {self.name!r} has text pairs in some splits only.")
        if self.kind == "classification":
            self._check_labels(splits)
        elif self.kind != "generation":
            raise ValueError(f"kind must be 'classification' or 'generation'; got kind={self.kind!r}.")
        elif any(examples.targets is None for examples in splits.values()):
            raise ValueError(f"Generation task {self.name!r} has no targets.")
        if not self.label_words:
            words = tuple(map(_words_of, self.label_names))
            distinct = len(set(words)) == len(words)
            object.__setattr__(self, "label_words", words if distinct else self.label_names)
        for name in ("label_names", "label_words"):
            check_texts(name, getattr(self, name))
        if len(self.label_words) != len(self.label_names):
            raise ValueError(
                f"label_words must give one phrase for each of the {len(self.label_names)} classes; "
                f"got {len(self.label_words)}."
            )

    def _check_labels(self, splits: dict[str, Examples]) -> None:
        names = self.label_names
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"Classification task {self.name!r} needs two or more distinct classes; "
                f"got label_names={names!r}."
            )
        for split, examples in splits.items():
            if examples.labels is None:
                raise ValueError(f"Classification task {self.name!r} has no labels in its {split} split.")
            wrong = [label for label in examples.labels if not 0 <= label < len(names)]
            if wrong:
                raise ValueError(
                    f"Labels of task {self.name!r} must lie in 0..{len(names) - 1}; "
                    f"got {wrong[0]} in {split}."
                )
        seen = set(self.train.labels or ())
        if len(seen) < 2:
            raise ValueError(
                f"Task {self.name!r} shows one class only in its train split ({names[min(seen)]!r}); "
                "two or more are needed."
            )
        for split in ("dev", "test"):
            unseen = sorted(set(splits[split].labels or ()) - seen)
            if unseen:
                raise ValueError(
                    f"Task {self.name!r} asks in {split} for classes that never occur in train: "
                    f"{', '.join(repr(names[label]) for label in unseen[:5])}."
                )

    def __repr__(self) -> str:
        return f"<Task {self.describe()}>"

    @property
    def drawn(self) -> bool:
        """Whether the table said nothing of splits, so that its test split is one draw of many."""
        return str(self.provenance.get("split", "")).startswith(DRAWN)

    def held_out_elsewhere(self, count: int) -> list[Task]:
        """Return the task with other test splits: parts, of like classes, of what is train and dev here.

        With the test split here every example is held out once (cross-validation), but for those of classes
        that would have none left in train. An eighth of what is not held out is dev.

        Args:
            count: how many.
        """
        splits = (self.train, self.dev, self.test)
        columns: Any = zip(*(vars(split).values() for split in splits), strict=True)
        joined: Any = [None if parts[0] is None else sum(parts, ()) for parts in columns]
        whole = Examples(*joined)
        within = len(self.train) + len(self.dev)
        order = _stratified_order(whole.subset(range(within)), 0, every_class_first=False)
        found = []
        for k in range(count):
            held = _seen(whole, order[k::count], range(len(whole)))
            kept = [i for i in range(len(whole)) if i not in set(held)]
            eighth = _stratified_order(whole.subset(kept), k, every_class_first=False)[::8]
            dev = _seen(whole, [kept[i] for i in eighth], kept)
            train, test = [i for i in kept if i not in set(dev)], whole.subset(sorted(held))
            shown, validation, removed = without_leakage(whole.subset(train), whole.subset(dev), test)
            how = f"part {k + 1} of {count} of what was train and dev is test"
            about = {**self.provenance, "split": how, "removed_as_leaking": removed}
            found.append(replace(self, train=shown, dev=validation, test=test, provenance=about))
        return found

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 in generation tasks."""
        return len(self.label_names)

    @property
    def chance(self) -> float:
        """Accuracy of always giving the test split's most frequent answer."""
        answers = self.test.labels if self.kind == "classification" else self.test.targets
        return Counter(answers).most_common(1)[0][1] / len(self.test)

    def describe(self) -> str:
        """One line: kind, classes, sizes, chance."""
        what = f"{self.num_classes} classes" if self.kind == "classification" else "generation"
        inputs = "texts" if self.train.pairs is None else "text pairs"
        sizes = f"{len(self.train)} train / {len(self.dev)} dev / {len(self.test)} test"
        return f"{self.name}: {what}, {sizes} {inputs}, chance {self.chance:.3f}"

    def limited(self, train: int | None, test: int | None, seed: int) -> Task:
        """Draw a smaller task: stratified, the same for the same seed everywhere; dev stays as it is.

        The chosen examples come in an order in which classes alternate in proportion to their sizes, so the
        limit n is the beginning of the limit 2n. Every class keeps at least one training example.

        Args:
            train: number of training examples to keep (`None`: all, in their order).
            test: number of test examples to keep (`None`: all, in their order).
            seed: which subsample.

        Raises:
            ValueError: if a limit is below 1, above what there is, or (train) below the number of classes.

        """
        limits = {"train": train, "test": test}
        smaller = {}
        for split, limit in limits.items():
            if limit is None:
                continue
            examples: Examples = getattr(self, split)
            least = len(set(examples.labels or (0,))) if split == "train" else 1
            if not least <= limit <= len(examples):
                raise ValueError(
                    f"limited({split}={limit}) on task {self.name!r}: {split} must lie in "
                    f"{least}..{len(examples)}" + (" (one example a class at least)." if least > 1 else ".")
                )
            smaller[split] = examples.subset(_stratified_order(examples, seed, split == "train")[:limit])
        note = {**limits, "seed": seed}
        return replace(self, provenance={**self.provenance, "limited": note}, **smaller)


def _seen(examples: Examples, chosen: Sequence[int], among: Sequence[int]) -> list[int]:
    """Return which of the chosen examples are of a class that has others among these."""
    labels = examples.labels or (0,) * len(examples)
    others = {labels[i] for i in set(among) - set(chosen)}
    return [i for i in chosen if labels[i] in others]


def _words_of(name: str) -> str:
    """Return a class name as words; the minus of a number is no hyphen."""
    if name.removeprefix("-").isdecimal():
        return name
    return name.replace("_", " ").replace("-", " ").strip() or name


def _stratified_order(examples: Examples, seed: int, every_class_first: bool) -> list[int]:
    """All indices, shuffled by `seed`, so that each beginning of the list is stratified."""
    labels = examples.labels or (0,) * len(examples)
    sizes = Counter(labels)
    digest = [hashlib.sha256(f"{seed}\n{key}".encode()).digest() for key in examples.input_keys()]
    rank: Counter[int] = Counter()
    position = {}
    for i in sorted(range(len(examples)), key=lambda i: (digest[i], i)):
        k = rank[labels[i]]
        rank[labels[i]] += 1
        position[i] = (not (every_class_first and k == 0), (k + 0.5) / sizes[labels[i]], digest[i], i)
    return sorted(position, key=position.__getitem__)


def text_key(*texts: str) -> str:
    """Identity of an input: lower case, white space collapsed.

    >>> text_key("Hello   World")
    'hello world'
    """
    return "\n".join(" ".join(text.lower().split()) for text in texts)


def hash_split(key: str, train: float = 0.7, dev: float = 0.1) -> str:
    """`"train"`, `"dev"` or `"test"`, drawn from the SHA-256 of `key`.

    A text stays in its split whatever else the data set contains.

    >>> [hash_split(key) for key in "abcdefgh"].count("train")
    7
    """
    digest = hashlib.sha256(b"deltatheory split\n" + key.encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if draw < train else "dev" if draw < train + dev else "test"


def without_leakage(train: Examples, dev: Examples, test: Examples) -> tuple[Examples, Examples, dict]:
    """Train without the inputs of dev and test, dev without those of test, and how many went."""
    in_test = set(test.input_keys())
    held_out = in_test | set(dev.input_keys())
    clean_dev = dev.subset(i for i, key in enumerate(dev.input_keys()) if key not in in_test)
    clean_train = train.subset(i for i, key in enumerate(train.input_keys()) if key not in held_out)
    removed = {"train": len(train) - len(clean_train), "dev": len(dev) - len(clean_dev)}
    return clean_train, clean_dev, removed


def digest(*splits: Examples) -> str:
    """Name the content of `splits`: SHA-256 over all columns in order."""
    total = hashlib.sha256()
    for split in splits:
        total.update(json.dumps([split.texts, split.pairs, split.labels, split.targets]).encode())
    return total.hexdigest()


def nearest(value: str, allowed: Sequence[str]) -> str:
    """End an error message: the names nearest to `value` among `allowed`, or all of them.

    >>> nearest("lorra", ["lora", "prefix"])
    "Did you mean 'lora'?"
    """
    near = difflib.get_close_matches(value, allowed, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are: {', '.join(allowed)}."
