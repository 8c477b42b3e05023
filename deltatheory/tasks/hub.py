"""Tasks from data sets of the Hugging Face hub, or folders of the same form, through `datasets`."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from deltatheory.tasks.objects import load_object
from deltatheory.tasks.table import TableOptions
from deltatheory.tasks.task import Task


def load_hub(spec: str, options: TableOptions, revision: str | None) -> Task:
    """Load a data set by name.

    Args:
        spec: `NAME` or `NAME:CONFIG`, with its revision as in `NAME@v1:CONFIG`; a folder of data files is a
            name too.
        options: how its table is read.
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
    return load_object(
        loaded,
        options,
        source=spec,
        name=PurePath(name).name + (f"-{config}" if config else ""),
        provenance={"source": f"hub:{spec}", "revision": None if folder else builder.hash},
    )
