"""Tasks: texts with labels or target strings, from Python itself, from files, from the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deltatheory.tasks.files import SUFFIXES, load_file
from deltatheory.tasks.hub import load_hub
from deltatheory.tasks.stdlib import EMBEDDED, load_stdlib
from deltatheory.tasks.task import Examples, Task, nearest

__all__ = ["EMBEDDED", "Examples", "Task", "load_task"]


def load_task(
    name_or_path: str | Path,
    *,
    text: str | None = None,
    text2: str | None = None,
    label: str | None = None,
    target: str | None = None,
    label_names: Sequence[str] | None = None,
    revision: str | None = None,
) -> Task:
    """Load a task.

    Args:
        name_or_path: the name of an embedded task (see `EMBEDDED`); a file (.csv, .tsv, .json, .jsonl, each
            also with .gz, or .parquet) with columns text, text2 (for pairs), label or target, split; or
            `hub:NAME` or `hub:NAME:CONFIG`, a data set of the Hugging Face hub, whose columns are guessed; it
            may carry its revision, as in `hub:NAME@v1:CONFIG`.
        text: column of the inputs, where it is not called so.
        text2: column of the second texts.
        label: column of the labels (whole numbers or names).
        target: column of the strings to generate. With a label column it names the classes.
        label_names: names of the classes 0, 1, ... where the data gives integers only.
        revision: branch, tag or commit of a hub data set.

    Without a split column a text's SHA-256 decides: 70% train, 10% dev, 20% test. Inputs of dev and test are
    taken out of train; `Task.provenance` counts them.

    Raises:
        ValueError: for an unknown name, or data that is no task; the message names the place.
        FileNotFoundError: if there is no such file, or the data set cannot be reached.
        ImportError: if a form needs a package that is not installed.

    """
    name = str(name_or_path)
    if isinstance(label_names, str):
        raise ValueError(f"label_names={label_names!r}: must be a list of names, one a class.")
    asked = {"text": text, "text2": text2, "label": label, "target": target}
    if name.startswith("hub:"):
        return load_hub(name.removeprefix("hub:"), asked, label_names, revision)
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} is for hub data sets only (hub:NAME); got the task {name!r}."
        )
    if name in EMBEDDED:
        given = [f"{key}={value!r}" for key, value in {**asked, "label_names": label_names}.items() if value]
        if given:
            raise ValueError(f"The embedded task {name!r} takes no options; got {', '.join(given)}.")
        return load_stdlib(name)
    if isinstance(name_or_path, Path) or name.lower().endswith(SUFFIXES) or os.path.exists(name):
        return load_file(Path(name), asked, label_names)
    raise ValueError(
        f"Unknown task {name!r}. {nearest(name, list(EMBEDDED))} "
        f"A file must end in {', '.join(SUFFIXES)}; a hub data set is hub:NAME."
    )
