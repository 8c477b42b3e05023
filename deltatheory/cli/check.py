"""`deltatheory check`: theorems on a real model, both sides measured."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from deltatheory.cli.options import DELTA, SETUP, Progress, command, results_in
from deltatheory.cli.output import failed, progress_bar, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup


@command(
    "models",
    "report",
    setup=SETUP.only("model", "revision", "dtype", "task", "head", "suffix", "max_length", "seed", "device"),
    delta=DELTA.changed(default={"delta": "lora:4"}),
    out=results_in("runs/check", "Folder for check.json and report.html."),
)
def check(
    setup: "Setup",
    delta: tuple[str, dict[str, Any]],
    out: "RunFolder",
    ids: Annotated[list[str] | None, Argument(help="Theorems, as T04 T31; all by default.")] = None,
    progress: Progress = True,
) -> None:
    """Say of theorems how they were proved, whether they hold on this model, and how tight they are there."""
    from deltatheory.testing.on_models import check_on_model, measured

    wanted = measured(ids or ())  # a typo is told before anything is loaded
    problem = setup.classification(*delta)
    with progress_bar(progress, total=len(wanted), unit="theorem") as bar:
        result = check_on_model(problem, wanted, seed=setup.seed, on_row=lambda _: bar.update())
    tell(result, out.own)
    if violated := [row.id for row in result.rows if row.holds is False]:
        failed(f"Violated beyond rounding: {', '.join(violated)}.")
