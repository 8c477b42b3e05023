"""What a dimension run came to, as one object and one JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.results import write_atomically, write_json

__all__ = ["CurvePoint", "DimensionResult"]


@dataclass(frozen=True)
class CurvePoint:
    """One row of the curve: a training run, or one seed of the prediction.

    Attributes:
        d: dimension of the subspace; 0 is the frozen model, D full fine-tuning.
        method: "predict", "measure" (a subspace), "baseline" (full fine-tuning) or "frozen".
        seed: of subspace and data order.
        train_loss: mean cross-entropy over the last tenth of the steps.
        train_metric: accuracy on the training examples, where it was evaluated.
        test_metric: accuracy on held-out examples.
    """

    d: int
    method: str
    seed: int
    train_loss: float | None
    train_metric: float | None
    test_metric: float | None


@dataclass(frozen=True)
class DimensionResult:
    """d90 predicted and measured, the curves behind them, and what they cost.

    Attributes:
        predicted: d90 from the kernel, before training; `None` if it was not asked for.
        measured: d90 from training in subspaces; `None` if it was not asked for.
        level: {"predicted": ..., "measured": ...}: the accuracy that d90 must reach, for each method.
        baseline: the same for the accuracy of full fine-tuning.
        chance: majority rate of the test split.
        frozen: accuracy at δ = 0.
        size: D.
        curve: every run.
        passes: {"predict": ..., "measure": ...} in forward-equivalents: passes over single examples.
        full_runs: the measured search in units of one full fine-tuning run with its evaluation.
        seconds: {"predict": ..., "measure": ...}.
        diagnostics: of the prediction: rank, movement, linearization error, and what missed.
        settings: criterion, training, projection, head, scope.
        provenance: model, task, versions, seed, commit, command.
    """

    predicted: DimensionEstimate | None
    measured: DimensionEstimate | None
    level: dict[str, float]
    baseline: dict[str, float]
    chance: float
    frozen: float
    size: int
    curve: list[CurvePoint]
    passes: dict[str, float]
    full_runs: float
    seconds: dict[str, float]
    diagnostics: dict[str, Any]
    settings: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `result.json`."""
        d90 = {
            name: interval.to_dict()
            for name, interval in (("predicted", self.predicted), ("measured", self.measured))
            if interval is not None
        }
        return {
            "d90": d90,
            "level": self.level,
            "baseline": self.baseline,
            "chance": self.chance,
            "frozen": self.frozen,
            "D": self.size,
            "curve": [vars(point) for point in self.curve],
            "passes": self.passes,
            "full_runs": self.full_runs,
            "seconds": self.seconds,
            "diagnostics": self.diagnostics,
            "settings": self.settings,
            "provenance": self.provenance,
        }

    def plot(self) -> Any:
        """Return a matplotlib figure: accuracy against d, predicted and measured, with both d90."""
        from deltatheory.report import dimension_figure

        return dimension_figure(self)

    def save(self, folder: str | Path) -> Path:
        """Write `result.json` and `report.html` into a folder, atomically; return the page's path."""
        from deltatheory.report import dimension_page

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "result.json", self.to_dict())
        write_atomically(folder / "report.html", dimension_page(self))
        return folder / "report.html"
