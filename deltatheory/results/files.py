"""Files that are whole or absent: atomic writes, and JSON without NaN."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")
_PLAIN = frozenset({str, int, bool, type(None)})  # looked at here: studies hash some thousand trials a page


def write_atomically(path: str | os.PathLike[str], content: str | bytes, *more: bytes | memoryview) -> None:
    """Write a file so that readers, and a crash, see the old content or the new, never a part.

    Args:
        path: the file; its folder is made if absent. A symbolic link keeps pointing where it points.
        content: text is written as UTF-8; half of a surrogate pair, which has none, by its number.
        more: what comes after it.

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
            for part in (data, *more):
                write_all(descriptor, part)
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


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """One write; a disk that fills up takes a part, and the next write says why."""
    while data:
        data = data[os.write(descriptor, data) :]


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
    write_atomically(path, json.dumps(json_value(obj, "obj"), indent=2) + "\n")


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


def json_value(value: Any, place: str) -> Any:
    """Return `value` in JSON's own types, or say at which place it has none."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r}; keys must be strings.")
        return {
            key: item if type(item) in _PLAIN else json_value(item, f"{place}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _PLAIN else json_value(item, f"{place}[{i}]")
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
