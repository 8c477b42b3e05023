"""Tasks from data sets of the Hugging Face hub, or folders of the same form, through `datasets`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from deltatheory.tasks.rows import SPLIT_ALIASES, ExampleRow, choose_columns, task_from_rows
from deltatheory.tasks.task import Task

_PAIRS = (
    ("text", "text2"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
)
_TEXTS = ("text", "sentence", "content", "review", "utterance", "question", "document")
_LABELS = ("label", "labels", "coarse_label", "intent", "category", "topic")
_TARGETS = ("target", "summary", "answer")


def load_hub(
    spec: str, asked: dict[str, str | None], label_names: Sequence[str] | None, revision: str | None
) -> Task:
    """Load a data set by name.

    Args:
        spec: `NAME` or `NAME:CONFIG`, with its revision as in `NAME@v1:CONFIG`; a folder of data files is a
            name too.
        asked: text, text2, label, target -> the user's name of that column, or `None` to guess.
        label_names: class names in the order of integer labels, where the data set does not say.
        revision: branch, tag or commit of the data set.

    Raises:
        ImportError: if `datasets` is not installed.
        FileNotFoundError: if the data set cannot be reached.
        ValueError: for no name, or if the configuration, the data or the columns do not fit.

    """
    name, _, config = spec.partition(":")
    folder = os.path.isdir(name)
    if not folder and "@" in name:
        name, _, named = name.partition("@")
        if revision is not None:
            raise ValueError(f"revision={revision!r}: 'hub:{spec}' says another; give one.")
        revision = named
    if not name.strip():
        raise ValueError(f"'hub:{spec}' names no data set: give hub:NAME or hub:NAME:CONFIG.")
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hub data sets need `datasets`: pip install 'deltatheory[data]'.") from error
    try:
        # In two steps, for the first knows which commit a branch or tag stands for. `datasets` runs no code
        # that comes with data since version 4.
        builder = datasets.load_dataset_builder(name, config or None, revision=revision)
        builder.download_and_prepare()
        loaded: Any = builder.as_dataset()
    except OSError as error:
        raise FileNotFoundError(
            f"Cannot reach the data set {name!r}: {error}. Check the name (owner/name) and the network."
        ) from error
    except Exception as error:  # `datasets` has a class of its own for each thing that is wrong with data
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"Cannot load {name!r} with config={config or None!r}. Cause: {cause}") from error
    splits = {str(split): table for split, table in loaded.items() if str(split) in SPLIT_ALIASES}
    if not splits:
        raise ValueError(
            f"{spec!r} has no train, dev or test split; its splits are {', '.join(map(str, loaded))}."
        )

    features = next(iter(splits.values())).features
    columns = choose_columns(spec, list(features), asked, _defaults(list(features), asked))
    if label_names is None and columns.label is not None:
        label_names = getattr(features[columns.label], "names", None)  # ClassLabel knows its names
    rows = []
    for split, table in splits.items():
        values = [ExampleRow(f"{split} row {i}", row, split) for i, row in enumerate(table, start=1)]
        # Benchmarks keep the answers of their test split to themselves, as -1.
        if columns.label is None or any(row.values[columns.label] not in (-1, None) for row in values):
            rows += values
    return task_from_rows(
        rows,
        columns,
        name=PurePath(name).name + (f"-{config}" if config else ""),
        source=spec,
        label_names=label_names,
        provenance={
            "source": f"hub:{spec}",
            "revision": None if folder else builder.hash,
            "columns": {role: column for role, column in vars(columns).items() if column is not None},
            "splits_read": sorted({row.split for row in rows if row.split}),
        },
    )


def _defaults(present: list[str], asked: dict[str, str | None]) -> dict[str, Sequence[str]]:
    """Columns to look for: a known pair if both are there, else a single text."""
    pair = next((pair for pair in _PAIRS if set(pair) <= set(present)), ())
    if asked["text"] is not None:  # who names the text only, wants that text only
        pair = ()
    return {
        "text": pair[:1] or _TEXTS,
        "text2": pair[1:],
        "label": _LABELS,
        "target": _TARGETS,
    }
