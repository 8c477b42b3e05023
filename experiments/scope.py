"""What a study covers: backbones, tasks with their families, and seeds."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from deltatheory.results import write_json
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
    seeds: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> Scope:
        """Read what `save` wrote."""
        values = json.loads(path.read_text())
        tasks = tuple(TaskInfo(**task) for task in values["tasks"])
        return cls(tuple(values["models"]), tasks, tuple(values["seeds"]))

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


def find_tasks(data: Path | None, kind: Kind = "classification") -> list[TaskInfo]:
    """Return the tasks of a kind in a data folder (COLLECTION/index.json), or the embedded ones."""
    if data is None and kind == "classification":
        return [TaskInfo(name, "topic", name) for name in EMBEDDED]
    if data is None:
        raise ValueError(f"kind={kind!r}: no such task is embedded; name a folder of tasks (--data).")
    found = []
    for index in sorted(data.glob("*/index.json")):
        for entry in json.loads(index.read_text()).get("tasks", ()):
            if entry.get("kind") == kind:
                name = f"{index.parent.name}/{Path(entry['file']).name.split('.')[0]}"
                found.append(TaskInfo(name, entry["category"], entry["source_dataset"], kind))
    if not found:
        raise ValueError(f"data={str(data)!r}: holds no COLLECTION/index.json with {kind} tasks.")
    return found


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
    found = find_tasks(data, kind)
    if asked == "all":
        return tuple(found)
    if not asked.isdigit():
        by_name = {task.name: task for task in found}
        if missing := [name for name in asked.split(",") if name not in by_name]:
            raise ValueError(f"tasks={asked!r}: there is no {', '.join(missing)}; known: {sorted(by_name)}.")
        return tuple(by_name[name] for name in asked.split(","))
    if int(asked) < 1:
        raise ValueError(f"tasks={asked}: must be at least 1, a list of names, or 'all'.")
    usable = found if data is None else [task for task in found if _handy(data, task)]
    return tuple(_drawn(usable)[: int(asked)])


def _handy(data: Path, task: TaskInfo) -> bool:
    folder, name = task.name.split("/")
    entries = json.loads((data / folder / "index.json").read_text())["tasks"]
    entry = next(e for e in entries if Path(e["file"]).name.split(".")[0] == name)
    if task.kind == "classification":
        easy = len(entry["labels"]) <= _CLASSES
    else:
        easy = entry["mean_target_words"] <= _LONGEST_ANSWER
    return (
        easy
        and entry["mean_input_words"] <= _LONGEST
        and entry["n"]["train"] >= _LEAST_TRAIN
        and entry["n"]["test"] >= _LEAST_TEST
    )


def _drawn(tasks: Sequence[TaskInfo]) -> list[TaskInfo]:
    """Return all tasks in an order by lot in which families take turns."""
    lot = random.Random(_LOT)
    shuffled = lot.sample(list(tasks), len(tasks))
    turn: dict[str, int] = {}
    rank = {}
    for task in shuffled:
        rank[task.name] = turn[task.family] = turn.get(task.family, -1) + 1
    return sorted(shuffled, key=lambda task: rank[task.name])
