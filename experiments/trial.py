"""A trial: one thing to run, named by its content, and what is known of those that ran."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deltatheory.results import ResultLog, configuration_hash, standing


@dataclass(frozen=True)
class Trial:
    """One run of a study; equal trials of several studies are run once.

    Attributes:
        kind: a key of `experiments.kinds.KINDS`, which says what is done.
        model: a backbone, as `Environment.backbone` finds it.
        task: COLLECTION/TASK of a data folder, or the name of an embedded task.
        delta: what is tuned, with its size after a colon ("lora:8"); empty where the kind takes none.
        options: further arguments of its class.
        seed: of subspaces, data order and draws.
        settings: hyper-parameters of the kind.
    """

    kind: str
    model: str
    task: str
    delta: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Return what the hash names, and the log keeps."""
        return dict(vars(self))

    @property
    def hash(self) -> str:
        """Return the name by content."""
        return configuration_hash(self.config)

    def __str__(self) -> str:
        return " ".join(str(x) for x in (self.kind, self.model, self.task, self.delta, self.seed) if x != "")


class Known:
    """The results of a log, looked up by trial; a trial that failed is not known.

    Attributes:
        derived: what studies have worked out from these results, which do not change.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = {name: row["result"] for name, row in standing(rows).items()}
        self.derived: dict[Hashable, Any] = {}

    @classmethod
    def read(cls, log: ResultLog) -> Known:
        """Read a log."""
        return cls(log.rows())

    def get(self, trial: Trial) -> dict[str, Any] | None:
        """Return a trial's result, or `None` where it has not run or failed."""
        result = self._rows.get(trial.hash)
        return None if result is None or "error" in result else result

    def error(self, trial: Trial) -> str | None:
        """Return why a trial failed, or `None`."""
        return (self._rows.get(trial.hash) or {}).get("error")

    def __len__(self) -> int:
        return len(self._rows)
