"""What the commands share in what they print: errors in one line, progress bars and tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what the library raises about bad input into one red line and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # a reader that has seen enough, such as `head`
        raise
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        _fail(error)
    except RuntimeError as error:
        from deltatheory.autodiff import DerivativeError

        if not isinstance(error, DerivativeError):
            raise
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"Error: {' '.join(str(error).split())}", fg=typer.colors.RED, err=True)
    raise typer.Exit(2) from error


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say of an interrupted run where it is kept, and leave with the exit code of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"\nStopped. What has finished is kept in {out}; the same command goes on from there."
        typer.secho(text, err=True)
        raise typer.Exit(130) from None


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
    # A pipe or a file has no width: give each row one line there.
    Console(width=None if console.is_terminal else 200).print(table)
