"""How d90 is predicted and searched for."""

from __future__ import annotations

from dataclasses import dataclass

from deltatheory._numbers import check_number
from deltatheory.deltas.subspace import SCOPES
from deltatheory.projections import make_projection
from deltatheory.training.trainer import Training

__all__ = ["DimensionSettings"]


@dataclass(frozen=True)
class DimensionSettings:
    """Which subspaces, how many steps, and when to stop.

    Attributes:
        projection: a key of `deltatheory.projections.PROJECTIONS`: how measured subspaces are drawn.
        scope: "blocks" or "all": which parameters θ are.
        steps: optimizer steps of every run; part of the result.
        batch_size: examples a step.
        average: share of the last steps of a run over which δ is averaged.
        runs: budget of the measured search in training runs of the full step budget, those of the baseline
            included, a predicted learning rate not; 0 leaves it at the prediction.
        precision: the search stops when the 90 % interval is within ± this.
        burn_in: steps of full fine-tuning before the network is linearized; 0 predicts before any training.
        micro_batch: examples of a step that pass through the network at once, all by default.
        gradient_checkpointing: as in `Training`.

    Raises:
        ValueError: for an unknown projection or scope, or a number out of range.
    """

    projection: str = "hashed"
    scope: str = "blocks"
    steps: int = 120
    batch_size: int = 32
    average: float = 0.0
    runs: int | float = 6.0
    precision: float = 0.25
    burn_in: int = 0
    micro_batch: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        make_projection(self.projection, 1, 1, seed=0)
        if self.scope not in SCOPES:
            raise ValueError(f"scope={self.scope!r}: allowed are {', '.join(SCOPES)}.")
        for name in ("steps", "batch_size", "micro_batch"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), whole=True, least=1)
        check_number("average", self.average, least=0, most=1)
        check_number("runs", self.runs, least=0)
        check_number("precision", self.precision, above=0)
        check_number("burn_in", self.burn_in, whole=True, least=0)

    def training(self, seed: int) -> Training:
        """Return the budget of one run; its learning rate is found, the one here is in the names of rows."""
        shared = ("steps", "batch_size", "average", "micro_batch", "gradient_checkpointing")
        return Training(**{name: getattr(self, name) for name in shared}, learning_rate=1e-4, seed=seed)
