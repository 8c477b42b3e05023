"""The state of a run that was stopped, in one file that only the same run reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deltatheory.deltas.files import read_tensors, write_tensors
from deltatheory.results import configuration_hash

__all__ = ["Checkpoint"]

_FORMAT = "checkpoint 1"
_LATER = ("backbone.files_sha256",)  # what checkpoints of older versions do not name


class Checkpoint:
    """A file with the state of one run, which only the run's own configuration may read.

    Args:
        path: the file.
        configuration: what makes the run what it is; plain JSON values.
    """

    def __init__(self, path: str | os.PathLike[str], configuration: Mapping) -> None:
        self.path = Path(path)
        self.configuration: dict = json.loads(json.dumps(configuration))

    def save(self, tensors: Mapping[str, Tensor], log: Mapping) -> None:
        """Write the state in place of the last one, atomically."""
        name = configuration_hash(self.configuration)
        note = {"format": _FORMAT, "hash": name, "configuration": self.configuration, "log": log}
        write_tensors(self.path, tensors, note)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """Return tensors and log of the last state, or `None` where there is none yet.

        Raises:
            ValueError: for a damaged file, or a checkpoint of another configuration.
        """
        if not self.path.exists():
            return None
        tensors, note = read_tensors(self.path)
        if note.get("format") != _FORMAT:
            raise ValueError(f"checkpoint={str(self.path)!r} is not one: it holds {note.get('format')!r}.")
        there, here = _flat(note["configuration"]), _flat(self.configuration)
        for key in {**there, **here}:
            if there.get(key) != here.get(key) and not (key in _LATER and key not in there):
                raise ValueError(
                    f"checkpoint={str(self.path)!r} is of another run: there {key}={there.get(key)!r}, here "
                    f"{here.get(key)!r}. Give another path, or delete it to start over."
                )
        return tensors, note["log"]


def _flat(configuration: Mapping, prefix: str = "") -> dict[str, object]:
    """Return nested values under dotted keys."""
    flat: dict[str, object] = {}
    for key, value in configuration.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
