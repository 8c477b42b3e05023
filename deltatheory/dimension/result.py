"""What a dimension run came to, as one object and one JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.results import Result

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
        test_loss: loss on them, at the best scale of the logits.
    """

    d: int
    method: str
    seed: int
    train_loss: float | None
    train_metric: float | None
    test_metric: float | None
    test_loss: float | None = None


@dataclass(frozen=True)
class DimensionResult(Result):
    """d90 predicted and measured, the curves behind them, and what they cost.

    Attributes:
        predicted: d90 from the kernel, before training; `None` if it was not asked for.
        measured: d90 from training in subspaces; `None` if it was not asked for.
        level: {"predicted": ..., "measured": ...}: the accuracy or loss that d90 must reach, for each method.
        baseline: the same for that of full fine-tuning.
        chance: majority rate of the test split.
        frozen: accuracy or loss at δ = 0.
        size: D.
        curve: every run.
        passes: {"predict": ..., "measure": ...} in forward-equivalents: passes over single examples.
        full_runs: the measured search in units of one full fine-tuning run with its evaluation.
        seconds: {"predict": ..., "measure": ...}.
        diagnostics: those of `Prediction`; "missed" has what the search missed too, "ratio" is predicted over
            measured d90, "assumptions" are sentences.
        settings: method, criterion, training, `DimensionSettings`, head, limits, seed, device, and the rates
            found.
        provenance: model, task, versions, seed, commit, command.
        fractions: {"predicted": {"d50": ..., "d75": ..., "d90": ...}, "measured": ...}: where the same curve
            reaches other fractions.
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
    fractions: dict[str, dict[str, DimensionEstimate]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `result.json`: both estimates under "d90", the size under its symbol "D"."""
        values = super().to_dict()
        d90 = {name: values.pop(name) for name in ("predicted", "measured")}
        return {
            "d90": {name: estimate for name, estimate in d90.items() if estimate is not None},
            **{"D" if name == "size" else name: value for name, value in values.items()},
        }
