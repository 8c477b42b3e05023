"""`deltatheory dimension`: how many dimensions a task needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from deltatheory.cli.common import (
    Device,
    MaxLength,
    Model,
    Progress,
    TaskName,
    errors_in_one_line,
    print_table,
    stopped,
    table_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from deltatheory.dimension.criterion import DimensionEstimate
    from deltatheory.dimension.result import CurvePoint, DimensionResult


def dimension(
    model: Model = "minilm",
    task: TaskName = "stdlib-topics",
    method: Annotated[
        Literal["predict", "measure", "both"],
        Option(help="Predict before training, measure by training, or both."),
    ] = "both",
    projection: Annotated[str, Option(help="How the subspace is drawn; see `projections`.")] = "hashed",
    head: Annotated[str, Option(help="label-words, prototypes, probe or random.")] = "label-words",
    scope: Annotated[str, Option(help="Parameters that move: blocks or all.")] = "blocks",
    fraction: Annotated[float, Option(help="Share of the baseline to reach: 0.9 for d90.")] = 0.9,
    baseline: Annotated[
        float | None,
        Option(help="Accuracy to compare with; by default that of full fine-tuning with the same steps."),
    ] = None,
    corrected: Annotated[bool, Option("--corrected", help="Count accuracy from chance, not from 0.")] = False,
    steps: Annotated[int, Option(help="Step budget of every training run.")] = 120,
    batch_size: Annotated[int, Option(help="Examples a step.")] = 32,
    train_examples: Annotated[
        int | None, Option(help="Training examples to use at most; 0 for all of them.")
    ] = 512,
    test_examples: Annotated[
        int | None, Option(help="Held-out examples to use at most; all by default.")
    ] = None,
    max_length: MaxLength = 64,
    runs: Annotated[float, Option(help="Budget of the measurement, in full fine-tuning runs.")] = 6.0,
    precision: Annotated[
        float, Option(help="Stop once the 90 % interval is this narrow: 0.25 is ±25 %.")
    ] = 0.25,
    burn_in: Annotated[
        int, Option(help="Steps of full fine-tuning before the network is linearized; 0 predicts before any.")
    ] = 0,
    seed: Annotated[int, Option(help="Of subspaces, data order and samples.")] = 0,
    device: Device = "cpu",
    out: Annotated[
        Path, Option(help="Folder for report.html, result.json and trials.jsonl; finished runs are reused.")
    ] = Path("runs/dimension"),
    progress: Progress = True,
) -> None:
    """How many dimensions does my task need? d90, predicted before training and measured by training."""
    with errors_in_one_line():
        from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension
        from deltatheory.problems import Setup
        from deltatheory.results import ResultLog

        setup = Setup(
            model,
            task,
            head=head,
            train_examples=train_examples or None,
            test_examples=test_examples or None,
            max_length=max_length,
            seed=seed,
            device=device,
        )
        settings = DimensionSettings(
            projection=projection,
            scope=scope,
            steps=steps,
            batch_size=batch_size,
            runs=runs,
            precision=precision,
            burn_in=burn_in,
        )
        bars = _Bars()
        try:
            result = intrinsic_dimension(
                setup,
                method=method,
                criterion=Criterion(fraction=fraction, baseline=baseline, corrected=corrected),
                settings=settings,
                log=ResultLog(out / "trials.jsonl"),
                on_example=bars.example if progress else None,
                on_run=bars.run if progress else None,
                on_point=bars.point if progress else None,
            )
        except KeyboardInterrupt:
            stopped(out)
        finally:
            bars.close()
        result.save(out)
    print_table(_summary(result))
    missed = result.diagnostics.get("missed", [])
    if missed:
        print("What missed:")
        for sentence in missed:
            print(f"  - {sentence}")
    print(f"Report: {(out / 'report.html').resolve().as_uri()}")
    print(f"Numbers: {out / 'result.json'}")


class _Bars:
    """One bar at a time: kernel examples, or the steps of the present run."""

    def __init__(self) -> None:
        self.bar: Any = None

    def _open(self, total: int | None, title: str) -> Any:
        from tqdm import tqdm

        self.close()
        self.bar = tqdm(total=total, desc=title, file=sys.stderr)
        return self.bar

    def close(self) -> None:
        """Close the bar that is open."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def example(self, done: int, total: int) -> None:
        """Show one more example of the kernel."""
        bar = self.bar or self._open(total, "kernel")
        bar.update(done - bar.n)

    def run(self, title: str) -> Callable[[int, float], None]:
        """Start the bar of a run."""
        bar = self._open(None, title)

        def step(_: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}")
            bar.update()

        return step

    def point(self, point: CurvePoint) -> None:
        """Finish the bar of a run."""
        if self.bar is not None and point.method != "frozen" and point.test_metric is not None:
            self.bar.set_postfix_str(f"accuracy {point.test_metric:.3f}")
        self.close()


def _summary(result: DimensionResult) -> Table:
    table = table_of("", "d90", "90 % interval", "level", "passes", "seconds", "status")
    rows: tuple[tuple[str, str, str, DimensionEstimate | None], ...] = (
        ("predicted before training", "predicted", "predict", result.predicted),
        ("measured by training", "measured", "measure", result.measured),
    )
    from deltatheory.report import count, estimate, span

    for label, name, verb, interval in rows:
        if interval is None:
            continue
        table.add_row(
            label,
            estimate(interval),
            span(interval),
            f"{result.level[name]:.3f}" if name in result.level else "",
            count(result.passes.get(verb)),
            f"{result.seconds[verb]:.0f}" if verb in result.seconds else "",
            interval.status,
        )
    return table
