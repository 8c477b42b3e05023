"""Tasks from tables in memory: a data frame, a `datasets.Dataset`, rows, or splits of one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltatheory.tasks.rows import SPLIT_ALIASES, task_of
from deltatheory.tasks.table import ExampleRow, ExampleTable, Faults, TableOptions, choose_columns
from deltatheory.tasks.task import Task

__all__ = ["load_object", "table_in"]


def load_object(
    given: Any,
    options: TableOptions,
    *,
    source: str = "the table",
    name: str = "table",
    provenance: Mapping[str, Any] | None = None,
) -> Task:
    """Load a task from a table in memory.

    Args:
        given: a data frame of pandas or polars, a `datasets.Dataset`, a list of rows (mappings), or a mapping
            of splits (train, dev, test) to one of these, as a `DatasetDict` is.
        options: how it is read.
        source: what it is called in messages.
        name: of the task.
        provenance: where it came from.

    Raises:
        ValueError: for something else, or what is no task.
    """
    options.refuse("a table in memory", "separator", "encoding")
    notes: dict[str, Any] = dict(provenance or {"source": type(given).__name__})
    faults = Faults(source, options.skip_bad)
    if not isinstance(given, Mapping):
        return task_of(table_in(given), options, faults, name=name, provenance=notes)
    splits = {str(split): table for split, table in given.items() if str(split).lower() in SPLIT_ALIASES}
    if not splits:
        raise ValueError(
            f"{source!r} has no train, dev or test split; its splits are {', '.join(map(str, given))}."
        )
    tables = {split: table_in(table) for split, table in splits.items()}
    first = next(iter(tables.values()))
    label = choose_columns(source, first.columns, options).label
    rows = []
    for split, table in tables.items():
        # Benchmarks keep the answers of their test split to themselves, as -1.
        if label is None or any(row.values.get(label) not in (-1, None) for row in table.rows):
            rows += [ExampleRow(f"{split} {row.where}", row.values, split) for row in table.rows]
    notes["splits_read"] = sorted({row.split for row in rows if row.split})
    columns = list(dict.fromkeys(column for table in tables.values() for column in table.columns))
    whole = ExampleTable(columns, rows, first.class_names)
    return task_of(whole, options, faults, name=name, provenance=notes)


def table_in(given: Any) -> ExampleTable:
    """Return the table that an object holds.

    Raises:
        ValueError: for an object that holds none.
    """
    if hasattr(given, "to_dicts"):  # polars
        records = given.to_dicts()
    elif hasattr(given, "columns") and hasattr(given, "to_dict"):  # pandas
        records = given.to_dict("records")
    elif hasattr(given, "column_names") or (
        isinstance(given, Sequence) and given and all(isinstance(row, Mapping) for row in given)
    ):
        records = list(given)
    else:
        raise ValueError(
            f"task={type(given).__name__}: must be a name, a file, a data frame, a datasets.Dataset or "
            "DatasetDict, or a list of rows as mappings."
        )
    rows = [
        ExampleRow(f"row {i}", {str(column): _cell(value) for column, value in record.items()})
        for i, record in enumerate(records, start=1)
    ]
    columns = getattr(given, "column_names", None) or getattr(given, "columns", None)
    if columns is None:
        columns = dict.fromkeys(column for record in records for column in record)
    features = getattr(given, "features", None) or {}
    names = {column: kind.names for column, kind in features.items() if hasattr(kind, "names")}
    return ExampleTable(list(map(str, columns)), rows, names)


def _cell(value: Any) -> Any:
    """Return a value as Python has it; a missing number is no value."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
