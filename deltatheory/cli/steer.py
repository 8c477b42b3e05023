"""`deltatheory steer`: a tuned model under disturbances, with controllers that act on what they see."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.options import SETUP, TRAINING, Progress, command, results_in, with_prefix
from deltatheory.cli.output import progress_bar, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup
    from deltatheory.training import Training


@command(
    "models",
    "report",
    setup=SETUP.changed(help={"seed": "Of the draws and the disturbances."}),
    delta=with_prefix(gate="values"),
    training=TRAINING.only("steps", "learning_rate", "seed").changed(
        default={"steps": 60, "learning_rate": 1e-2},
        help={"steps": "Of that training.", "learning_rate": "Of that training."},
    ),
    out=results_in("runs/steer", "Folder for result.json, report.html, table.md and figure.svg."),
)
def steer(
    setup: "Setup",
    delta: tuple[str, dict[str, Any]],
    training: "Training",
    out: "RunFolder",
    tuned: Annotated[
        Path | None, Option(help="A trained adapter, of `train` or peft; trained here by default.")
    ] = None,
    controller: Annotated[
        list[str] | None,
        Option(help="none, tuned, robust-prefix, pid, lqr; all that the delta takes by default."),
    ] = None,
    disturbance: Annotated[
        list[str] | None, Option(help="substitutions, typos, trigger, noise; all by default.")
    ] = None,
    progress: Progress = True,
) -> None:
    """Disturb a tuned model and see what each controller gives back, at what energy and latency."""
    from deltatheory.adapters import tuned_problem
    from deltatheory.control.feedback.disturbances import DISTURBANCES
    from deltatheory.control.feedback.steering import SteeringProtocol, check_names, steer, tuned_delta

    disturbances = disturbance or list(DISTURBANCES)
    check_names(controller or (), disturbances)  # a typo is told before anything is loaded
    if tuned is not None:
        problem, value = tuned_problem(tuned, setup)
    else:
        problem, value = setup.classification(*delta), None
    check_names(controller or (), disturbances, problem)
    if value is None:
        value = tuned_delta(problem, training=training)
    with progress_bar(progress, unit="row") as bar:
        protocol = SteeringProtocol(seed=setup.seed)
        result = steer(
            problem, value, controller, disturbances, protocol=protocol, on_row=lambda _: bar.update()
        )
    tell(result, out.own)
