"""A trial: one thing to run, named by its content, and what is known of those that ran."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

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


T = TypeVar("T")


class _Result(dict[str, Any]):
    """A result, or an object in one: asked for a key that it lacks it names its row."""

    def __init__(self, values: Mapping[str, Any], row: str) -> None:
        super().__init__({key: _named(value, row) for key, value in values.items()})
        self.row = row

    def __missing__(self, key: str) -> Any:
        raise _OfAnotherVersion(self.row, key)


class _OfAnotherVersion(KeyError):
    """(hash, key): a row lacks what a study asks of it."""


def _named(value: Any, row: str) -> Any:
    if isinstance(value, dict):
        return _Result(value, row)
    if isinstance(value, list):
        return [_named(item, row) if isinstance(item, dict | list) else item for item in value]
    return value


class Known:
    """The results of a log, looked up by trial; a trial that failed is not known.

    Attributes:
        derived: what studies have worked out from these results, which do not change.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = {name: _Result(row["result"], name) for name, row in standing(rows).items()}
        self.derived: dict[Hashable, Any] = {}

    @classmethod
    def read(cls, log: ResultLog) -> Known:
        """Read a log."""
        return cls(log.rows())

    def read_by(self, study: Callable[[], T]) -> T:
        """Return what a study makes of these results.

        A row that lacks what the study asks of it, as another version's may, is not known from here on; a
        warning names it.

        Args:
            study: asks for results.

        Raises:
            ValueError: where results are of other types than the study expects.
        """
        while True:
            try:
                return study()
            except _OfAnotherVersion as lacking:
                row, key = lacking.args
                warnings.warn(f"row {row} is passed over, it has no {key!r}.", stacklevel=2)
                del self._rows[row]
                self.derived.clear()
            except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
                raise ValueError(f"rows are not understood, {type(error).__name__}: {error}") from error

    def get(self, trial: Trial) -> dict[str, Any] | None:
        """Return a trial's result, or `None` where it has not run or failed."""
        result = self._rows.get(trial.hash)
        return None if result is None or "error" in result else result

    def error(self, trial: Trial) -> str | None:
        """Return why a trial failed, or `None`."""
        return (self._rows.get(trial.hash) or {}).get("error")

    def __len__(self) -> int:
        return len(self._rows)
