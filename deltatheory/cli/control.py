"""`deltatheory control` and `deltatheory diagnose`: a delta as the controller of the frozen layers."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.extras import need
from deltatheory.cli.options import (
    AUTO,
    SETUP,
    Progress,
    command,
    options_of,
    rate,
    results_in,
    with_prefix,
)
from deltatheory.cli.output import aside, progress_bar, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import Setup
    from deltatheory.training import Training

_SETUP = SETUP.changed(
    kind={"train_examples": int},
    flag={"train_examples": "--examples"},
    default={"train_examples": 64},
    help={
        "train_examples": "Training examples, a stratified draw.",
        "seed": "Of the draws and of the delta's start.",
    },
)


@command(
    "models",
    "report",
    setup=_SETUP,
    delta=with_prefix(gate="values"),
    out=results_in("runs/control", "Folder for result.json, report.html and delta.safetensors."),
)
def control(
    setup: "Setup",
    delta: tuple[str, dict[str, Any]],
    out: "RunFolder",
    solver: Annotated[
        str, Option(help="gauss-newton, adam, sgd, l-bfgs, msa, e-msa, minimum-energy, ...")
    ] = "gauss-newton",
    setting: Annotated[
        list[str] | None,
        Option(help="Of the solver, as NAME=VALUE: budget=50; learning_rate=auto of adam predicts it."),
    ] = None,
    energy: Annotated[float, Option(help="Weight of |δ|²/2 beside the loss.")] = 0.0,
    progress: Progress = True,
) -> None:
    """Solve for the controller of a frozen model on a task, and see what each layer does and can do."""
    from deltatheory.control import design_controller
    from deltatheory.control.solvers import make_solver
    from deltatheory.problems import ClassificationProblem
    from deltatheory.training import predict_learning_rate

    settings, weight = options_of(setting), {"energy_weight": energy} if energy else {}
    predicted = settings.get("learning_rate") == AUTO and settings.pop("learning_rate")
    if predicted and solver != "adam":
        raise ValueError("learning_rate='auto': is predicted for solver='adam'; give a number.")
    # A typo is told before anything is loaded.
    made: Any = make_solver(solver, ClassificationProblem, settings | weight)
    if solver == "constrained":
        need("control")
    problem = setup.classification(*delta)
    if predicted:
        found = predict_learning_rate(problem, training=_training(made, len(problem.train)))
        aside(str(found))
        settings["learning_rate"] = found.rate
    with progress_bar(progress, desc=solver, unit="iteration") as bar:

        def show(row: dict[str, Any]) -> None:
            bar.update()
            bar.set_postfix(objective=f"{row['cost']:.4f}", passes=f"{row['passes']:.0f}")

        result = design_controller(problem, solver, settings, energy_weight=energy, on_step=show)
    tell(result, out.own, Delta="delta.safetensors")


def _training(adam: Any, examples: int) -> "Training":
    """Return the training that takes as many steps as a solver may."""
    from deltatheory.problems import BACKWARD, FORWARD
    from deltatheory.training import Training

    batch = min(adam.batch_size or examples, examples)
    affordable = adam.budget and max(1, int(adam.budget * examples / (batch * (FORWARD + BACKWARD))))
    steps = min((n for n in (adam.steps, affordable) if n), default=Training.steps)
    return Training(steps=steps, batch_size=batch, warmup=0.0, seed=adam.seed)


# The raw prefix, with positions counted behind it, is PEFT's.
@command(
    "models",
    "report",
    setup=_SETUP.only(
        "model",
        "revision",
        "dtype",
        "task",
        "head",
        "suffix",
        "train_examples",
        "max_length",
        "seed",
        "device",
    ).changed(default={"train_examples": 32}),
    delta=with_prefix(gate="none", shift=True),
    out=results_in("runs/diagnose", "Folder for diagnosis.json, report.html and the warm-started adapter."),
)
def diagnose(
    setup: "Setup",
    delta: tuple[str, dict[str, Any]],
    out: "RunFolder",
    adapter: Annotated[
        str | None, Option(help="Look at a trained adapter, of `train` or peft, instead of at a start.")
    ] = None,
    learning_rate: Annotated[
        Any,  # a number or "auto"; typer takes no union
        Option(
            parser=rate,
            metavar="<float>",
            help="Of the run that does not converge (Adam); auto judges the predicted one.",
        ),
    ] = 1e-2,
    steps: Annotated[int, Option(help="Its step budget.")] = 100,
    batch_size: Annotated[int, Option(help="Its examples a step.")] = 32,
    progress: Progress = True,
) -> None:
    """Say why a prefix, or any other delta, does not train, and write one that is warm-started."""
    from deltatheory.adapters import tuned_problem
    from deltatheory.control import diagnose
    from deltatheory.control.diagnosis import REMEDIES, check_run

    given = None if learning_rate == AUTO else learning_rate
    check_run(given, steps, batch_size)
    problem, at = tuned_problem(adapter, setup) if adapter else (setup.classification(*delta), None)
    # five checks, the run as it is, and each remedy
    with progress_bar(progress, total=6, unit="step") as bar:

        def seen(one: Any) -> None:
            bar.total += getattr(one, "verdict", "") == "found" and one.fault in REMEDIES
            bar.update()

        found = diagnose(
            problem,
            at,
            learning_rate=given,
            steps=steps,
            batch_size=batch_size,
            examples=len(problem.train),
            warm_start=True,
            on_finding=seen,
        )
    tell(found, out.own, Warm_start=found.start_file)
