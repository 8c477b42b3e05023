"""`deltatheory check`: theorems on a real model, both sides measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from deltatheory.cli.common import (
    Device,
    MaxLength,
    Model,
    Progress,
    TaskName,
    errors_in_one_line,
    options_of,
    print_table,
    table_of,
)
from deltatheory.cli.control import DeltaName, DeltaOption

if TYPE_CHECKING:
    from deltatheory.testing.on_models import ModelCheck


def check(
    ids: Annotated[list[str] | None, Argument(help="Theorems, as T04 T31; all by default.")] = None,
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
    delta: DeltaName = "lora:4",
    option: DeltaOption = None,
    head: Annotated[
        str, Option(help="label-words, prototypes, probe, random or verbalizer.")
    ] = "label-words",
    max_length: MaxLength = 64,
    seed: Annotated[int, Option(help="Of the draws.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, Option(help="Folder for check.json.")] = Path("runs/check"),
    progress: Progress = True,
) -> None:
    """Say of theorems how they were proved, whether they hold on this model, and how tight they are there."""
    with errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.problems import load_problem
        from deltatheory.testing.on_models import check_on_model, measured

        wanted = measured(ids or ())  # a typo is told before anything is loaded
        problem = load_problem(
            model, task, delta, options_of(option or []), head=head, max_length=max_length, device=device
        )
        with tqdm(disable=not progress, total=len(wanted), unit="theorem") as bar:

            def count(_: ModelCheck) -> None:
                bar.update()

            result = check_on_model(problem, wanted, seed=seed, on_row=count)
        numbers = result.save(out)
    table = table_of("theorem", "checked", "hypotheses here", "left", "right", "tightness", "verdict")
    for row in result.rows:
        table.add_row(
            f"{row.id} {row.name}",
            row.status,
            row.hypotheses,
            *("" if value != value else f"{value:.3g}" for value in (row.left, row.right, row.ratio)),
            _verdict(row),
        )
    print_table(table)
    print(f"Numbers: {numbers}")


def _verdict(row: ModelCheck) -> str:
    if row.holds is None:
        return "not measured"
    if not row.holds:
        return "VIOLATED"
    return "vacuous" if row.vacuous else "holds"
