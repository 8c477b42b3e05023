"""What a study covers: backbones, tasks with their families, and seeds."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

from deltatheory.results import read_json, understood, write_json
from deltatheory.tasks import EMBEDDED
from deltatheory.tasks.task import Kind

_LOT = 2026  # seed of the draw of tasks
_LONGEST = 40.0  # mean words of a text: longer ones are cut by every trial
_CLASSES = 30
_LONGEST_ANSWER = 6.0  # mean words of a target
_LEAST_TRAIN, _LEAST_TEST = 400, 150
_ROUND = 24


@dataclass(frozen=True)
class TaskInfo:
    """A task, and what it is a kind of.

    Attributes:
        name: COLLECTION/TASK, or the name of an embedded task.
        category: what it asks ("sentiment", "NLI", ...).
        family: the source that it shares with its siblings, which are not independent of it.
        kind: "classification" or "generation".
    """

    name: str
    category: str
    family: str
    kind: Kind = "classification"

    @property
    def half(self) -> Literal["calibration", "held-out"]:
        """Return which half of the families it belongs to: decided by the name alone, before any run."""
        parity = hashlib.sha256(self.family.encode()).digest()[0] % 2
        return "held-out" if parity else "calibration"


@dataclass(frozen=True)
class Scope:
    """What a study is run on.

    Attributes:
        models: backbones.
        tasks: tasks, in the order of the draw.
        seeds: seeds of every trial where they matter.
    """

    models: tuple[str, ...]
    tasks: tuple[TaskInfo, ...]
    seeds: tuple[int, ...] = (0,)

    @classmethod
    def read(cls, path: Path) -> Scope:
        """Read what `save` wrote; a warning says what of another version's is not understood.

        Raises:
            ValueError: where it is no scope; the message names the file and the place.
        """
        values = read_json(path)
        if unknown := values.keys() - {f.name for f in fields(cls)}:
            warnings.warn(f"{path}: {', '.join(sorted(unknown))} not understood.", stacklevel=2)
        tasks = [asdict(task) for task in _understood(TaskInfo, values.get("tasks"), path)]
        scope = understood(cls, {**values, "tasks": tasks}, str(path))
        if not (scope.models and scope.tasks and scope.seeds):
            raise ValueError(f"{path}: names no models, no tasks or no seeds.")
        return scope

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, asdict(self))

    def peers(self, task: TaskInfo) -> tuple[TaskInfo, ...]:
        """Return the tasks that one is compared with, itself among them: those of the same round of 24.

        Trials that name several tasks stay what they are when more are drawn, and grow linearly with them.
        """
        first = self.tasks.index(task) // _ROUND * _ROUND
        return self.tasks[first : first + _ROUND]

    def joined(self, other: Scope) -> Scope:
        """Return what either covers, this one first.

        Raises:
            ValueError: if one has classification tasks and the other generation tasks: their scores are not
                of a kind.
        """
        if len(kinds := {task.kind for task in self.tasks + other.tasks}) > 1:
            raise ValueError(
                f"tasks of two kinds, {' and '.join(sorted(kinds))}: keep each in its own folder."
            )
        return replace(
            self,
            models=tuple(dict.fromkeys(self.models + other.models)),
            tasks=tuple({t.name: t for t in self.tasks + other.tasks}.values()),
            seeds=tuple(dict.fromkeys(self.seeds + other.seeds)),
        )


@dataclass(frozen=True)
class _Entry:
    """A task as COLLECTION/index.json has it; what it does not say keeps it out of the draw."""

    kind: str
    file: str
    category: str
    source_dataset: str
    labels: list[Any] | None = None
    mean_target_words: float = inf
    mean_input_words: float = inf
    n: dict[str, int] = field(default_factory=dict)

    @property
    def handy(self) -> bool:
        """Return whether it is drawn by lot: short texts, few classes or short targets, enough examples."""
        if self.kind == "classification":
            easy = self.labels is not None and len(self.labels) <= _CLASSES
        else:
            easy = self.mean_target_words <= _LONGEST_ANSWER
        return (
            easy
            and self.mean_input_words <= _LONGEST
            and self.n.get("train", 0) >= _LEAST_TRAIN
            and self.n.get("test", 0) >= _LEAST_TEST
        )


def _understood(kind: type, entries: Any, path: Path) -> Iterator[Any]:
    """Yield those of a file's tasks that are understood; a warning names the others."""
    if not isinstance(entries, list):
        raise ValueError(f"{path}: must have a list of tasks, not {entries!r:.40}.")
    for number, entry in enumerate(entries):
        try:
            yield understood(kind, entry, f"tasks[{number}]")
        except ValueError as error:
            warnings.warn(f"{path}: a task is left out, {error}.", stacklevel=3)


def _listed(data: Path, kind: Kind) -> Iterator[tuple[TaskInfo, _Entry]]:
    for index in sorted(data.glob("*/index.json")):
        for entry in _understood(_Entry, read_json(index).get("tasks", []), index):
            if entry.kind == kind:
                name = f"{index.parent.name}/{Path(entry.file).name.split('.')[0]}"
                yield TaskInfo(name, entry.category, entry.source_dataset, kind), entry


def choose_tasks(data: Path | None, asked: str, kind: Kind = "classification") -> tuple[TaskInfo, ...]:
    """Choose tasks of a data folder.

    Args:
        data: the folder; `None` for the embedded tasks.
        asked: "all", names with commas between them, or a number: so many are drawn by lot, one of every
            family before a second of any, from those with short texts, and few classes or short targets.
        kind: of the tasks.

    Raises:
        ValueError: for a name that is not there, or a number below 1.
    """
    if data is None and kind != "classification":
        raise ValueError(f"kind={kind!r}: no such task is embedded; name a folder of tasks (--data).")
    if data is None:
        usable = found = [TaskInfo(name, "topic", name) for name in EMBEDDED]
    else:
        listed = list(_listed(data, kind))
        found, usable = [task for task, _ in listed], [task for task, entry in listed if entry.handy]
    if not found:
        raise ValueError(f"data={str(data)!r}: holds no COLLECTION/index.json with {kind} tasks.")
    if asked == "all":
        return tuple(found)
    if not asked.isdecimal():
        by_name = {task.name: task for task in found}
        if missing := [name for name in asked.split(",") if name not in by_name]:
            raise ValueError(f"tasks={asked!r}: there is no {', '.join(missing)}; known: {sorted(by_name)}.")
        return tuple(by_name[name] for name in asked.split(","))
    if int(asked) < 1:
        raise ValueError(f"tasks={asked}: must be at least 1, a list of names, or 'all'.")
    if not usable:
        raise ValueError(f"tasks={asked}: none of {str(data)!r} is short enough to be drawn; name some.")
    return tuple(_drawn(usable)[: int(asked)])


def _drawn(tasks: Sequence[TaskInfo]) -> list[TaskInfo]:
    """Return all tasks in an order by lot in which families take turns."""
    lot = random.Random(_LOT)
    shuffled = lot.sample(list(tasks), len(tasks))
    turn: dict[str, int] = {}
    rank = {}
    for task in shuffled:
        rank[task.name] = turn[task.family] = turn.get(task.family, -1) + 1
    return sorted(shuffled, key=lambda task: rank[task.name])
