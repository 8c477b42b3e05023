"""What advice came to."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deltatheory.advice.candidates import Candidate
from deltatheory.results import Result, write_json

__all__ = ["ADAPTER_ARGUMENTS", "Advice", "Decision", "Difference", "Estimate", "Run"]

ADAPTER_ARGUMENTS = "adapter_training_arguments.json"
_FILES = ("adapter_config", "training_arguments", "adapter_training_arguments")


@dataclass(frozen=True)
class Difference:
    """What a candidate is expected to gain over another one.

    Attributes:
        value: of accuracy, the median.
        low: 5 % quantile.
        high: 95 % quantile.
        chance: that it is more than a point.
    """

    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Estimate:
    """What to expect of one candidate.

    Attributes:
        method: its method.
        options: its size.
        score: expected accuracy after training (median).
        low: 5 % quantile.
        high: 95 % quantile.
        kernel_score: accuracy on held-out folds of the linearized network, with the best regularization.
        parameters: tuned numbers.
        optimizer_bytes: gradient and AdamW state.
        seconds_per_step: of one training step with the given batch, as measured here.
        within_budget: whether it keeps to the budget.
        difference: of its trained accuracy and that of the one to take; `None` where none is within the
            budget.
        learning_rate: the peak that is predicted to train it best; `None` where none was found.
        lowest_rate: from here on training is expected to be about as good.
        highest_rate: up to here.
    """

    method: str
    options: dict[str, Any]
    score: float
    low: float
    high: float
    kernel_score: float
    parameters: int
    optimizer_bytes: int
    seconds_per_step: float
    within_budget: bool
    difference: Difference | None
    learning_rate: float | None
    lowest_rate: float | None
    highest_rate: float | None

    @property
    def label(self) -> str:
        """Return method and options in one line."""
        return Candidate(self.method, self.options).label


@dataclass(frozen=True)
class Decision:
    """The smallest delta that suffices.

    Attributes:
        label: method and options.
        parameters: tuned numbers.
        learning_rate: the peak; `None` where none was found.
        optimizer_bytes: gradient and AdamW state.
        minutes: of the training that is planned, on this machine.
        probability: that no other candidate within the budget is more than a point better.
    """

    label: str
    parameters: int
    learning_rate: float | None
    optimizer_bytes: int
    minutes: float
    probability: float

    def __str__(self) -> str:
        rate = f"learning rate {self.learning_rate:.2g}, " if self.learning_rate else ""
        ahead = (
            "no other candidate is expected to be more than one point better"
            if self.probability >= 0.5
            else "likelier than any other candidate to be within a point of the best"
        )
        return (
            f"Take {self.label} ({self.parameters:,} parameters, {rate}{self.optimizer_bytes / 1e6:.3g} MB "
            f"of optimizer state, {self.minutes:.2g} min of training); {ahead}, "
            f"with probability {self.probability:.2f}."
        )


@dataclass(frozen=True)
class Run:
    """A candidate that was trained, and judged on training or dev examples that it has not seen.

    Attributes:
        label: method and options.
        score: accuracy.
        examples: it was judged on.
    """

    label: str
    score: float
    examples: int


@dataclass(frozen=True)
class Advice(Result):
    """What to take, candidates with the most promising first, and what all this rests on.

    Attributes:
        decision: the smallest one that suffices; `None` where nothing is within the budget.
        ranked: estimates; those outside the budget come last.
        runs: trainings that were asked for, in their order.
        frozen: accuracy of the frozen model on the kernel's examples.
        winner: label of the one to take; `None` where there is none.
        adapter_config: what `peft` loads, of the one to take or, where `peft` has no form for it, of the
            smallest that suffices among those for which it has; `None` where there is none. Ranks and targets
            of a LoRA come from the per-module kernel.
        training_arguments: for the one to take, those of `transformers.TrainingArguments`, its learning rate
            and its name (`run_name`) among them; `None` where no rate was found.
        adapter_training_arguments: the same for the delta of `adapter_config` where that is another one.
        findings: sentences: what is not known, and why.
        passes: forward-equivalents.
        seconds: time taken.
        provenance: model, task, versions, seed, commit.
    """

    FILE: ClassVar[str] = "advice.json"

    decision: Decision | None
    ranked: list[Estimate]
    runs: list[Run]
    frozen: float
    winner: str | None
    adapter_config: dict[str, Any] | None
    training_arguments: dict[str, Any] | None
    adapter_training_arguments: dict[str, Any] | None
    findings: list[str]
    passes: float
    seconds: float
    provenance: dict[str, Any]

    def save_beside(self, folder: Path) -> None:
        """Write `adapter_config.json`, `training_arguments.json` and `adapter_training_arguments.json`.

        Of what there is none of, that of older advice goes away.
        """
        older = _json(folder / self.FILE) or {}
        for field in _FILES:
            path, content = folder / f"{field}.json", getattr(self, field)
            if content:
                write_json(path, content)
            elif path.exists() and _json(path) == older.get(field):
                path.unlink()


def _json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; `None` where there is none."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else None
    return None
