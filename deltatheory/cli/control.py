"""`deltatheory control` and `deltatheory diagnose`: a delta as the controller of the frozen layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.common import (
    Device,
    MaxLength,
    Model,
    Progress,
    TaskName,
    errors_in_one_line,
    options_of,
    prefix_options,
    print_table,
    table_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.control.design import ControlResult

DeltaName = Annotated[str, Option(help="A delta and its size (see `deltas`): prefix:8, lora:4, bitfit, ...")]
DeltaOption = Annotated[list[str] | None, Option(help="Of the delta, as NAME=VALUE: gate=none.")]
Examples = Annotated[int, Option(help="Training examples, a stratified draw.")]
Energy = Annotated[float, Option(help="Weight of |δ|²/2 beside the loss.")]


def control(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
    delta: DeltaName = "prefix:8",
    option: DeltaOption = None,
    solver: Annotated[
        str, Option(help="gauss-newton, adam, sgd, l-bfgs, msa, e-msa, minimum-energy, ...")
    ] = "gauss-newton",
    setting: Annotated[list[str] | None, Option(help="Of the solver, as NAME=VALUE: budget=50.")] = None,
    examples: Examples = 64,
    test_examples: Annotated[int | None, Option(help="Test examples to use; all by default.")] = None,
    head: Annotated[
        str, Option(help="label-words, prototypes, probe, random or verbalizer.")
    ] = "label-words",
    max_length: MaxLength = 64,
    energy: Energy = 0.0,
    seed: Annotated[int, Option(help="Of the draws and of the delta's start.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, Option(help="Folder for result.json, report.html and delta.safetensors.")] = Path(
        "runs/control"
    ),
    progress: Progress = True,
) -> None:
    """Solve for the controller of a frozen model on a task, and see what each layer does and can do."""
    with errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.control.design import design_controller
        from deltatheory.problems import Setup

        setup = Setup(
            model,
            task,
            head=head,
            train_examples=examples,
            test_examples=test_examples,
            max_length=max_length,
            seed=seed,
            device=device,
        )
        problem = setup.classification(delta, prefix_options(delta, option, gate="values"))
        with tqdm(disable=not progress, desc=solver, unit="iteration") as bar:

            def show(row: dict[str, Any]) -> None:
                bar.update()
                bar.set_postfix(objective=f"{row['cost']:.4f}", passes=f"{row['passes']:.0f}")

            chosen = options_of(setting or [])
            result = design_controller(problem, solver, chosen, energy_weight=energy, on_step=show)
        result.save(out)
    print_table(_layers(result))
    print(f"Status: {result.status}{'. ' + result.remedy if result.remedy else ''}")
    scores = f"{result.frozen['accuracy']:.3f} frozen, {result.test['accuracy']:.3f} under control"
    print(f"Test accuracy: {scores}; objective {result.cost:.4f}; energy |δ|² {result.energy:.3g}")
    print(f"Report: {out / 'report.html'}")


def _layers(result: ControlResult) -> Table:
    table = table_of("step", "coordinates", "energy", "costate", "residual at 0", "residual", "Gramian share")
    for x in result.layers:
        numbers = (x.energy, x.costate, x.residual_at_zero, x.residual)
        table.add_row(
            x.name, f"{x.coordinates:,}", *(f"{value:.3g}" for value in numbers), f"{x.gramian_share:.0%}"
        )
    return table


def diagnose(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
    delta: DeltaName = "prefix:8",
    option: DeltaOption = None,
    learning_rate: Annotated[float, Option(help="Of the run that does not converge (Adam).")] = 1e-2,
    steps: Annotated[int, Option(help="Its step budget.")] = 100,
    examples: Examples = 32,
    head: Annotated[
        str, Option(help="label-words, prototypes, probe, random or verbalizer.")
    ] = "label-words",
    max_length: MaxLength = 64,
    seed: Annotated[int, Option(help="Of the draws and of the delta's start.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path, Option(help="Folder for diagnosis.json and the warm-started adapter.")] = Path(
        "runs/diagnose"
    ),
    progress: Progress = True,
) -> None:
    """Say why a prefix, or any other delta, does not train, and write one that is warm-started."""
    with errors_in_one_line():
        from tqdm import tqdm

        from deltatheory.control.diagnosis import Finding
        from deltatheory.control.diagnosis import diagnose as diagnosed
        from deltatheory.problems import Setup

        setup = Setup(
            model,
            task,
            head=head,
            train_examples=examples,
            max_length=max_length,
            seed=seed,
            device=device,
        )
        # The raw prefix, with positions counted behind it: PEFT's.
        problem = setup.classification(delta, prefix_options(delta, option, gate="none", shift=True))
        with tqdm(disable=not progress, total=5, unit="check") as bar:

            def count(_: Finding) -> None:
                bar.update()

            diagnosis = diagnosed(
                problem,
                learning_rate=learning_rate,
                steps=steps,
                examples=len(problem.train),
                warm_start=True,
                on_finding=count,
            )
        diagnosis.save(out)
    table = table_of("possible fault", "verdict", "what shows it", "remedy")
    for one in diagnosis.findings:
        table.add_row(one.fault, one.verdict, one.says, one.remedy)
    print_table(table)
    print(f"Warm start: {out / diagnosis.start_file}")
    print(f"Numbers: {out / 'diagnosis.json'}")
