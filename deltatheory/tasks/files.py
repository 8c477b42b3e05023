"""Tasks from tables in files: CSV, TSV, JSON, JSON lines (each also with gzip) and Parquet.

All of them become the same rows under the same rules, so a table gives one task in whichever form it comes:
nothing is guessed from the values of other rows or from a form's own types. A cell is a text as written; what
a label is, `rows.py` says. The readers are those of Python and of pyarrow, as strict as they come.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deltatheory._texts import is_text
from deltatheory.tasks.rows import ExampleRow, choose_columns, task_from_rows
from deltatheory.tasks.task import Task, nearest

_DEFAULTS = {"text": ("text",), "text2": ("text2",), "label": ("label",), "target": ("target",)}
# What a collection's index.json says of a file that is worth keeping beside the examples.
_INDEX_NOTES = ("category", "instruction", "source_dataset", "licence", "licence_tier")
_LARGEST = 1 << 30  # bytes to which a compressed file may unpack


@dataclass(frozen=True)
class _Table:
    """Columns in their order, with repetitions; rows; and the class names that a column knows itself."""

    columns: Sequence[str]
    rows: Sequence[ExampleRow]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


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
    if not is_text(str(path)):
        raise ValueError(f"Cannot write the name {str(path)!r} into a result: rename the file.")
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(
            f"Cannot tell the form of {str(path)!r}: its name must end in {', '.join(SUFFIXES)}."
        )
    if not path.exists():
        others = sorted(f.name for f in path.parent.glob("*") if f.name.lower().endswith(SUFFIXES))
        hint = nearest(path.name, others) if others else f"{str(path.parent)!r} has no such file."
        raise FileNotFoundError(f"No file {str(path)!r}. {hint}")
    if not path.is_file():  # a pipe or a device may never end
        raise ValueError(f"{str(path)!r} is no plain file: a folder, a pipe or a device is not read.")
    data = path.read_bytes()
    form = suffix.removesuffix(".gz")
    table = _READERS[form](path.name, data if form == suffix else _unpacked(path.name, data))
    if not table.rows:
        raise ValueError(f"{path.name} has no rows.")
    columns = choose_columns(path.name, table.columns, asked, _DEFAULTS)
    rows = table.rows
    if "split" in table.columns:
        rows = [ExampleRow(row.where, row.values, str(row.values.get("split") or "")) for row in rows]
    entry = _index_entry(path)
    notes = {"title": entry["name"]} if "name" in entry else {}
    notes |= {key: entry[key] for key in _INDEX_NOTES if key in entry}
    return task_from_rows(
        rows,
        columns,
        name=path.name[: -len(suffix)],
        source=path.name,
        label_names=label_names or entry.get("labels") or table.class_names.get(columns.label or ""),
        provenance={"source": path.name, "file_sha256": hashlib.sha256(data).hexdigest(), **notes},
    )


def _index_entry(path: Path) -> dict:
    """Look up what the collection's index.json says of the file; empty where there is no such index."""
    index = path.absolute().parent.parent / "index.json"
    if not index.is_file():
        return {}
    try:
        tasks = json.loads(index.read_text(encoding="utf-8"))["tasks"]
        wanted = f"{path.absolute().parent.name}/{path.name}"
        entry = next(entry for entry in tasks if entry["file"] == wanted)
        labels = entry.get("labels") or []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        return {}  # somebody else's index.json: the file stands for itself
    if not isinstance(labels, list) or not all(map(is_text, labels)):
        raise ValueError(f"{str(index)!r}: labels of {wanted!r} must be a list of names; got {labels!r}.")
    return entry


def _unpacked(name: str, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            plain = stream.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} is not a whole gzip file: {error}.") from error
    return _of_bearable_size(name, plain, len(plain))


def _of_bearable_size(name: str, value: Any, size: int) -> Any:
    """Refuse a small file that unpacks to more than memory may hold."""
    if size > _LARGEST:
        raise ValueError(
            f"{name} unpacks to more than {_LARGEST >> 20} MiB: take a part of it, or unpack it yourself."
        )
    return value


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}). Save the file as UTF-8."
        ) from error


def _delimited(name: str, data: bytes, delimiter: str) -> _Table:
    reader = csv.reader(io.StringIO(_decode(name, data), newline=""), delimiter=delimiter, strict=True)
    rows = []
    limit = csv.field_size_limit(1 << 31 - 1)  # of the process: put back below
    try:
        columns = next(reader, [])
        for cells in filter(None, reader):  # a blank line has no cells
            if len(cells) != len(columns):
                raise ValueError(
                    f"{name}, line {reader.line_num}: not one cell for each of the columns "
                    f"{', '.join(columns)}."
                )
            rows.append(ExampleRow(f"line {reader.line_num}", dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: not valid CSV ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    return _Table(columns, rows)


def _json_value(where: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ValueError(f"{twice!r} is there twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}).") from error


def _of_objects(found: list[tuple[str, str, Any]]) -> _Table:
    """Make a table of (file, place, object)."""
    rows = []
    for name, where, value in found:
        if not isinstance(value, dict):
            raise ValueError(f"{name}, {where}: must be one JSON object; got {json.dumps(value)[:40]}.")
        rows.append(ExampleRow(where, value))
    return _Table(list(dict.fromkeys(column for row in rows for column in row.values)), rows)


def _json_lines(name: str, data: bytes) -> _Table:
    # Not splitlines(): a text may hold other line separators (U+2028).
    lines = enumerate(_decode(name, data).split("\n"), start=1)
    places = [(f"line {number}", line) for number, line in lines if line.strip()]
    return _of_objects([(name, where, _json_value(f"{name}, {where}", line)) for where, line in places])


def _json_array(name: str, data: bytes) -> _Table:
    found = _json_value(name, _decode(name, data))
    if not isinstance(found, list):
        raise ValueError(f"{name}: must be one JSON array of objects; one object a line is called .jsonl.")
    return _of_objects([(name, f"object {i}", value) for i, value in enumerate(found, start=1)])


def _parquet(name: str, data: bytes) -> _Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'deltatheory[data]'.") from error
    batches, size = [], 0
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        for batch in file.iter_batches(batch_size=1024):
            size += batch.nbytes
            batches.append(_of_bearable_size(name, batch, size))
        table = pyarrow.Table.from_batches(batches, file.schema_arrow)
        table.validate(full=True)
        values = table.to_pylist()
    except Exception as error:  # a damaged file comes as any of Arrow's errors
        cause = " ".join(str(error).split())
        raise ValueError(f"{name} is not a whole Parquet file: {cause}.") from error
    rows = [ExampleRow(f"row {i}", row) for i, row in enumerate(values, start=1)]
    return _Table(table.schema.names, rows, _class_names(table.schema.metadata or {}))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Return the names that the package `datasets` writes beside the columns of a Parquet file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        kinds = {column: kind for column, kind in features.items() if kind["_type"] == "ClassLabel"}
        return {column: kind["names"] for column, kind in kinds.items() if all(map(is_text, kind["names"]))}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # nobody wrote any


_READERS: dict[str, Callable[[str, bytes], _Table]] = {
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".parquet": _parquet,
}
SUFFIXES = tuple(form + end for end in (".gz", "") for form in _READERS if form + end != ".parquet.gz")
