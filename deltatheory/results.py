"""Results that survive: objects that write themselves, append-only logs, and files that are whole or absent.

A verb returns a `Result`. A log has one row a trial: `{"schema": 1, "hash": ..., "time": ..., "code": {...},
"config": {...}, "result": {...}}`. The hash names the configuration, so that a run that was cut off finds
what it has finished, and logs of several machines merge; `code` says which version wrote the row. A result
with an `error` is a trial that failed. Rows of other versions, which may have keys more or fewer, are read as
far as they are understood; lines that are not are named in a warning, and stay where they are.

Whoever changes a log of a folder holds the folder's lock; readers need none.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache, singledispatch
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deltatheory import __version__

SCHEMA = 1
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")
PAGE = "report.html"
LOCK = ".results.lock"
T = TypeVar("T")
LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems without locks


@singledispatch
def figure(result: Any) -> Any:
    """Return the matplotlib figure of a result; `deltatheory.report` registers one for a class.

    Raises:
        TypeError: for a result that has none.
    """
    raise TypeError(f"result={type(result).__name__}: has no figure.")


@singledispatch
def drawn(result: Any) -> dict[str, str]:
    """Return what is written for people beside a result's numbers, name of the file ↦ content."""
    return {}


def _meet_report() -> None:
    """Let the room that draws register itself: it lies above this one, which knows it by name alone."""
    import_module("deltatheory.report")


@dataclass(frozen=True, eq=False)
class Result:
    """What a verb returns: a frozen dataclass that can say, write and draw itself.

    What people read of it (figures and pages) is found in `deltatheory.report` by its class.

    Attributes:
        FILE: name of its JSON file.
        BESIDE: fields that are not in that file: tensors and adapters, which `save_beside` writes.
    """

    FILE: ClassVar[str] = "result.json"
    BESIDE: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file: all fields but those of `BESIDE`, arrays as lists."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in self.BESIDE}

    def save_beside(self, folder: Path) -> None:
        """Write what is no JSON into a folder; nothing, unless a class says otherwise."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write all files of the result, each atomically; the JSON file comes after what it refers to.

        Args:
            folder: made if absent.

        Returns:
            The page's path, or the JSON file's where there is no page.

        Raises:
            ValueError: for NaN, an infinity, or a value that JSON does not have; the message names its place.
            OSError: if a file cannot be written.

        """
        folder = Path(folder)
        self.save_beside(folder)
        write_json(folder / self.FILE, self.to_dict())
        _meet_report()
        files = drawn(self)
        for name, content in files.items():
            write_atomically(folder / name, content)
        return folder / (PAGE if PAGE in files else self.FILE)

    def plot(self) -> Any:
        """Return its matplotlib figure.

        Raises:
            TypeError: for a result that has none.

        """
        _meet_report()
        return figure(self)


def plain(value: Any) -> Any:
    """Return a value in what JSON has where it can be: dataclasses as dicts, arrays and tensors as lists.

    >>> plain({"place": Path("a"), "pair": (1, 2.0)})
    {'place': 'a', 'pair': [1, 2.0]}
    """
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, type):
        return value
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value  # numpy and torch, without importing either


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
    canonical = json.dumps(_json_value(config, "config"), sort_keys=True, separators=(",", ":"))
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
            "time": _now(),
            "code": {"version": __version__, "commit": _commit(_checkout())},
            "config": _json_value(config, "config"),
            "result": _json_value(result, "result"),
        }
        line = json.dumps(row).encode() + b"\n"
        with locked(_folder(self.path)):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.lseek(descriptor, 0, os.SEEK_END)
                if end and _byte_before(descriptor, end) != b"\n":
                    line = b"\n" + line  # a writer was killed in mid-line: its rest must not swallow this row
                try:
                    _write_all(descriptor, line)
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


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that readers, and a crash, see the old content or the new, never a part.

    Args:
        path: the file; its folder is made if absent. A symbolic link keeps pointing where it points.
        content: text is written as UTF-8; half of a surrogate pair, which has none, by its number.

    Raises:
        OSError: if it cannot be written; the old content stays.

    """
    data = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")  # as `remove_temporaries` knows it
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a write knows no name, and that of the temporary file says nothing
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def remove_temporaries(*folders: str | os.PathLike[str]) -> None:
    """Remove what `write_atomically` leaves behind when it is killed.

    Args:
        folders: to which nobody else writes meanwhile.
    """
    for folder in folders:
        for path in Path(folder).glob(".*"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as JSON, atomically.

    Args:
        path: the file.
        obj: anything that JSON has.

    Raises:
        ValueError: for NaN, an infinity, or a value that JSON does not have; the message names its place.

    """
    write_atomically(path, json.dumps(_json_value(obj, "obj"), indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an object that is written as JSON.

    Args:
        path: the file.

    Raises:
        ValueError: where it holds no such thing; the message names the file.
        OSError: if it cannot be read.

    """
    try:
        found = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} must hold an object, not {found!r:.40}")
    return found


def provenance() -> dict:
    """Say where a result comes from: versions, machine, commit, time and command.

    Packages are named only if the process has imported them. The commit is that of the checkout this package
    lies in, with `-dirty` after it where files differ from it; `None` for an installed package.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("deltatheory", "torch", "transformers", "numpy", "scipy"):
        if name in sys.modules:
            versions[name] = None  # imported from a folder that was never installed
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
    return {
        "time": _now(),
        "versions": versions,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "commit": _commit(_checkout()),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _checkout() -> Path:
    return Path(__file__).resolve().parents[1]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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


@cache
def _commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, once: what a process runs is what was there when it started."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git here, or a checkout that is not ours to read
        return None
    return done.stdout.strip()


_PLAIN = frozenset({str, int, bool, type(None)})  # looked at here: studies hash some thousand trials a page


def _json_value(value: Any, place: str) -> Any:
    """Return `value` in JSON's own types, or say at which place it has none."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r}; keys must be strings.")
        return {
            key: item if type(item) in _PLAIN else _json_value(item, f"{place}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _PLAIN else _json_value(item, f"{place}[{i}]")
            for i, item in enumerate(value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{place} is {value!r}, which JSON does not have; write None, and why, in its place."
        )
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(
        f"{place} must be a string, number, boolean, None, list or dict; "
        f"got {value!r} of type {type(value).__name__}."
    )


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
    _json_value(row["result"], "result")
    name = configuration_hash(row["config"])
    if row.setdefault("hash", name) != name:
        raise ValueError(f"its hash {row['hash']!r} is not that of its configuration")
    return row


def _byte_before(descriptor: int, end: int) -> bytes:
    os.lseek(descriptor, end - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _write_all(descriptor: int, data: bytes) -> None:
    """One write; a disk that fills up takes a part, and the next write says why."""
    while data:
        data = data[os.write(descriptor, data) :]
