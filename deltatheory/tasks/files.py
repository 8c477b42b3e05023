"""Tasks from tables in files: CSV, TSV, JSON, JSON lines (each also with gzip) and Parquet.

All of them become the same rows under the same rules, so a table gives one task in whichever form it comes:
nothing is guessed from the values of other rows or from a form's own types. A cell is a text as written; what
a label is, `rows.py` says. The readers are those of Python and of pyarrow, as strict as they come.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deltatheory._texts import is_text
from deltatheory.tasks.rows import task_of
from deltatheory.tasks.table import SEPARATORS, ExampleRow, ExampleTable, Faults, TableOptions
from deltatheory.tasks.task import Task, nearest

# What a collection's index.json says of a file that is worth keeping beside the examples.
_INDEX_NOTES = ("category", "instruction", "source_dataset", "licence", "licence_tier")
_LARGEST = 1 << 30  # bytes to which a compressed file may unpack
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def load_file(path: Path, options: TableOptions) -> Task:
    """Load a task from a table in a file.

    Args:
        path: a file whose name ends in one of `SUFFIXES`. A file `<collection>/tasks/<id>.jsonl.gz` takes its
            class names and notes from `<collection>/index.json` where that exists.
        options: how it is read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read or is no task; the message names the line.

    """
    table, faults, digest = read_table(path, options)
    entry = _index_entry(path)
    labels = list(entry.get("labels") or ())
    if labels:
        table = ExampleTable(table.columns, table.rows, dict.fromkeys(table.columns, labels))
    notes = {"title": entry["name"]} if "name" in entry else {}
    notes |= {key: entry[key] for key in _INDEX_NOTES if key in entry}
    name = path.name[: -len(_suffix(path))]
    about = {"source": path.name, "file_sha256": digest, **notes}
    return task_of(table, options, faults, name=name, provenance=about)


def read_table(path: Path, options: TableOptions) -> tuple[ExampleTable, Faults, str]:
    """Return what a file holds, the rows that could not be read, and the SHA-256 of its bytes.

    Errors are those of `load_file`.
    """
    if not is_text(str(path)):
        raise ValueError(f"Cannot write the name {str(path)!r} into a result: rename the file.")
    suffix = _suffix(path)
    if not path.exists():
        others = sorted(f.name for f in path.parent.glob("*") if f.name.lower().endswith(SUFFIXES))
        hint = nearest(path.name, others) if others else f"{str(path.parent)!r} has no such file."
        raise FileNotFoundError(f"No file {str(path)!r}. {hint}")
    if not path.is_file():  # a pipe or a device may never end
        raise ValueError(f"{str(path)!r} is no plain file: a folder, a pipe or a device is not read.")
    form = suffix.removesuffix(".gz")
    if form not in _TABULAR:
        options.refuse(f"a {form} file", "separator")
    if form == ".parquet":
        options.refuse(f"a {form} file", "encoding")
    data, faults = path.read_bytes(), Faults(path.name, options.skip_bad)
    plain = data if form == suffix else _unpacked(path.name, data)
    return _READERS[form](plain, options, faults), faults, hashlib.sha256(data).hexdigest()


def _suffix(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(
            f"Cannot tell the form of {str(path)!r}: its name must end in {', '.join(SUFFIXES)}. "
            "A spreadsheet can be saved as .csv."
        )
    return suffix


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


def _decode(data: bytes, options: TableOptions, faults: Faults) -> str:
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    encoding = options.encoding or marked or "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        name = faults.source
        if not isinstance(error, UnicodeDecodeError):  # cut in the middle of a mark
            raise ValueError(f"{name}: not {encoding.upper()} ({error}).") from error
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: not {encoding.upper()} (byte 0x{data[error.start]:02x}). Save the file as "
            "UTF-8, or say encoding='cp1252' or what it is."
        ) from error


def _delimited(data: bytes, options: TableOptions, faults: Faults, usual: str) -> ExampleTable:
    text = _decode(data, options, faults).removeprefix("\ufeff")
    delimiter = options.separator or _separator(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    limit = csv.field_size_limit(1 << 31 - 1)  # of the process: put back below
    try:
        columns = next(reader, [])
        for cells in filter(None, reader):  # a blank line has no cells
            where = f"line {reader.line_num}"
            if len(cells) == len(columns):
                rows.append(ExampleRow(where, dict(zip(columns, cells, strict=True))))
            else:
                faults.meet(where, f"not one cell for each of the columns {', '.join(columns)}.")
    except csv.Error as error:
        raise ValueError(f"{faults.source}, line {reader.line_num}: not valid CSV ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    return ExampleTable(columns, rows)


def _separator(text: str, usual: str) -> str:
    """Return what cuts the first line into most columns; the usual one, where none does better."""

    def columns(separator: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), []))
        except csv.Error:
            return 0

    return max([usual, *SEPARATORS], key=columns)


def _json_value(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ValueError(f"{twice!r} is there twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error}).") from error


def _of_objects(found: Iterable[tuple[str, Any]], faults: Faults) -> ExampleTable:
    """Make a table of (place, object)."""
    rows = []
    for where, value in found:
        if isinstance(value, dict):
            rows.append(ExampleRow(where, value))
        else:
            faults.meet(where, f"must be one JSON object; got {json.dumps(value)[:40]}.")
    return ExampleTable(list(dict.fromkeys(column for row in rows for column in row.values)), rows)


def _json_lines(data: bytes, options: TableOptions, faults: Faults) -> ExampleTable:
    # Not splitlines(): a text may hold other line separators (U+2028).
    lines = enumerate(_decode(data, options, faults).removeprefix("\ufeff").split("\n"), start=1)

    def values() -> Iterator[tuple[str, Any]]:
        for number, line in lines:
            if line.strip():
                try:
                    yield f"line {number}", _json_value(line)
                except ValueError as error:
                    faults.meet(f"line {number}", str(error))

    return _of_objects(values(), faults)


def _json_array(data: bytes, options: TableOptions, faults: Faults) -> ExampleTable:
    text = _decode(data, options, faults).removeprefix("\ufeff")
    try:
        found = _json_value(text)
    except ValueError as error:
        raise ValueError(f"{faults.source}: {error}") from error
    if not isinstance(found, list):
        raise ValueError(
            f"{faults.source}: must be one JSON array of objects; one object a line is called .jsonl."
        )
    return _of_objects(((f"object {i}", value) for i, value in enumerate(found, start=1)), faults)


def _parquet(data: bytes, options: TableOptions, faults: Faults) -> ExampleTable:
    name = faults.source
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
    return ExampleTable(table.schema.names, rows, _class_names(table.schema.metadata or {}))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Return the names that the package `datasets` writes beside the columns of a Parquet file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        kinds = {column: kind for column, kind in features.items() if kind["_type"] == "ClassLabel"}
        return {column: kind["names"] for column, kind in kinds.items() if all(map(is_text, kind["names"]))}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # nobody wrote any


_TABULAR = {".csv": ",", ".tsv": "\t"}
_READERS: dict[str, Callable[[bytes, TableOptions, Faults], ExampleTable]] = {
    ".jsonl": _json_lines,
    ".json": _json_array,
    **{form: partial(_delimited, usual=usual) for form, usual in _TABULAR.items()},
    ".parquet": _parquet,
}
SUFFIXES = tuple(form + end for end in (".gz", "") for form in _READERS if form + end != ".parquet.gz")
