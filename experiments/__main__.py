"""The study: `python -m experiments run NAME`, `report NAME`, `merge FILE...`, `list`."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.cli.options import Group, Shared, command, options_of
from deltatheory.cli.output import failed, resumable
from deltatheory.results import ResultLog, locked
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


def _scope(data: Path | None, tasks: str, kind: Kind, models: str, seeds: int) -> Scope:
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: must be at least 1.")
    return Scope(tuple(models.split(",")), choose_tasks(data, tasks, kind), tuple(range(seeds)))


def _engine(on: On, workers: int, job: list[str] | None, device: str) -> Engine:
    if workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1.")
    engines: dict[On, Callable[[], Engine]] = {
        On.local: lambda: Local(workers),
        On.slurm: lambda: Cluster(workers, **options_of(job)),
        On.accelerate: lambda: Accelerated(device),
    }
    return engines[on]()


_DATA = Shared(Path | None, None, "Folder of COLLECTION/index.json and tasks.")
_DEVICE = Shared(str, "cpu", "cpu or cuda.")
SCOPE = Group(
    _scope,
    {
        "data": _DATA,
        "tasks": Shared(str, "24", "A number (drawn by lot), names with commas, or 'all'."),
        "kind": Shared(Kind, "classification", "Of the tasks; each in a folder of its own."),
        "models": Shared(str, "minilm,gpt-1M", "Backbones, with commas between them."),
        "seeds": Shared(int, 1, "So many seeds where they matter."),
    },
)
PLACE = Group(
    Environment,
    {"data": _DATA, "device": _DEVICE, "threads": Shared(int, 1, "Of torch, in each process.")},
)
ENGINE = Group(
    _engine,
    {
        "on": Shared(
            On, On.local, "Here, on a cluster, or on the GPUs of `accelerate launch`, for one model."
        ),
        "workers": Shared(int, 1, "Processes here, or jobs there."),
        "job": Shared(
            list[str] | None,
            None,
            "Of a cluster's jobs, as NAME=VALUE: gpus_per_node=1, timeout_min=60, ...",
        ),
        "device": _DEVICE,
    },
)


@app.command()
@command(scope=SCOPE, place=PLACE, engine=ENGINE)
def run(
    name: Annotated[str, typer.Argument(help="A study, or 'all'.")],
    scope: Scope,
    place: Environment,
    engine: Engine,
    budget: Annotated[float | None, typer.Option(help="Minutes after which no trial is started.")] = None,
    out: Out = RESULTS,
) -> None:
    """Run what is missing of a study, and make its page; exit code 1 where a trial fails."""
    named = _named(name, scope)
    if isinstance(engine, Accelerated) and not engine.leads:
        return engine.follow(place)
    place.check(scope.models)
    _save(scope, out)
    faults = []
    with resumable(out / LOG):
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
            typer.echo(f"  {len(left)} trials are missing" if left else "  all trials have run")
            known = Known.read(ResultLog(out / LOG))
            if errors := [f"{trial}: {error}" for trial in left if (error := known.error(trial))]:
                faults.append(f"{study}: {len(errors)} trials failed, the first of them {errors[0]}")
    if isinstance(engine, Accelerated):
        engine.dismiss()
    _write_pages(named, out, faults)


@app.command()
@command()
def report(
    name: Annotated[str, typer.Argument(help="A study, or 'all' that have a page.")], out: Out = RESULTS
) -> None:
    """Make the page of a study, its table and its numbers, from the log alone."""
    if not (out / "scope.json").exists():
        raise ValueError(f"out={str(out)!r}: holds no scope.json; nothing has been run there.")
    named = _named(name, Scope.read(out / "scope.json"))
    if name == "all":
        named = [study for study in named if (out / study / "result.json").exists()]
    _write_pages(named, out)


@app.command()
@command()
def merge(logs: list[Path], out: Out = RESULTS) -> None:
    """Unite the logs of several machines, and what each of them covered."""
    scopes = [Scope.read(path) for log in logs if (path := log.parent / "scope.json").exists()]
    for scope in scopes:
        _save(scope, out)
    typer.echo(f"{merge_logs(logs, out / LOG)} trials in {out / LOG}")


@app.command("list")
def list_studies() -> None:
    """Say which studies there are, and what each claims."""
    for name, study in STUDIES.items():
        typer.echo(f"{name}: {study.CLAIM} ({study.SOURCE})")


def _write_pages(named: Iterable[str], out: Path, faults: Iterable[str] = ()) -> None:
    """Write the pages that can be, and say at the end what has failed."""
    collect(out)
    scope, known = Scope.read(out / "scope.json"), Known.read(ResultLog(out / LOG))
    faults = [*faults]
    for study in named:
        try:
            typer.echo(f"{study}: {write_page(study, STUDIES[study], scope, known, out)}")
        except ValueError as error:
            faults.append(f"{study}: no page, {error}")
    write_overview(out)
    if faults:
        failed("\n".join(faults))


def _named(name: str, scope: Scope) -> list[str]:
    known = list(studies_of(scope.tasks[0].kind))
    if name != "all" and name not in known:
        raise ValueError(
            f"{name!r} is no study of {scope.tasks[0].kind} tasks; there are {', '.join(known)}, and 'all'."
        )
    return known if name == "all" else [name]


def _save(scope: Scope, out: Path) -> None:
    path = out / "scope.json"
    with locked(out):
        (Scope.read(path).joined(scope) if path.exists() else scope).save(path)


if __name__ == "__main__":
    app(prog_name="python -m experiments")
