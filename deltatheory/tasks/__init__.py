"""Tasks: texts with labels or target strings, from Python itself, from files, the hub and objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltatheory.tasks.files import SUFFIXES, load_file, read_table
from deltatheory.tasks.hub import load_hub
from deltatheory.tasks.objects import load_object, table_in
from deltatheory.tasks.rows import Inputs, inputs_of
from deltatheory.tasks.stdlib import EMBEDDED, load_stdlib
from deltatheory.tasks.table import Faults, TableOptions
from deltatheory.tasks.task import Examples, Task, nearest

__all__ = ["EMBEDDED", "Examples", "Inputs", "TableOptions", "Task", "load_inputs", "load_task"]


def load_task(source: Any, *, revision: str | None = None, **options: Any) -> Task:
    """Load a task.

    Args:
        source: the name of an embedded task (see `EMBEDDED`); a file (.csv, .tsv, .json, .jsonl, each
            also with .gz, or .parquet) with columns text, text2 (for pairs), label or target, split; or
            `hub:NAME` or `hub:NAME:CONFIG`, a data set of the Hugging Face hub, which may carry its revision,
            as in `hub:NAME@v1:CONFIG`; or a table in memory: a data frame, a `datasets.Dataset` or
            `DatasetDict`, or a list of rows. A task comes back as it is.
        revision: branch, tag or commit of a hub data set.
        options: how a table is read, as `TableOptions` has them: text, text2, label, target and split (names
            of columns), label_names, separator, encoding, skip_bad, test_share.

    Without a test split a text's SHA-256 decides: 70% train, 10% dev, 20% test. Inputs of dev and test are
    taken out of train; `Task.provenance` counts them. A few blank rows are left out. All of this is told to
    the logger "deltatheory.tasks".

    Raises:
        ValueError: for an unknown name, or data that is no task; the message names the place.
        FileNotFoundError: if there is no such file, or the data set cannot be reached.
        ImportError: if a form needs a package that is not installed.
        TypeError: for an option that there is not.

    """
    reading = TableOptions(**options)
    name = str(source) if isinstance(source, str | os.PathLike) else ""
    if name.startswith("hub:"):
        reading.refuse("a data set of the hub", "separator", "encoding")
        return load_hub(name.removeprefix("hub:"), reading, revision)
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} is for hub data sets only (hub:NAME); got the task {name!r}."
        )
    known = source.name if isinstance(source, Task) else name if name in EMBEDDED else None
    if known is not None:
        if given := [f"{key}={value!r}" for key, value in reading.given().items()]:
            raise ValueError(f"The embedded task {known!r} takes no options; got {', '.join(given)}.")
        return source if isinstance(source, Task) else load_stdlib(known)
    if not isinstance(source, str | os.PathLike):
        return load_object(source, reading)
    if isinstance(source, Path) or name.lower().endswith(SUFFIXES) or os.path.exists(name):
        return load_file(Path(name), reading)
    raise ValueError(
        f"Unknown task {name!r}. {nearest(name, list(EMBEDDED))} "
        f"A file must end in {', '.join(SUFFIXES)}; a hub data set is hub:NAME."
    )


def load_inputs(source: Any, **options: Any) -> Inputs:
    """Return the texts of a table, whose answers are asked for; of a task by name those of its test split.

    Args:
        source: what `load_task` takes; a table needs no labels and no splits.
        options: as there.

    Errors are those of `load_task`.
    """
    reading = TableOptions(**options)
    name = str(source) if isinstance(source, str | os.PathLike) else ""
    if name.lower().endswith(SUFFIXES) and not name.startswith("hub:"):
        table, faults, _ = read_table(Path(name), reading)
        return inputs_of(table, reading, faults)
    if not name and not isinstance(source, Task | Mapping):
        return inputs_of(table_in(source), reading, Faults("the table", reading.skip_bad))
    task = load_task(source, **options)
    test = task.test
    labels = None if test.labels is None else tuple(task.label_names[i] for i in test.labels)
    return Inputs(tuple(f"test {i}" for i in range(1, len(test) + 1)), test.texts, test.pairs, labels)
