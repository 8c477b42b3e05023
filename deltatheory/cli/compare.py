"""`deltatheory runs` and `deltatheory cite`: what has been run, how it compares, and what it stands on."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from deltatheory.cli.options import command
from deltatheory.cli.output import print_section


@command("report")
def runs(
    folder: Annotated[
        list[Path] | None, Argument(help="Where to look, below it too; runs by default.")
    ] = None,
    page: Annotated[
        Path | None, Option(help="Write a page that compares them, such as compare.html.")
    ] = None,
) -> None:
    """List what has been run in some folders: command, task, model, when, cost and answer."""
    from deltatheory.report.runs import comparison, list_of, read_runs
    from deltatheory.results import write_atomically

    found = read_runs(*(folder or [Path("runs")]))
    print(f"{len(found)} runs in {', '.join(map(str, folder or ['runs']))}.")
    print_section(list_of(found))
    if page is not None:
        write_atomically(page, comparison(found))
        print(f"Report: {page.resolve().as_uri()}")


@command("report")
def cite(run: Annotated[Path, Argument(help="The folder of a run.")]) -> None:
    """Print BibTeX of what a run used: methods, model, and this package."""
    from deltatheory.report.citations import bibtex
    from deltatheory.report.runs import read_runs

    found = [one for one in read_runs(run) if one.folder == run]
    if not found:
        raise ValueError(
            f"run={str(run)!r}: holds no results; `deltatheory runs` lists those that there are."
        )
    print(bibtex(found[0]))
