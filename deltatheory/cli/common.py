"""What the commands share: options, errors in one line, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer import Option

if TYPE_CHECKING:
    from rich.table import Table

Model = Annotated[str, Option(help="minilm, a local folder, or a hub id.")]
TaskName = Annotated[
    str, Option(help="An embedded task (see `tasks`), a .jsonl, .csv or .parquet file, or hub:NAME.")
]
MaxLength = Annotated[int, Option(help="Longer texts are cut at so many tokens.")]
Device = Annotated[str, Option(help="cpu, cuda, cuda:1, ...")]
Progress = Annotated[bool, Option(help="Show a progress bar.")]


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what the library raises about bad input into one red line and exit code 2."""
    try:
        yield
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


def stopped(out: Path) -> NoReturn:
    """Say where an interrupted run is kept, and leave with the exit code of an interrupt."""
    text = f"\nStopped. What has finished is kept in {out}; the same command goes on from there."
    typer.secho(text, err=True)
    raise typer.Exit(130) from None


def options_of(given: list[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as arguments; a value is JSON where it can be, else a text."""
    options: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"option={pair!r}: must be NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def prefix_options(delta: str, options: list[str] | None, **defaults: Any) -> dict[str, Any]:
    """Return the options of a delta, those of a prefix with defaults of the command."""
    given = options_of(options or [])
    return {**defaults, **given} if delta.partition(":")[0] == "prefix" else given


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
