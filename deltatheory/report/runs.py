"""What has been run in some folders, and how it compares: from the files alone, whatever wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatheory.report.page import count, flat, named, render
from deltatheory.results import ANSWER, Answer, Section, read_json, understood

__all__ = ["PastRun", "comparison", "list_of", "read_runs"]

CLAIM = "run.json"
_NUMBERS = ("result.json", "advice.json", "check.json", "explanation.json", "diagnosis.json")
_SILENT = "– (of an older version, which kept no sentence)"


@dataclass(frozen=True)
class KeptTable:
    """A table of an answer, as its file keeps it."""

    heading: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class PastRun:
    """A run as its folder tells it.

    Attributes:
        folder: where it lies.
        command: which one it was; "" for a result that was saved in Python.
        answer: in a sentence.
        model: its name.
        task: its name.
        time: when it ended, UTC; "" where nothing says it.
        passes: forward-equivalents over single examples.
        seconds: wall-clock time.
        settings: by their dotted names.
        tables: that a terminal shows.
    """

    folder: Path
    command: str
    answer: str = _SILENT
    model: str = ""
    task: str = ""
    time: str = ""
    passes: float | None = None
    seconds: float | None = None
    settings: dict[str, str] = field(default_factory=dict)
    tables: list[KeptTable] = field(default_factory=list)


def read_runs(*folders: Path) -> list[PastRun]:
    """Return the runs in some folders and all below them, the oldest first.

    Raises:
        ValueError: for a folder that is not there.
    """
    found: dict[Path, PastRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"folder={str(folder)!r}: there is no such folder.")
        for path in folder.rglob("*.json"):
            known = path.parent in found or path.name not in (ANSWER, *_NUMBERS)
            if not known and (run := _read(path.parent)):
                found[path.parent] = run
    return sorted(found.values(), key=lambda run: (run.time, str(run.folder)))


def _read(folder: Path) -> PastRun | None:
    """Return the run in a folder; `None` where its files are of something else."""
    claim = _json(folder / CLAIM)
    command = str(claim.get("command", "")) if claim else ""
    record = _json(folder / ANSWER)
    if record is not None:
        about = {key: value for key, value in record.items() if key in PastRun.__dataclass_fields__}
        about = {key: value or "" if key == "time" else value for key, value in about.items()}
        with suppress(ValueError):
            return understood(PastRun, {**about, "folder": folder, "command": command}, str(folder))
        return None
    numbers = next((x for name in _NUMBERS if (x := _json(folder / name))), {})
    about, settings = numbers.get("provenance"), numbers.get("settings", {})
    if not isinstance(about, dict) or not isinstance(settings, dict):
        return None
    seconds = numbers.get("seconds")
    names = named(_Old(about, settings))
    return PastRun(
        folder,
        command,
        model=names.get("model", ""),
        task=names.get("task", ""),
        time=str(about.get("time", "")),
        seconds=seconds if isinstance(seconds, int | float) else None,
        settings=dict(flat(settings)),
    )


@dataclass(frozen=True)
class _Old:
    """What `named` reads of a result."""

    provenance: dict[str, Any]
    settings: dict[str, Any]


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def list_of(runs: Sequence[PastRun]) -> Section:
    """Return a table: what was run, of which task and model, when, at what cost, with which answer."""
    rows = []
    for run in runs:
        # Lines of a cell on a terminal; on a page they are spaces.
        about = "\nwith ".join(filter(None, (run.task, Path(run.model).name)))
        passes = f"{count(run.passes)} passes" if run.passes else ""
        seconds = f"{count(run.seconds)} s" if run.seconds else ""
        costs = "\n".join(filter(None, (run.time[:16].replace("T", " "), passes, seconds)))
        rows.append((str(run.folder), run.command or "Python", about, run.answer, costs))
    columns = ("run", "command", "task and model", "answer", "when (UTC), cost")
    return Section("Runs", columns=columns, rows=rows, brief=True)


def comparison(runs: Sequence[PastRun]) -> str:
    """Return one page: the runs, the settings in which they differ, and the tables of each."""
    names = [str(run.folder) for run in runs]
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    values = {key: [run.settings.get(key, "–") for run in runs] for key in keys}
    differ = [(key, *cells) for key, cells in values.items() if len(set(cells)) > 1]
    sections = [
        list_of(runs),
        Section("Settings in which they differ", columns=("setting", *names), rows=differ),
    ]
    for run in runs:
        for table in run.tables:
            heading = f"{run.folder}: {table.heading}"
            sections.append(Section(heading, columns=table.columns, rows=table.rows))
    said = Answer("Runs", [("", f"{len(runs)} runs side by side")], Section(""), False, sections)
    return render("answer.html", title=said.title, said=said, figures={}, details={}, command="")
