"""The state of a run that was stopped, in one file that only the same run reads."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from deltatheory.deltas.files import read_tensors, write_tensors
from deltatheory.results import configuration_hash

__all__ = ["Checkpoint"]

_FORMAT = "checkpoint 1"


class Checkpoint:
    """A file with the state of one run, which only the run's own configuration may read.

    Args:
        path: the file.
        configuration: what makes the run what it is; plain JSON values.
        optional: what dotted keys begin with that stand there only where they say something: that one of them
            is missing is a difference. Of another key it says that another version wrote the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], configuration: Mapping, optional: Collection[str] = ()
    ) -> None:
        self.path, self._optional = Path(path), tuple(optional)
        self.configuration: dict = json.loads(json.dumps(configuration))

    def save(self, tensors: Mapping[str, Tensor], log: Mapping) -> None:
        """Write the state in place of the last one, atomically."""
        name = configuration_hash(self.configuration)
        note = {"format": _FORMAT, "hash": name, "configuration": self.configuration, "log": log}
        write_tensors(self.path, tensors, note)

    def load(self, log: Mapping) -> tuple[dict[str, Tensor], dict] | None:
        """Return tensors and log of the last state, or `None` where there is none yet.

        Where another version wrote it, a warning says what is left out, and what it is not known to agree in.

        Args:
            log: one of a run that has not begun: with all the keys that there should be.

        Raises:
            ValueError: for a damaged file, or a checkpoint of another configuration.
        """
        if not self.path.exists():
            return None
        tensors, note = read_tensors(self.path)
        if note.get("format") != _FORMAT:
            raise ValueError(
                f"checkpoint={str(self.path)!r} is not one: it holds {note.get('format')!r}, where "
                f"{_FORMAT!r} is read. Give another path, or delete it to start over."
            )
        if not all(isinstance(note.get(part), dict) for part in ("configuration", "log")):
            raise self.damaged("no configuration, or no log")
        there, here = _flat(note["configuration"]), _flat(self.configuration)
        both, unknown = there.keys() & here.keys(), []
        for key in {**there, **here}:
            if there.get(key) == here.get(key):
                continue
            if key in both or key.startswith(self._optional):
                raise ValueError(
                    f"checkpoint={str(self.path)!r} is of another run: there {key}={there.get(key)!r}, here "
                    f"{here.get(key)!r}. Give another path, or delete it to start over."
                )
            unknown.append(f"{key}={here[key]!r} is not in it" if key in here else f"{key}={there[key]!r}")
        kept = note["log"]
        unknown += [f"log.{key}" for key in kept if key not in log]
        unknown += [f"log.{key} is not in it" for key in log if key not in kept]
        if unknown:
            warnings.warn(
                f"checkpoint={str(self.path)!r} is of another version, and the run goes on with what is "
                f"understood; not understood: {', '.join(unknown)}.",
                stacklevel=2,
            )
        return tensors, {key: kept.get(key, start) for key, start in log.items()}

    def damaged(self, why: str) -> ValueError:
        """Return the error of a file whose content cannot be right."""
        return ValueError(f"checkpoint={str(self.path)!r} is damaged ({why}): delete it to start over.")


def _flat(configuration: Mapping, prefix: str = "") -> dict[str, object]:
    """Return nested values under dotted keys."""
    flat: dict[str, object] = {}
    for key, value in configuration.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
