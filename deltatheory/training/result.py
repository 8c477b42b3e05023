"""What a training run came to, and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from deltatheory.adapters import is_for_peft, write_adapter
from deltatheory.deltas import Delta
from deltatheory.deltas.files import save_delta
from deltatheory.problems import Classifier
from deltatheory.results import Result
from deltatheory.training.card import model_card
from deltatheory.training.scores import HeldOutScores

__all__ = ["TrainingCosts", "TrainingResult"]


@dataclass(frozen=True)
class TrainingCosts:
    """What a run costs beside its passes; the attributes are those of `TrainingResult`.

    Attributes:
        test: scores on the test split; `None` where the run was not whole.
    """

    tuned_parameters: int
    optimizer_state_bytes: int
    peak_memory: int | None
    seconds_per_step: float | None
    test: dict[str, float] | None = None


@dataclass(frozen=True, eq=False)
class TrainingResult(Result):
    """What a run came to.

    Attributes:
        delta: where it ended; with `evaluate_every` the best δ on the dev split, with `average` the mean of
            the last ones.
        last: where it ended.
        train_loss: mean loss over the last tenth of the steps.
        train_accuracy: mean accuracy on the batches of those steps, as they were met.
        test: scores and loss on the test split.
        answers: the class given to each of its texts, of a classification task.
        movement: ‖δ‖.
        passes: forward-equivalents, in passes over single examples.
        seconds: wall-clock time.
        status: "finished", or "diverged: ..." with the remedy.
        losses: of every step.
        dev: scores and loss on the dev split, and after how many steps.
        stopped_early: whether `patience` ended the run.
        tuned_parameters: m.
        optimizer_state_bytes: what the optimizer keeps beside δ.
        peak_memory: in bytes, of this process. On CUDA the most that was allocated, weights included. On the
            CPU how far the high-water mark rose, a lower bound: 0 where it had been as high before; `None`
            where the system does not tell.
        seconds_per_step: median time of a step, without evaluations and checkpoints.
        full: the same of full fine-tuning, where it was asked for (`full_costs`).
        settings: what makes the run what it is.
        provenance: task, versions, commit, command.
        tuned: the change that δ is of.
        classifier: what reads it, of a classification task.
        scores: what the score on the test split stands beside, where that was asked for (`held_out_scores`).
    """

    BESIDE: ClassVar[tuple[str, ...]] = ("delta", "last", "tuned", "classifier", "answers")

    delta: Tensor
    last: Tensor
    train_loss: float | None
    train_accuracy: float | None
    test: dict[str, float] | None
    movement: float
    passes: float
    seconds: float
    status: str
    losses: list[float]
    dev: list[dict[str, int | float]]
    stopped_early: bool
    tuned_parameters: int
    optimizer_state_bytes: int
    peak_memory: int | None
    seconds_per_step: float | None
    full: TrainingCosts | None
    settings: dict[str, Any]
    provenance: dict[str, Any]
    tuned: Delta
    classifier: Classifier | None
    answers: list[int] | None = None
    scores: HeldOutScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `result.json`; the movement of a run that diverged may be `None`."""
        return {**super().to_dict(), "movement": self.movement if math.isfinite(self.movement) else None}

    def save_beside(self, folder: Path) -> None:
        """Write δ, with its head and a model card, unless the run diverged.

        What `peft` has a form for goes with them into a folder of its own, `adapter`, to be used elsewhere.
        """
        if self.test is None:
            return
        apart = is_for_peft(self.tuned, self.classifier)
        place = folder / "adapter" if apart else folder
        write_adapter(place, self.tuned, self.delta, self.classifier, model_card(self))
        if apart:
            save_delta(folder / "delta.safetensors", self.tuned, self.delta)
