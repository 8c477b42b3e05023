"""The study: `python -m experiments run NAME`, `report NAME`, `merge FILE...`, `list`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.cli.options import options_of
from deltatheory.cli.output import errors_in_one_line
from deltatheory.results import ResultLog
from deltatheory.results import merge as merge_logs
from deltatheory.tasks.task import Kind
from experiments.environment import Environment
from experiments.page import write_overview, write_page
from experiments.runner import LOG, Accelerated, Cluster, Engine, Local, collect
from experiments.runner import run as run_study
from experiments.scope import Scope, choose_tasks
from experiments.studies import STUDIES, studies_of
from experiments.trial import Known

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
RESULTS = Path(__file__).parent / "results" / "study"
Out = Annotated[Path, typer.Option(help="Folder of trials.jsonl, scope.json and the pages.")]


class On(StrEnum):
    """Where trials run."""

    local = "local"
    slurm = "slurm"
    accelerate = "accelerate"


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A study, or 'all'.")],
    data: Annotated[Path | None, typer.Option(help="Folder of COLLECTION/index.json and tasks.")] = None,
    tasks: Annotated[str, typer.Option(help="A number (drawn by lot), names with commas, or 'all'.")] = "24",
    kind: Annotated[Kind, typer.Option(help="Of the tasks; each in a folder of its own.")] = "classification",
    models: Annotated[str, typer.Option(help="Backbones, with commas between them.")] = "minilm,gpt-1M",
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds where they matter.")] = 1,
    on: Annotated[
        On, typer.Option(help="Here, on a cluster, or on the GPUs of `accelerate launch` for one model.")
    ] = On.local,
    workers: Annotated[int, typer.Option(min=1, help="Processes here, or jobs there.")] = 1,
    job: Annotated[
        list[str] | None,
        typer.Option(help="Of a cluster's jobs, as NAME=VALUE: gpus_per_node=1, timeout_min=60, ..."),
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Minutes after which no trial is started.")] = None,
    device: str = "cpu",
    threads: int = 1,
    out: Out = RESULTS,
) -> None:
    """Run what is missing of a study, and make its page."""
    with errors_in_one_line():
        scope = Scope(tuple(models.split(",")), choose_tasks(data, tasks, kind), tuple(range(seeds)))
        named = _named(name, scope)
        place = Environment(data, device, threads)
        engines: dict[On, Callable[[], Engine]] = {
            On.local: lambda: Local(workers),
            On.slurm: lambda: Cluster(workers, **options_of(job or [])),
            On.accelerate: lambda: Accelerated(device),
        }
        engine = engines[on]()
        if isinstance(engine, Accelerated) and not engine.leads:
            return engine.follow(place)
        _save(scope, out)
        for study in named:
            typer.echo(f"{study}:")
            left = run_study(
                STUDIES[study],
                scope,
                out,
                place,
                engine,
                minutes=budget,
                say=lambda text: typer.echo(f"  {text}"),
            )
            typer.echo(f"  {left} trials are missing" if left else "  all trials have run")
        if isinstance(engine, Accelerated):
            engine.dismiss()
    _write_pages(named, out)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="A study, or 'all' that have a page.")], out: Out = RESULTS
) -> None:
    """Make the page of a study, its table and its numbers, from the log alone."""
    if not (out / "scope.json").exists():
        raise typer.BadParameter(f"out={str(out)!r}: holds no scope.json; nothing has been run there.")
    named = _named(name, Scope.read(out / "scope.json"))
    if name == "all":
        named = [study for study in named if (out / study / "result.json").exists()]
    _write_pages(named, out)


@app.command()
def merge(logs: list[Path], out: Out = RESULTS) -> None:
    """Unite the logs of several machines, and what each of them covered."""
    with errors_in_one_line():
        for log in logs:
            if (other := log.parent / "scope.json").exists():
                _save(Scope.read(other), out)
    typer.echo(f"{merge_logs(logs, out / LOG)} trials in {out / LOG}")


@app.command("list")
def list_studies() -> None:
    """Say which studies there are, and what each claims."""
    for name, study in STUDIES.items():
        typer.echo(f"{name}: {study.CLAIM} ({study.SOURCE})")


def _write_pages(named: Iterable[str], out: Path) -> None:
    collect(out)
    scope, known = Scope.read(out / "scope.json"), Known.read(ResultLog(out / LOG))
    for study in named:
        typer.echo(f"{study}: {write_page(study, STUDIES[study], scope, known, out)}")
    write_overview(out)


def _named(name: str, scope: Scope) -> list[str]:
    known = list(studies_of(scope.tasks[0].kind))
    if name != "all" and name not in known:
        raise typer.BadParameter(
            f"{name!r} is no study of {scope.tasks[0].kind} tasks; there are {', '.join(known)}, and 'all'."
        )
    return known if name == "all" else [name]


def _save(scope: Scope, out: Path) -> None:
    path = out / "scope.json"
    (Scope.read(path).joined(scope) if path.exists() else scope).save(path)


if __name__ == "__main__":
    app(prog_name="python -m experiments")
