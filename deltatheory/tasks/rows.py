"""From a table to a `Task`: which rows, which classes, which split. Shared by files, the hub and objects.

A label is read alike from every form of table. Where all labels of a column are whole numbers (1, 1.0, "1",
"1.0") they are numbers, in the order of their size. A column of quantities (0.5) has no classes. All others
are names as they are written, in the order of the alphabet: "01" and "1" are two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from deltatheory._texts import is_text
from deltatheory.tasks.table import (
    Columns,
    ExampleRow,
    ExampleTable,
    Faults,
    TableOptions,
    choose_columns,
    log,
)
from deltatheory.tasks.task import (
    DRAWN,
    Examples,
    Kind,
    Task,
    digest,
    hash_split,
    nearest,
    without_leakage,
)

__all__ = ["SPLIT_ALIASES", "Inputs", "inputs_of", "task_of"]

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
_BLANK = 0.1  # up to this share of blank rows goes without being asked for
_FEW = 100  # below so many test examples it is said how well they tell an accuracy
_SAID = 5  # rows that are named where many are left out


def task_of(
    table: ExampleTable, options: TableOptions, faults: Faults, *, name: str, provenance: dict
) -> Task:
    """Check every row, number the classes, complete the splits, and take leaking inputs out of train.

    A few blank rows are left out, others only where `faults` says so.

    Args:
        table: its columns and rows.
        options: how it is read.
        faults: of the rows that could not be read at all.
        name: name of the task.
        provenance: what is known already; splitting and removals are added.

    Raises:
        ValueError: for a missing cell, an unknown split or class, or a table that is no `Task`.
    """
    source = faults.source
    if not table.rows:
        raise ValueError(f"{source} has no rows.")
    columns, total = choose_columns(source, table.columns, options), len(table.rows) + len(faults.found)
    notes = dict(provenance)
    usual = {role: role for role in columns.present()}
    if columns.present() != usual:
        notes["columns"] = columns.present()
        found = {
            role: c for role, c in columns.present().items() if getattr(options, role) is None and c != role
        }
        if found:
            log.info("%s: read are %s", source, ", ".join(f"{r}={c!r}" for r, c in found.items()))
    rows = _readable(table.rows, columns, faults)
    kind: Kind = "generation" if columns.label is None else "classification"
    names: tuple[str, ...] = ()
    labels: list[int] | None = None
    if columns.label is not None:
        known = options.label_names or table.class_names.get(columns.label)
        rows, names, labels = _classes(rows, columns, known, faults)
    _say_left_out(faults, total)
    if faults.found:
        notes["left_out"] = list(faults.found)
    generated = columns.target if labels is None else None
    everything = Examples(
        tuple(row.values[columns.text] for row in rows),
        None if columns.text2 is None else tuple(row.values[columns.text2] for row in rows),
        None if labels is None else tuple(labels),
        None if generated is None else tuple(row.values[generated] for row in rows),
    )
    _say_contradicted(source, everything)
    splits, how = _splits(rows, everything, options, source)
    train, dev, test = (
        everything.subset(i for i, given in enumerate(splits) if given == split)
        for split in ("train", "dev", "test")
    )
    _say_repeated(source, train, {"dev": dev, "test": test})
    train, dev, removed = without_leakage(train, dev, test)
    if kind == "classification" and 0 < len(test) < _FEW:
        log.info(
            "%s: with %d test examples an accuracy is known to ±%.2f at best (90 %%); more rows%s say more",
            source,
            len(test),
            1.645 * (0.25 / len(test)) ** 0.5,
            " or test_share=0.4" if how.startswith(DRAWN) and options.test_share is None else "",
        )
    notes |= {"split": how, "removed_as_leaking": removed, "examples_sha256": digest(train, dev, test)}
    return Task(name, kind, names, train, dev, test, notes)


@dataclass(frozen=True)
class Inputs:
    """Texts whose answers are asked for.

    Attributes:
        where: the row of each.
        texts: the inputs.
        pairs: the second text of each; `None` where inputs are single texts.
        labels: what the table says of each, as written; `None` where it says nothing.
    """

    where: tuple[str, ...]
    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[str, ...] | None


def inputs_of(table: ExampleTable, options: TableOptions, faults: Faults) -> Inputs:
    """Return the texts of a table, with labels where every row has one. A few blank ones are left out.

    Errors are those of `task_of`, but nothing must have a label.
    """
    columns = choose_columns(faults.source, table.columns, options, labelled=False)
    total = len(table.rows) + len(faults.found)
    rows = _readable(table.rows, replace(columns, target=None, split=None), faults)
    _say_left_out(faults, total)
    labels = [_label_text(row.values.get(columns.label)) for row in rows] if columns.label else [None]
    return Inputs(
        tuple(row.where for row in rows),
        tuple(row.values[columns.text] for row in rows),
        None if columns.text2 is None else tuple(row.values[columns.text2] for row in rows),
        None if None in labels else tuple(map(str, labels)),
    )


def _readable(rows: Sequence[ExampleRow], columns: Columns, faults: Faults) -> list[ExampleRow]:
    """Return the rows whose texts and splits can be read, with a split where a column says it.

    Raises:
        ValueError: for the first that cannot, where none may be left out.
    """
    texts = [columns.text, columns.text2, columns.target if columns.label is None else None]
    read = [column for column in texts if column is not None]
    blank = [any(_is_blank(row.values.get(column)) for column in read) for row in rows]
    few = sum(blank) <= _BLANK * len(rows)
    lenient = replace(faults, skip=faults.skip or few)  # of the same list
    kept = []
    for row, without in zip(rows, blank, strict=True):
        bad = next((c for c in read if not _is_text(row.values.get(c))), None)
        if bad is not None:
            what = f"{bad!r} must be a text that is not blank; got {row.values.get(bad)!r}."
            (lenient if without else faults).meet(row.where, what)
            continue
        given = row.split
        if columns.split is not None:
            given = str(row.values.get(columns.split) or "")
        if given is not None:
            known = given.strip().lower()
            if known not in SPLIT_ALIASES:
                hint = nearest(known, list(SPLIT_ALIASES))
                faults.meet(row.where, f"split={given!r} is unknown. {hint}")
                continue
            given = SPLIT_ALIASES[known]
        kept.append(replace(row, split=given))
    if not kept:
        raise ValueError(f"{faults.source} has no row that can be read. {' '.join(faults.found[:1])}")
    return kept


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_text(value: Any) -> TypeGuard[str]:
    return is_text(value) and bool(value.strip())


def _say_left_out(faults: Faults, rows: int) -> None:
    if not faults.found:
        return
    more = f"; and {len(faults.found) - _SAID} more" if len(faults.found) > _SAID else ""
    said = "; ".join(one.rstrip(".") for one in faults.found[:_SAID])
    log.warning("%s: left out %d of %d rows: %s%s", faults.source, len(faults.found), rows, said, more)


def _say_repeated(source: str, train: Examples, held_out: dict[str, Examples]) -> None:
    """Name rows of train that are in another split too, and go."""
    for split, examples in held_out.items():
        keys = set(examples.input_keys())
        if count := sum(key in keys for key in train.input_keys()):
            log.warning("%s: %d train rows also occur in %s; they are taken out", source, count, split)


_WHOLE = re.compile(
    r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?"
)  # longer numbers are names: no classes are so many
_QUANTITY = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?")


def _say_contradicted(source: str, examples: Examples) -> None:
    """Name texts that have one label here and another there: nothing is right for both."""
    labels: dict[str, set[int]] = {}
    for key, label in zip(examples.input_keys(), examples.labels or (), strict=False):
        labels.setdefault(key, set()).add(label)
    if count := sum(len(own) > 1 for own in labels.values()):
        log.warning("%s: %d texts have different labels in different rows", source, count)


def _label_text(value: Any) -> str | None:
    """Return a label as it is written; `None` for what is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return value.strip() if _is_text(value) else None


def _labelled(
    rows: Sequence[ExampleRow], column: str, faults: Faults
) -> list[tuple[ExampleRow, int]] | list[tuple[ExampleRow, str]]:
    """Return the rows with a label, and those: all of them numbers, or all of them names."""

    def refuse(row: ExampleRow) -> None:
        faults.meet(row.where, f"{column!r} must be an integer or a name; got {row.values.get(column)!r}.")

    found: list[tuple[ExampleRow, str]] = []
    for row in rows:
        text = _label_text(row.values.get(column))
        if text is None:
            refuse(row)
        else:
            found.append((row, text))
    whole = [(row, match) for row, text in found if (match := _WHOLE.fullmatch(text))]
    if len(whole) < len(found):
        if not all(_WHOLE.fullmatch(text) or _QUANTITY.fullmatch(text) for _, text in found):
            return found
        for row, text in found:
            if not _WHOLE.fullmatch(text):
                refuse(row)
    return [(row, int(match[1])) for row, match in whole]


def _classes(
    rows: Sequence[ExampleRow], columns: Columns, given: Sequence[str] | None, faults: Faults
) -> tuple[list[ExampleRow], tuple[str, ...], list[int]]:
    """Return the rows with a class, the class names, and the class index of every such row."""
    column, target = str(columns.label), columns.target
    labelled: Sequence[tuple[ExampleRow, int | str]] = _labelled(rows, column, faults)
    if given is not None:
        names = tuple(given)
        numbers: dict[int | str, int] = {key: i for i in range(len(names)) for key in (i, str(i))}
        index = numbers | {given_name: i for i, given_name in enumerate(names)}
    else:
        values = sorted({label for _, label in labelled})  # type: ignore[type-var]  # all of one kind
        _check_classes(faults.source, column, values, len(labelled))
        names, index = tuple(map(str, values)), {value: i for i, value in enumerate(values)}
        if target is not None and not any(isinstance(value, str) for value in values):
            named: dict[int | str, str] = {}
            for row, label in labelled:
                name = row.values.get(target)
                if not _is_text(name):
                    what = f"{target!r} must be a text that is not blank; got {name!r}."
                    raise ValueError(f"{faults.source}, {row.where}: {what}")
                if named.setdefault(label, name) != name:
                    raise ValueError(
                        f"{faults.source}, {row.where}: {target}={name!r} names the class "
                        f"{column}={label!r}, which was {named[label]!r} above."
                    )
            names = tuple(named[value] for value in values)
    kept = []
    for row, label in labelled:
        if label in index:
            kept.append((row, index[label]))
        else:
            hint = nearest(str(label), names)
            what = f"{column}={label!r} is none of the {len(names)} classes. {hint}"
            faults.meet(row.where, what)
    return [row for row, _ in kept], names, [number for _, number in kept]


def _check_classes(source: str, column: str, values: Sequence[int | str], rows: int) -> None:
    """Refuse a column that tells no classes apart, or all rows from each other."""
    other = "name the column of the labels: label='...'"
    if len(values) == 1:
        raise ValueError(
            f"{source}: {column!r} is {values[0]!r} in every row, where a task needs two or more distinct "
            f"classes; {other}"
        )
    if len(values) == rows > 2:
        raise ValueError(
            f"{source}: {column!r} is different in each of the {rows} rows, which leaves no class to learn; "
            f"{other}, or target='...' for texts to generate"
        )


def _splits(
    rows: Sequence[ExampleRow], examples: Examples, options: TableOptions, source: str
) -> tuple[list[str], str]:
    """Find the split of every row, and say in words how."""
    keys, given = examples.input_keys(), {row.split for row in rows}
    share = options.test_share or 0.2
    if given == {None} or given == {"train"}:
        dev = (1 - share) / 8
        splits = [hash_split(key, 1 - share - dev, dev) for key in keys]
        how = f"{DRAWN}{1 - share - dev:.0%} train, {dev:.0%} dev, {share:.0%} test"
        if moved := _to_train(splits, examples):
            how += f"; {moved} examples of classes without one in train are there"
        return splits, how
    if options.test_share is not None and "test" in given:
        raise ValueError(f"test_share={options.test_share}: {source} has a test split; leave it out.")
    splits, how = [str(row.split) for row in rows], "as given"
    if "test" not in given and options.test_share is not None:
        splits = [
            hash_split(key, 1 - share, 0) if split == "train" else split
            for key, split in zip(keys, splits, strict=True)
        ]
        how = f"test is {share:.0%} of train by SHA-256 of the text"
    elif "test" not in given and "dev" in given:
        splits = ["test" if split == "dev" else split for split in splits]
        how = "the given dev split is the test split"
    if "dev" not in splits:
        splits = [
            hash_split(key, 7 / 8, 1 / 8) if split == "train" else split
            for key, split in zip(keys, splits, strict=True)
        ]
        how += "; dev is an eighth of train by SHA-256 of the text"
    return splits, how


def _to_train(splits: list[str], examples: Examples) -> int:
    """Move classes without an example in train there, in place, and return how many examples that is."""
    labels = examples.labels or ()
    shown = {label for label, split in zip(labels, splits, strict=False) if split == "train"}
    moved = [i for i, label in enumerate(labels) if label not in shown]
    for i in moved:
        splits[i] = "train"
    return len(moved)
