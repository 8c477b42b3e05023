"""What a verb returns: a result that says, writes and draws itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from deltatheory.results.answer import Answer, answered
from deltatheory.results.files import write_atomically, write_json

PAGE = "report.html"
_LINE, _TEXT, _FEW = 160, 60, 5  # characters of a result in short and of a text in it; numbers by name


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

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Result.__repr__  # else each dataclass has one of all its numbers

    def __repr__(self) -> str:
        said = [(f.name, _in_short(getattr(self, f.name))) for f in fields(self) if f.name not in self.BESIDE]
        line = ", ".join(f"{name}={text}" for name, text in said if text)
        return f"<{type(self).__name__} {line if len(line) <= _LINE else line[:_LINE] + '...'}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file: all fields but those of `BESIDE`, arrays as lists."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name not in self.BESIDE}

    def save_beside(self, folder: Path) -> None:
        """Write what is no JSON into a folder; nothing, unless a class says otherwise."""

    def save_numbers(self, folder: str | os.PathLike[str]) -> None:
        """Write what `save` writes, without what is drawn."""
        self.save_beside(Path(folder))
        write_json(Path(folder) / self.FILE, self.to_dict())

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
        self.save_numbers(folder)
        _meet_report()
        files = drawn(self)
        for name, content in files.items():
            write_atomically(folder / name, content)
        return folder / (PAGE if PAGE in files else self.FILE)

    def answer(self) -> Answer | None:
        """Return what it says in words, as its page and the command line do; `None` where that is nothing."""
        _meet_report()
        return answered(self)

    def plot(self) -> Any:
        """Return its matplotlib figure.

        Raises:
            TypeError: for a result that has none.

        """
        _meet_report()
        return figure(self)


def _in_short(value: Any) -> str:
    """Return a number, a text or a few named numbers in short; nothing of all else.

    >>> _in_short({"accuracy": 2 / 3, "loss": 1}), _in_short([1, 2]), _in_short("finished")
    ('accuracy 0.667, loss 1', '', 'finished')
    """
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str | int):
        return str(value) if len(str(value)) <= _TEXT else ""
    if (
        isinstance(value, Mapping)
        and 0 < len(value) <= _FEW
        and all(isinstance(x, int | float) for x in value.values())
    ):
        return ", ".join(f"{name} {x:.3g}" for name, x in value.items())
    return ""


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
