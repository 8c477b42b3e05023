"""`deltatheory dimension`: how many dimensions a task needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from deltatheory.cli.options import SETUP, TRAINING, Group, Progress, Shared, command, lazy, results_in
from deltatheory.cli.output import progress_bar, resumable, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.dimension import Criterion, CurvePoint, DimensionSettings
    from deltatheory.problems import Setup


def _or_all(examples: int | None) -> int | None:
    return examples or None


_SETUP = SETUP.changed(
    default={"train_examples": 512},
    help={
        "train_examples": "Training examples to use at most; 0 for all of them.",
        "test_examples": "Held-out examples to use at most; all by default.",
        "seed": "Of subspaces, data order and samples.",
    },
    callback={"train_examples": _or_all, "test_examples": _or_all},
)

_CRITERION = Group(
    lazy("deltatheory.dimension.Criterion"),
    {
        "fraction": Shared(float, 0.9, "Share of the baseline to reach: 0.9 for d90."),
        "baseline": Shared(
            float | None,
            None,
            "Accuracy to compare with; by default that of full fine-tuning with the same steps.",
        ),
        "corrected": Shared(bool, False, "Count accuracy from chance, not from 0.", flag="--corrected"),
        "metric": Shared(
            Literal["accuracy", "loss"],
            "accuracy",
            "Of held-out examples: accuracy, or the fall of the loss, which is sharper.",
        ),
        "of": Shared(
            Literal["baseline", "gain"],
            "baseline",
            "Count accuracy from 0 (share of the baseline) or from the frozen model (share of the gain).",
        ),
    },
)

_SETTINGS = Group(
    lazy("deltatheory.dimension.DimensionSettings"),
    {
        "projection": Shared(str, "hashed", "How the subspace is drawn; see `projections`."),
        "scope": Shared(str, "blocks", "Parameters that move: blocks or all."),
        "steps": Shared(int, 120, "Step budget of every training run."),
        "batch_size": TRAINING.options["batch_size"],
        "micro_batch": TRAINING.options["micro_batch"],
        "gradient_checkpointing": TRAINING.options["gradient_checkpointing"],
        "average": Shared(float, 0.0, "Share of the last steps of a run over which δ is averaged."),
        "runs": Shared(
            float,
            6.0,
            "Budget of the measurement, in full fine-tuning runs; 0 leaves it at the prediction.",
        ),
        "precision": Shared(float, 0.25, "Stop once the 90 % interval is this narrow: 0.25 is ±25 %."),
        "burn_in": Shared(
            int,
            0,
            "Steps of full fine-tuning before the network is linearized; 0 predicts before any.",
        ),
    },
)


@command(
    "models",
    "report",
    setup=_SETUP,
    criterion=_CRITERION,
    settings=_SETTINGS,
    out=results_in(
        "runs/dimension", "Folder for report.html, result.json and trials.jsonl; finished runs are reused."
    ),
)
def dimension(
    setup: "Setup",
    criterion: "Criterion",
    settings: "DimensionSettings",
    out: "RunFolder",
    method: Annotated[
        Literal["predict", "measure", "both"],
        Option(help="Predict before training, measure by training, or both."),
    ] = "both",
    progress: Progress = True,
) -> None:
    """How many dimensions does my task need? d90, predicted before training and measured by training."""
    from deltatheory.dimension import intrinsic_dimension
    from deltatheory.results import ResultLog

    bars, log = _Bars(progress), ResultLog(out.given / "trials.jsonl")
    with resumable(log.path):
        try:
            result = intrinsic_dimension(
                setup,
                method=method,
                criterion=criterion,
                settings=settings,
                log=log,
                on_example=bars.example,
                on_run=bars.run,
                on_point=bars.point,
            )
        finally:
            bars.close()
    tell(result, out.own)


class _Bars:
    """One bar at a time: kernel examples, or the steps of the present run."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._bar: Any = None

    def _open(self, title: str, total: int | None = None) -> Any:
        self.close()
        self._bar = progress_bar(self._show, total=total, desc=title)
        return self._bar

    def close(self) -> None:
        """Close the bar that is open."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def example(self, done: int, total: int) -> None:
        """Show one more example of the kernel."""
        bar = self._open("kernel", total) if self._bar is None else self._bar
        bar.update(done - bar.n)

    def run(self, title: str) -> Callable[[int, float], None]:
        """Start the bar of a run."""
        bar = self._open(title)

        def step(_: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}")
            bar.update()

        return step

    def point(self, point: "CurvePoint") -> None:
        """Finish the bar of a run."""
        if self._bar is not None and point.method != "frozen" and point.test_metric is not None:
            self._bar.set_postfix_str(f"accuracy {point.test_metric:.3f}")
        self.close()
