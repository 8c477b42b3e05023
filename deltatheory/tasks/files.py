"""Tasks from files: JSON lines (plain or gzip), CSV, Parquet."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from deltatheory.tasks.rows import ExampleRow, choose_columns, task_from_rows
from deltatheory.tasks.task import Task, nearest

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".parquet")
_DEFAULTS = {"text": ("text",), "text2": ("text2",), "label": ("label",), "target": ("target",)}
# What a collection's index.json says of a file that is worth keeping beside the examples.
_INDEX_NOTES = ("category", "instruction", "source_dataset", "licence", "licence_tier")


def load_file(path: Path, asked: dict[str, str | None], label_names: Sequence[str] | None) -> Task:
    """Load a task from a table with columns text, text2 (pairs), label or target, split (optional).

    Args:
        path: a file whose name ends in one of `SUFFIXES`. A file `<collection>/tasks/<id>.jsonl.gz` takes its
            class names and notes from `<collection>/index.json` where that exists.
        asked: text, text2, label, target -> the user's name of that column, or `None` for the default.
        label_names: class names in the order of integer labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read or is no task; the message names the line.

    """
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(
            f"Cannot tell the form of {str(path)!r}: its name must end in {', '.join(SUFFIXES)}."
        )
    if not path.is_file():
        others = sorted(f.name for f in path.parent.glob("*") if f.name.lower().endswith(SUFFIXES))
        hint = nearest(path.name, others) if others else f"{str(path.parent)!r} has no such file."
        raise FileNotFoundError(f"No file {str(path)!r}. {hint}")
    data = path.read_bytes()
    read = {".csv": _read_csv, ".parquet": _read_parquet}.get(suffix, _read_json_lines)
    rows = read(path, data)
    if not rows:
        raise ValueError(f"{path.name} has no rows.")
    present = list(dict.fromkeys(column for row in rows for column in row.values))
    if "split" in present:
        rows = [ExampleRow(row.where, row.values, str(row.values.get("split") or "")) for row in rows]
    entry = _index_entry(path)
    notes = {"title": entry["name"]} if "name" in entry else {}
    notes |= {key: entry[key] for key in _INDEX_NOTES if key in entry}
    return task_from_rows(
        rows,
        choose_columns(path.name, present, asked, _DEFAULTS),
        name=path.name[: -len(suffix)],
        source=path.name,
        label_names=label_names or entry.get("labels") or None,
        provenance={"source": path.name, "file_sha256": hashlib.sha256(data).hexdigest(), **notes},
    )


def _index_entry(path: Path) -> dict:
    """Look up what the collection's index.json says of the file; empty where there is no such index."""
    index = path.absolute().parent.parent / "index.json"
    try:
        tasks = json.loads(index.read_text(encoding="utf-8"))["tasks"]
        wanted = f"{path.absolute().parent.name}/{path.name}"
        return next(entry for entry in tasks if entry["file"] == wanted)
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return {}  # somebody else's index.json, or none: the file stands for itself


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8."
        ) from error


def _read_json_lines(path: Path, data: bytes) -> list[ExampleRow]:
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path.name} is not a whole gzip file: {error}.") from error
    rows = []
    # Not splitlines(): a text may hold other line separators (U+2028).
    for number, line in enumerate(_decode(path, data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(values, dict):
            raise ValueError(
                f"{path.name}, line {number}: must be one JSON object; got {line.strip()[:40]!r}."
            )
        rows.append(ExampleRow(f"line {number}", values))
    return rows


def _read_csv(path: Path, data: bytes) -> list[ExampleRow]:
    reader = csv.DictReader(io.StringIO(_decode(path, data), newline=""))
    rows = []
    try:
        for values in reader:
            if None in values or None in values.values():
                raise ValueError(
                    f"{path.name}, line {reader.line_num}: not one cell for each of the columns "
                    f"{', '.join(reader.fieldnames or ())}."
                )
            rows.append(ExampleRow(f"line {reader.line_num}", dict(values)))
    except csv.Error as error:
        raise ValueError(f"{path.name}, after line {reader.line_num}: not valid CSV ({error}).") from error
    return rows


def _read_parquet(path: Path, data: bytes) -> list[ExampleRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'deltatheory[data]'.") from error
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path.name} is not a whole Parquet file: {error}.") from error
    return [ExampleRow(f"row {i}", values) for i, values in enumerate(table.to_pylist(), start=1)]
