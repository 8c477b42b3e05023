"""What the commands share in what they print: errors in one line, progress bars and tables."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from deltatheory.cli.extras import extra_of

if TYPE_CHECKING:
    from rich.table import Table


class Terminated(KeyboardInterrupt):
    """SIGTERM, as of a cluster that wants its machine back: an interrupt with an exit code of its own."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what the library raises about bad input into one red line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot show θ shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:  # a reader that has seen enough, such as `head`
        raise
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        _fail(f"{error.name}: not installed; pip install 'deltatheory[{extra}]'" if extra else error, error)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _fail(error, error)
    except MemoryError as error:
        _fail(f"not enough memory; take fewer examples, a smaller batch, delta or model. {error}", error)
    except RuntimeError as error:
        from torch import OutOfMemoryError

        from deltatheory.autodiff import DerivativeError

        if isinstance(error, OutOfMemoryError) or "can't allocate memory" in str(error):
            _fail(f"{error}; take fewer examples, a smaller batch, delta or model", error)
        if not isinstance(error, DerivativeError):
            raise
        _fail(error, error)


def _fail(text: object, error: BaseException) -> NoReturn:
    typer.secho(f"Error: {' '.join(str(text).split())}", fg=typer.colors.RED, err=True)
    raise typer.Exit(2) from error


def failed(text: str) -> NoReturn:
    """Say that a run has ended and has not come to what it was for, and leave with exit code 1."""
    typer.secho(text, fg=typer.colors.RED, err=True)
    raise typer.Exit(1)


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
    """Return a bar of `tqdm`, which does nothing unless it is to be shown."""
    from tqdm import tqdm

    return tqdm(disable=not show, **about)


def table_of(*columns: str) -> Table:
    """Return an empty table; cells that are too wide go on in the next line."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console

    console = Console()
    # A pipe or a file has no width: give each row one line there. Names in brackets are names, not styles.
    Console(width=None if console.is_terminal else 200, markup=False).print(table)
