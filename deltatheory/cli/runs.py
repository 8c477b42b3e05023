"""Where a command writes: a run has its files for itself, and its folder to itself while it is on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["RunFolder", "claimed", "configuration_of"]

CLAIM, LOCK = "run.json", ".lock"
_READ = ("model", "task", "adapter", "tuned")  # options that may name files
# Options that do not change what comes out: a run may go on on another device, or with another bar.
_ASIDE = ("out", "progress", "track", "device", "compare", "score_full", "checkpoint_every")


@dataclass(frozen=True)
class RunFolder:
    """Where the files of one run go.

    Attributes:
        given: the folder that was asked for; logs in it are shared by all runs, which name each row.
        own: of this run alone: the same folder, or one inside where another run came first.
    """

    given: Path
    own: Path


def configuration_of(command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a run of a command what it is, in JSON; files and folders count by their content.

    Args:
        command: its name.
        values: of its options, without those at their defaults: another version may have others.
    """
    arguments = {
        name: _content(value) if name in _READ else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in _ASIDE
    }
    return {"command": command, "arguments": arguments}


def _content(name: str | Path) -> Any:
    """Return where a file or a folder lies and what it holds; of any other name the name."""
    path = Path(name)
    with suppress(OSError, ValueError):  # a text that no file system takes as a name
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        digests = {}
        for file in files:
            if file.is_file() and not file.name.startswith("."):
                with file.open("rb") as stream:
                    digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        if digests:
            return {"path": str(path.resolve()), "sha256": digests}
    return str(name)


@contextmanager
def claimed(out: Path, command: str, values: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Give a run its folder, and keep others out of it until the block ends.

    The first run in a folder has it; one of another configuration, and any where results lie that do not say
    whose they are, has a folder of its own inside, named by its configuration, and finds there what it has
    left. What a run that was killed has half written is removed.

    Args:
        out: the folder that was asked for; made if absent.
        command: its name.
        values: of its options, as in `configuration_of`.

    Raises:
        ValueError: if another process is at the same run.
        OSError: if nothing can be written there.
    """
    from deltatheory.results import configuration_hash, remove_temporaries, write_json

    configuration = configuration_of(command, values)
    inner = out / f"{command}-{configuration_hash(configuration)}"
    if int(os.environ.get("RANK", 0)) > 0:  # of `accelerate launch`, where only the first process writes
        yield RunFolder(out, inner if _taken(out, configuration) else out)
        return
    own, lock = out, _locked(out)
    if lock is None and _claim(out) not in (None, configuration):
        own, lock = inner, _locked(inner)
    elif lock is not None and _taken(out, configuration):
        lock.release()
        own, lock = inner, _locked(inner)
    if lock is None:
        raise ValueError(f"out={str(out)!r}: another process is at this run; wait for it, or give another.")
    try:
        remove_temporaries(own, own / "adapter", own / "truncated")
        write_json(own / CLAIM, configuration)
        if own != out:
            typer.secho(f"{out} holds another run; this one is kept in {own}.", err=True)
        yield RunFolder(out, own)
    finally:
        lock.release()


def _locked(folder: Path) -> FileLock | None:
    """Return a folder's lock, taken if the file system has locks; `None` if another process has it."""
    from filelock import FileLock, Timeout

    from deltatheory.results import LOCKLESS

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
    return lock


def _claim(folder: Path) -> Any:
    try:
        return json.loads((folder / CLAIM).read_bytes())
    except (OSError, ValueError, RecursionError):  # none, or nothing that says whose the folder is
        return None


def _taken(folder: Path, configuration: Mapping[str, Any]) -> bool:
    """Whether results of another run lie in a folder."""
    left = [*folder.glob("*.json"), *folder.glob("*.safetensors")]
    return any(path.name != CLAIM for path in left) and _claim(folder) != configuration
