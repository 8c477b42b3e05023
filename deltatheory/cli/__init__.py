"""The command line: each command is a function of the library with its arguments as options.

One module a command. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

# Before torch is loaded: threads that wait for each other soon go to sleep. By default they stay awake for
# about a millisecond at each small operation, in vain where another process keeps a core busy.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import typer
    from typer import Option
except ModuleNotFoundError as error:  # the script is there without what it needs
    print(f"Error: {error.name}: not installed; pip install 'deltatheory[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from deltatheory import __version__
from deltatheory.cli import (
    advise,
    check,
    compare,
    control,
    dimension,
    explain,
    lists,
    predict,
    reach,
    steer,
    train,
)

__all__ = ["app"]

app = typer.Typer(
    name="deltatheory",
    help="The theory of parameter-efficient fine-tuning, executable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain text: narrow terminals can read it, and it takes half the time
)


def _show_version(asked: bool) -> bool:
    if asked:
        print(f"deltatheory {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _main(
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


for _command in (
    dimension.dimension,
    train.train,
    advise.advise,
    explain.explain,
    predict.predict,
    predict.export,
    control.control,
    control.diagnose,
    reach.reach,
    steer.steer,
    check.check,
    compare.runs,
    compare.cite,
    lists.tasks,
    lists.deltas,
    lists.projections,
):
    app.command()(_command)
