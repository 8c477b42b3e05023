"""What advice came to."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deltatheory.advice.candidates import Candidate
from deltatheory.results import Result, write_json

__all__ = ["Advice", "Estimate"]

_CONFIG, _ARGUMENTS = "adapter_config.json", "training_arguments.json"


@dataclass(frozen=True)
class Estimate:
    """What to expect of one candidate.

    Attributes:
        method: its method.
        options: its size.
        score: predicted accuracy after training, with the best regularization.
        low: 5 % quantile.
        high: 95 % quantile.
        parameters: tuned numbers.
        optimizer_bytes: gradient and AdamW state.
        seconds_per_step: of one training step with the given batch, as measured here.
        within_budget: whether it keeps to the budget.
        learning_rate: the peak that is predicted to train it best; `None` where none was found.
        lowest_rate: from here on training is expected to be about as good.
        highest_rate: up to here.
    """

    method: str
    options: dict[str, Any]
    score: float
    low: float
    high: float
    parameters: int
    optimizer_bytes: int
    seconds_per_step: float
    within_budget: bool
    learning_rate: float | None
    lowest_rate: float | None
    highest_rate: float | None

    @property
    def label(self) -> str:
        """Return method and options in one line."""
        return Candidate(self.method, self.options).label


@dataclass(frozen=True)
class Advice(Result):
    """Candidates, the most promising first, and what the ranking rests on.

    Attributes:
        ranked: estimates; those outside the budget come last.
        frozen: accuracy of the frozen model on the kernel's examples.
        winner: label of the first one within the budget; `None` where nothing is.
        adapter_config: for a LoRA winner, what `peft` loads: ranks and targets from the per-module kernel.
        training_arguments: for the winner, those of `transformers.TrainingArguments`, its learning rate among
            them; `None` where none was found.
        findings: sentences: what is not known, and why.
        passes: forward-equivalents.
        seconds: time taken.
        provenance: model, task, versions, seed, commit.
    """

    FILE: ClassVar[str] = "advice.json"

    ranked: list[Estimate]
    frozen: float
    winner: str | None
    adapter_config: dict[str, Any] | None
    training_arguments: dict[str, Any] | None
    findings: list[str]
    passes: float
    seconds: float
    provenance: dict[str, Any]

    def save_beside(self, folder: Path) -> None:
        """Write `adapter_config.json` for a LoRA winner and `training_arguments.json`.

        Of what there is none of, that of older advice goes away.
        """
        older = _json(folder / self.FILE) or {}
        files = {
            _CONFIG: ("adapter_config", self.adapter_config),
            _ARGUMENTS: ("training_arguments", self.training_arguments),
        }
        for name, (field, content) in files.items():
            path = folder / name
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
