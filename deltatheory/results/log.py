"""Append-only logs of trials, for any number of processes.

A log has one row a trial: `{"schema": 1, "hash": ..., "time": ..., "code": {...}, "config": {...},
"result": {...}}`. The hash names the configuration, so that a run that was cut off finds what it has
finished, and logs of several machines merge; `code` says which version wrote the row. A result with an
`error` is a trial that failed. Rows of other versions, which may have keys more or fewer, are read as far as
they are understood; lines that are not are named in a warning, and stay where they are.

Whoever changes a log of a folder holds the folder's lock; readers need none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deltatheory import __version__
from deltatheory.results.files import json_value, write_all, write_atomically
from deltatheory.results.provenance import commit, now

SCHEMA = 1
LOCK = ".results.lock"
T = TypeVar("T")
LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems without locks


def understood(kind: Any, value: Any, place: str) -> Any:
    """Return what JSON gave as the type that it was made of, without keys that a dataclass does not have.

    Args:
        kind: a dataclass, or what fields of one are annotated with.
        value: plain values.
        place: what to call them.

    Raises:
        ValueError: where a field is not there, or of another type; the message names its place.

    >>> understood(dict[str, list[float] | None], {"a": [1, 2.5], "b": None}, "x")
    {'a': [1, 2.5], 'b': None}
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in parts):
        return value
    if origin in (Union, UnionType):
        for part in parts:
            with suppress(ValueError):
                return understood(part, value, place)
    elif origin in (list, tuple) and isinstance(value, list):
        return origin(understood(parts[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        return {key: understood(parts[1], item, f"{place}[{key!r}]") for key, item in value.items()}
    elif not isinstance(kind, type):
        pass
    elif is_dataclass(kind) and isinstance(value, dict):
        hints, given = get_type_hints(kind), {}
        for f in fields(kind):
            if f.name in value:
                given[f.name] = understood(hints[f.name], value[f.name], f"{place}[{f.name!r}]")
            elif f.default is f.default_factory is MISSING:
                raise ValueError(f"{place} has no {f.name!r}")
        return kind(**given)
    elif isinstance(value, int | float if kind is float else kind):
        return value
    raise ValueError(f"{place} is {value!r:.60}, not {getattr(kind, '__name__', kind)}")


def configuration_hash(config: Mapping) -> str:
    """Name a configuration by its content: 16 hexadecimal digits of the SHA-256 of its canonical JSON.

    The order of keys does not matter, tuples are lists, floats count by their `repr` (1 and 1.0 differ).

    Args:
        config: string keys; values that JSON has.

    Raises:
        ValueError: for NaN, an infinity, or a value that JSON does not have; the message names its place.

    >>> configuration_hash({"task": "a", "d": 64}) == configuration_hash({"d": 64, "task": "a"})
    True
    >>> configuration_hash({"d": 64})
    'e162a30a2d41e644'
    """
    canonical = json.dumps(json_value(config, "config"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class ResultLog:
    """One `.jsonl` file of results, for any number of processes that append to it.

    Args:
        path: the file; it and its folder are made at the first `append`.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"ResultLog({str(self.path)!r})"

    def rows(self) -> list[dict]:
        """Read all rows that are understood; a warning names each other line."""
        return _read(self.path)[0]

    def append(self, config: Mapping, result: Mapping) -> dict:
        """Add one row: written whole and flushed to the disk before this returns.

        Args:
            config: what was run; it is what `find` looks for.
            result: what came out. JSON has no NaN: write `None`, and why, in its place.

        Returns:
            The row as written.

        Raises:
            ValueError: for a value that JSON does not have.
            OSError: if the row cannot be written (disk full, ...); earlier rows are left as they were.

        """
        row = {
            "schema": SCHEMA,
            "hash": configuration_hash(config),
            "time": now(),
            "code": {"version": __version__, "commit": commit()},
            "config": json_value(config, "config"),
            "result": json_value(result, "result"),
        }
        line = json.dumps(row).encode() + b"\n"
        with locked(_folder(self.path)):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.lseek(descriptor, 0, os.SEEK_END)
                if end and _byte_before(descriptor, end) != b"\n":
                    line = b"\n" + line  # a writer was killed in mid-line: its rest must not swallow this row
                try:
                    write_all(descriptor, line)
                    os.fsync(descriptor)
                except OSError as error:
                    os.ftruncate(descriptor, end)
                    raise OSError(
                        error.errno,
                        f"Row {row['hash']} could not be written ({error.strerror}); earlier rows are intact",
                        str(self.path),
                    ) from error
            finally:
                os.close(descriptor)
        return row

    def find(self, config: Mapping) -> dict | None:
        """Return the row that stands for this configuration, or `None` if it has not been run yet."""
        return standing(self._of(config)).get(configuration_hash(config))

    def result(self, config: Mapping, kind: type[T]) -> T | None:
        """Return the result that stands for this configuration as a dataclass, or `None`.

        Rows of other versions that are none are passed over, each with a warning.
        """
        found = None
        for row in self._of(config):
            try:
                found = understood(kind, row["result"], "result")
            except ValueError as error:
                warnings.warn(f"{self.path}: a row {row['hash']} is passed over, {error}.", stacklevel=2)
        return found

    def _of(self, config: Mapping) -> list[dict]:
        wanted = configuration_hash(config)
        return [row for row in self.rows() if row["hash"] == wanted]


def failed(row: Mapping) -> bool:
    """Say whether a row is that of a trial that failed."""
    return "error" in row["result"]


def standing(rows: Iterable[dict]) -> dict[str, dict]:
    """Return hash ↦ the row that stands among those of one log.

    It is the last one, but no failure takes the place of a finished result.
    """
    found: dict[str, dict] = {}
    for row in rows:
        known = found.get(row["hash"])
        if known is None or failed(known) or not failed(row):
            found[row["hash"]] = row
    return found


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep all others that append to logs of a folder, or merge into them, out; one may hold it twice.

    On a file system without locks nobody is kept out; whole lines do not interleave there either.
    """
    from filelock import FileLock

    os.makedirs(folder, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(Path(folder) / LOCK, is_singleton=True, poll_interval=0.01))
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
        yield


def merge(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> int:
    """Unite logs into one with one row a configuration, atomically; what `out` holds already takes part.

    Of a configuration that is in several logs a finished result stays before a failure, then the latest (a
    time that is none counts as the earliest), then one by content: the order of the logs decides nothing. A
    warning says which finished results differ. Lines that are not understood stay, after the rows.

    Args:
        paths: logs to unite.
        out: the log to write; it may be one of `paths`, and others may append to it meanwhile.

    Returns:
        The number of rows in `out`.

    Raises:
        FileNotFoundError: if one of `paths` does not exist.

    """
    sources = [Path(path) for path in paths]
    for source in sources:
        if not source.is_file():
            raise FileNotFoundError(f"No log {str(source)!r} to merge.")
    union: dict[str, dict] = {}
    rest: dict[bytes, None] = {}
    with locked(_folder(out)):
        for source in [Path(out), *sources]:
            rows, others = _read(source)
            rest |= dict.fromkeys(others)
            for name, row in standing(rows).items():
                known = union.get(name, row)
                if known["result"] != row["result"] and not failed(known) and not failed(row):
                    warnings.warn(f"{name} has several results; the latest stays.", stacklevel=2)
                union[name] = max(known, row, key=_claim)
        lines = [*(json.dumps(row).encode() for row in union.values()), *rest]
        write_atomically(out, b"".join(line + b"\n" for line in lines))
    return len(union)


def _moment(time: Any) -> datetime:
    """Return a row's time; one that is none is the earliest, one without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(time)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def _claim(row: Mapping) -> tuple[bool, datetime, str]:
    """Return what decides between rows of several logs."""
    return not failed(row), _moment(row.get("time")), json.dumps(row, sort_keys=True)


def _folder(path: str | os.PathLike[str]) -> str:
    """Return the folder that a file lies in, where a link to it points."""
    return os.path.dirname(os.path.realpath(path))


def _read(path: Path) -> tuple[list[dict], list[bytes]]:
    """Return the rows of a log, and the lines that are not understood, each named in a warning."""
    rows, others = [], []
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            warnings.warn(f"{path}, line {number}: skipped, {error}.", stacklevel=3)
            others.append(line)
    return rows, others


def _parsed(line: bytes) -> dict:
    """Return a row, with the hash that other versions may leave out."""
    try:
        row = json.loads(line)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict) or not row.keys() >= {"config", "result"}:
        raise ValueError("not a row of results")
    if row.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"schema {row['schema']!r} is not {SCHEMA}, the one this version reads")
    if not isinstance(row["config"], dict) or not isinstance(row["result"], dict):
        raise ValueError("config and result must be objects")
    json_value(row["result"], "result")
    name = configuration_hash(row["config"])
    if row.setdefault("hash", name) != name:
        raise ValueError(f"its hash {row['hash']!r} is not that of its configuration")
    return row


def _byte_before(descriptor: int, end: int) -> bytes:
    os.lseek(descriptor, end - 1, os.SEEK_SET)
    return os.read(descriptor, 1)
