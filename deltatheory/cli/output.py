"""What the commands share in what they print: errors in one line, progress bars and tables."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from deltatheory.cli.extras import extra_of

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.results import Result, Section


WIDTH = 100  # columns of a table that goes to no terminal
GAP, NARROW = 2, 12  # between columns; the least width of one whose cells are broken


class Terminated(KeyboardInterrupt):
    """SIGTERM, as of a cluster that wants its machine back: an interrupt with an exit code of its own."""


def as_options(flags: Mapping[str, str], text: str) -> str:
    """Return what the library says of its arguments in the words of the command line.

    Args:
        flags: of a command, by the names that its options have in the library.
        text: to be shown.

    >>> flags = {"skip_bad": "--skip-bad", "steps": "--steps"}
    >>> as_options(flags, "steps=0: must be at least 1; skip_bad=True helps, 'steps=3' is a text")
    "--steps=0: must be at least 1; --skip-bad helps, 'steps=3' is a text"
    """
    if not flags:
        return text
    pattern = rf"(?<![\w'\"./-])({'|'.join(map(re.escape, flags))})=(True\b)?"
    return re.sub(pattern, lambda found: flags[found[1]] + ("" if found[2] else "="), text)


@contextmanager
def errors_in_one_line(flags: Mapping[str, str]) -> Iterator[None]:
    """Turn what the library raises about bad input into one red line and exit code 2.

    Args:
        flags: of the command, by the names that its arguments have in the library.
    """
    fail = partial(_fail, flags)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show θ shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:  # a reader that has seen enough, such as `head`
        raise
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        fail(f"{error.name}: not installed; pip install 'deltatheory[{extra}]'" if extra else error, error)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        fail(error, error)
    except MemoryError as error:
        fail(f"not enough memory; take fewer examples, a smaller batch, delta or model. {error}", error)
    except RuntimeError as error:
        from torch import OutOfMemoryError

        from deltatheory.autodiff import DerivativeError

        if isinstance(error, OutOfMemoryError) or "can't allocate memory" in str(error):
            fail(f"{error}; take fewer examples, a smaller batch, delta or model", error)
        if not isinstance(error, DerivativeError):
            raise
        fail(error, error)


class _Remarks(logging.Formatter):
    def __init__(self, flags: Mapping[str, str]) -> None:
        super().__init__()
        self.flags = flags

    def format(self, record: logging.LogRecord) -> str:
        return as_options(self.flags, super().format(record))


@contextmanager
def remarks_printed(flags: Mapping[str, str]) -> Iterator[None]:
    """Print what the library remarks on what it was given (columns found, rows left out) on stderr."""
    log, handler = logging.getLogger("deltatheory"), logging.StreamHandler()
    handler.setFormatter(_Remarks(flags))
    level, onward = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = onward


def _fail(flags: Mapping[str, str], text: object, error: BaseException) -> NoReturn:
    _in_red(f"Error: {as_options(flags, ' '.join(str(text).split()))}")
    raise typer.Exit(2) from error


def _in_red(text: str) -> None:
    colour = False if os.environ.get("NO_COLOR") else None  # else as the terminal is
    typer.secho(text, fg=typer.colors.RED, err=True, color=colour)


def failed(text: str) -> NoReturn:
    """Say that a run has ended and has not come to what it was for, and leave with exit code 1."""
    _in_red(text)
    raise typer.Exit(1)


def aside(text: str) -> None:
    """Say on the way what is no part of the answer, which stands alone on standard output."""
    typer.secho(text, err=True)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, and end in one line with the exit code of the signal."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if here else None
    try:
        yield
    except KeyboardInterrupt as error:
        _stopped("There is no result.", error)
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _stopped(kept: str, error: KeyboardInterrupt) -> NoReturn:
    signum = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    typer.secho(f"\nStopped by {signum.name}. {kept}", err=True)
    raise typer.Exit(128 + signum) from None


@contextmanager
def resumable(*files: Path) -> Iterator[None]:
    """Say of a run that is interrupted in which files what it has done is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        kept = " and ".join(str(path) for path in files if path.exists())
        if not kept:
            raise
        _stopped(f"What has finished is kept in {kept}; the same command goes on from there.", error)


def progress_bar(show: bool, **about: Any) -> Any:
    """Return a bar of `tqdm`, which does nothing unless it is to be shown, and on a terminal."""
    from tqdm import tqdm

    return tqdm(disable=None if show else True, **about)


def table_of(*columns: str) -> Table:
    """Return an empty table; cells that are too wide go on in the next line."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, and no wider than what a pipe or a file is read in."""
    from rich.console import Console

    terminal = Console()
    width = None if terminal.is_terminal else WIDTH
    # Names in brackets or between colons are names: no styles, no pictures.
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    cells = {id(x): "\n".join(map(str, (x.header, *x.cells))) for x in table.columns}
    columns = {name: max(map(len, text.splitlines()), default=0) for name, text in cells.items()}
    room = console.width
    for left, column in enumerate(sorted(table.columns, key=lambda x: columns[id(x)]), 1 - len(columns)):
        room -= columns[id(column)] + GAP
        column.no_wrap = room >= -left * NARROW  # the longest cells make room for the others
    console.print(table)


def tell(result: Result, folder: Path, **files: str) -> None:
    """Print an answer: a sentence, its tables, what to know; then write all and say where it is.

    What could not be written is told after the answer.

    Args:
        result: that answers a question.
        folder: of the run.
        files: what else lies there, by what to call it.
    """
    said = result.answer()
    assert said is not None
    print(said.sentence)
    for section in (*(one for one in said.sections if one.brief), said.note):
        print_section(section)
    print()
    page = result.save(folder)
    for name, file in files.items():
        print(f"{name.replace('_', ' ')}: {folder / file}")
    print(f"Numbers: {folder / result.FILE}")
    print(f"Report: {page.resolve().as_uri()}")


def print_section(section: Section) -> None:
    """Print a part of an answer, if anything stands in it."""
    if not (section.rows or section.items or section.text):
        return
    print()
    if section.text or section.items:
        print(f"{section.heading}: {section.text}".rstrip())
    for sentence in section.items:
        print(f"  - {sentence}")
    if section.rows:
        table = table_of(*section.columns)
        for i, column in enumerate(table.columns):
            column.justify = "right" if section.numeric(i) else "left"
        for row in section.rows:
            table.add_row(*row)
        print_table(table)
    if section.remark:
        print(section.remark)
