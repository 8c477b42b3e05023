"""`deltatheory steer`: a tuned model under disturbances, with controllers that act on what they see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from deltatheory.cli.common import (
    Device,
    MaxLength,
    Model,
    Progress,
    TaskName,
    errors_in_one_line,
    prefix_options,
    print_table,
    table_of,
)
from deltatheory.cli.control import DeltaName, DeltaOption


def steer(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
    delta: DeltaName = "prefix:8",
    option: DeltaOption = None,
    tuned: Annotated[
        Path | None, Option(help="delta.safetensors of a training run; trained here by default.")
    ] = None,
    steps: Annotated[int, Option(help="Of that training.")] = 60,
    learning_rate: Annotated[float, Option(help="Of that training.")] = 1e-2,
    controller: Annotated[
        list[str] | None,
        Option(help="none, tuned, robust-prefix, pid, lqr; all that the delta takes by default."),
    ] = None,
    disturbance: Annotated[
        list[str] | None, Option(help="substitutions, typos, trigger, noise; all by default.")
    ] = None,
    train_examples: Annotated[int | None, Option(help="Training examples to use; all by default.")] = None,
    test_examples: Annotated[int | None, Option(help="Test examples to use; all by default.")] = None,
    head: Annotated[
        str, Option(help="label-words, prototypes, probe, random or verbalizer.")
    ] = "label-words",
    max_length: MaxLength = 64,
    seed: Annotated[int, Option(help="Of the draws and the disturbances.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, Option(help="Folder for result.json, table.md and figure.svg.")] = Path(
        "runs/steer"
    ),
    progress: Progress = True,
) -> None:
    """Disturb a tuned model and see what each controller gives back, at what energy and latency."""
    with errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.control.feedback.disturbances import DISTURBANCES
        from deltatheory.control.feedback.steering import (
            CLEAN,
            SteeringProtocol,
            SteeringRow,
            check_names,
            tuned_delta,
        )
        from deltatheory.control.feedback.steering import steer as steered
        from deltatheory.problems import Setup
        from deltatheory.training.trainer import Training

        disturbances = disturbance or list(DISTURBANCES)
        check_names(controller or (), disturbances)
        setup = Setup(
            model,
            task,
            head=head,
            train_examples=train_examples,
            test_examples=test_examples,
            max_length=max_length,
            seed=seed,
            device=device,
        )
        problem = setup.classification(delta, prefix_options(delta, option, gate="values"))
        training = Training(steps=steps, learning_rate=learning_rate, seed=seed)
        value = tuned_delta(problem, tuned, training)
        with tqdm(disable=not progress, unit="row") as bar:

            def count(_: SteeringRow) -> None:
                bar.update()

            protocol = SteeringProtocol(seed=seed)
            result = steered(problem, value, controller, disturbances, protocol=protocol, on_row=count)
        result.save(out)
    names = [CLEAN, *result.disturbances]
    table = table_of("controller", *names, "recovered", "added latency")
    for name in result.settings:
        share = result.recovered(name)
        table.add_row(
            name,
            *(f"{result.accuracy(name, one):.3f}" for one in names),
            "-" if share is None else f"{share:.0%}",
            f"{result.latency[name]['added']:+.0%}",
        )
    print_table(table)
    print(f"Numbers: {out / 'result.json'}")
