"""From table rows to a `Task`: which columns, which classes, which split. Shared by files and the hub.

A label is read alike from every form of table. Where all labels of a column are whole numbers (1, 1.0, "1",
"1.0") they are numbers, in the order of their size. A column of quantities (0.5) has no classes. All others
are names as they are written, in the order of the alphabet: "01" and "1" are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatheory._texts import is_text
from deltatheory.tasks.task import (
    Examples,
    Kind,
    Task,
    digest,
    hash_split,
    nearest,
    text_key,
    without_leakage,
)

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "val": "dev",
    "validation": "dev",
    "validation_matched": "dev",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ExampleRow:
    """One row of a table, where it stands (for messages), and its split if that is known already."""

    where: str
    values: dict[str, Any]
    split: str | None = None


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; `None` where the table has no such column."""

    text: str
    text2: str | None
    label: str | None
    target: str | None


def choose_columns(
    source: str, present: Sequence[str], asked: dict[str, str | None], defaults: Mapping[str, Sequence[str]]
) -> Columns:
    """Take the columns asked for, and for the others the first of `defaults` that is present.

    Args:
        source: what the table is called in messages.
        present: columns of the table.
        asked: text, text2, label, target -> column that the user names, or `None`.
        defaults: text, text2, label, target -> columns to look for.

    Raises:
        ValueError: if a column asked for is absent, there is no text or neither label nor target, or two
            columns that would be read have one name.

    """
    chosen: dict[str, str | None] = {}
    for role, name in asked.items():
        if name is not None and name not in present:
            raise ValueError(f"{source} has no column {name!r} ({role}={name!r}). {nearest(name, present)}")
        chosen[role] = name or next((column for column in defaults[role] if column in present), None)
    if asked["target"] is not None and asked["label"] is None:
        chosen["label"] = None  # who names a target only wants to generate it
    text = chosen.pop("text")
    neither = chosen["label"] is None and chosen["target"] is None
    missing = "text" if text is None else "label" if neither else None
    if text is None or missing:
        raise ValueError(
            f"{source} has no {missing} column (looked for {', '.join(defaults[missing or 'text'])}); "
            f"its columns are {', '.join(present) or 'none'}. Name it: load_task(..., {missing}='...')."
        )
    for name in [text, *filter(None, chosen.values()), "split"]:
        if present.count(name) > 1:
            raise ValueError(
                f"{source} has {present.count(name)} columns {name!r}: which one counts? Rename them."
            )
    return Columns(text=text, **chosen)


def task_from_rows(
    rows: Sequence[ExampleRow],
    columns: Columns,
    *,
    name: str,
    source: str,
    label_names: Sequence[str] | None,
    provenance: dict,
) -> Task:
    """Check every row, number the classes, complete the splits, and take leaking inputs out of train.

    Args:
        rows: the table.
        columns: which columns to read.
        name: name of the task.
        source: what the table is called in messages.
        label_names: class names in the order of integer labels, if they are known.
        provenance: what is known already; splitting and removals are added.

    Raises:
        ValueError: for an empty or missing cell, an unknown split or class, or a table that is no `Task`.

    """
    texts = [_text(source, row, columns.text) for row in rows]
    pairs = None if columns.text2 is None else [_text(source, row, columns.text2) for row in rows]
    keys = [text_key(*parts) for parts in zip(texts, *([pairs] if pairs else []), strict=True)]
    splits, how = _splits(source, rows, keys)
    kind: Kind = "generation" if columns.label is None else "classification"
    names: tuple[str, ...] = ()
    labels = targets = None
    if columns.label is not None:
        names, labels = _classes(source, rows, columns.label, columns.target, label_names)
    elif columns.target is not None:
        targets = tuple(_text(source, row, columns.target) for row in rows)
    everything = Examples(tuple(texts), None if pairs is None else tuple(pairs), labels, targets)
    train, dev, test = (
        everything.subset(i for i, given in enumerate(splits) if given == split)
        for split in ("train", "dev", "test")
    )
    train, dev, removed = without_leakage(train, dev, test)
    notes = {
        **provenance,
        "split": how,
        "removed_as_leaking": removed,
        "examples_sha256": digest(train, dev, test),
    }
    return Task(name, kind, names, train, dev, test, notes)


def _text(source: str, row: ExampleRow, column: str) -> str:
    value = row.values.get(column)
    if not is_text(value) or not value.strip():
        raise ValueError(
            f"{source}, {row.where}: {column!r} must be a text that is not blank; got {value!r}."
        )
    return value


_WHOLE = re.compile(
    r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?"
)  # longer numbers are names: no classes are so many
_QUANTITY = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?")


def _labels(source: str, rows: Sequence[ExampleRow], column: str) -> list[int] | list[str]:
    """Return the labels of a column: all of them numbers, or all of them names."""
    texts = []
    for row in rows:
        value = row.values.get(column)
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            value = str(int(value))
        if not is_text(value) or not value.strip():
            raise _no_label(source, row, column)
        texts.append(value.strip())
    whole = [_WHOLE.fullmatch(text) for text in texts]
    if all(whole):
        return [int(match[1]) for match in whole if match]
    if all(match or _QUANTITY.fullmatch(text) for match, text in zip(whole, texts, strict=True)):
        raise _no_label(source, rows[whole.index(None)], column)
    return texts


def _no_label(source: str, row: ExampleRow, column: str) -> ValueError:
    value = row.values.get(column)
    return ValueError(f"{source}, {row.where}: {column!r} must be an integer or a name; got {value!r}.")


def _classes(
    source: str, rows: Sequence[ExampleRow], column: str, target: str | None, given: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and the class index of every row."""
    labels: Sequence[int | str] = _labels(source, rows, column)
    if given is not None:
        names = tuple(given)
        numbers: dict[int | str, int] = {key: i for i in range(len(names)) for key in (i, str(i))}
        index = numbers | {given_name: i for i, given_name in enumerate(names)}
    else:
        values = sorted(set(labels))  # type: ignore[type-var]  # all of one kind
        names, index = tuple(map(str, values)), {value: i for i, value in enumerate(values)}
        if target is not None and not any(isinstance(value, str) for value in values):
            named: dict[int | str, str] = {}
            for label, row in zip(labels, rows, strict=True):
                name = _text(source, row, target)
                if named.setdefault(label, name) != name:
                    raise ValueError(
                        f"{source}, {row.where}: {target}={name!r} names the class {column}={label!r}, "
                        f"which was {named[label]!r} above."
                    )
            names = tuple(named[value] for value in values)
    for label, row in zip(labels, rows, strict=True):
        if label not in index:
            raise ValueError(
                f"{source}, {row.where}: {column}={label!r} is none of the {len(names)} classes. "
                f"{nearest(str(label), names)}"
            )
    return names, tuple(index[label] for label in labels)


def _splits(source: str, rows: Sequence[ExampleRow], keys: Iterable[str]) -> tuple[list[str], str]:
    """Find the split of every row, and say in words how."""
    keys = list(keys)
    if all(row.split is None for row in rows):
        return [hash_split(key) for key in keys], "SHA-256 of the text: 70% train, 10% dev, 20% test"
    splits = []
    for row in rows:
        given = str(row.split or "").strip().lower()
        if given not in SPLIT_ALIASES:
            raise ValueError(
                f"{source}, {row.where}: split={row.split!r} is unknown. "
                f"{nearest(given, list(SPLIT_ALIASES))}"
            )
        splits.append(SPLIT_ALIASES[given])
    how = "as given"
    if "test" not in splits and "dev" in splits:
        splits = ["test" if split == "dev" else split for split in splits]
        how = "the given dev split is the test split"
    if "dev" not in splits:
        splits = [
            hash_split(key, 7 / 8, 1 / 8) if split == "train" else split
            for key, split in zip(keys, splits, strict=True)
        ]
        how += "; dev is an eighth of train by SHA-256 of the text"
    return splits, how
