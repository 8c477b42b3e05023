"""Scores of a run, sent to a project of `trackio` while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from deltatheory.problems import Problem
from deltatheory.results import configuration_hash
from deltatheory.training.trainer import Training, settings_of

__all__ = ["Tracker"]


class Tracker:
    """Sends the training loss and the scores at every evaluation; `trackio show` draws the curves.

    A run has its settings in its name: one that was stopped goes on under the same name.

    Args:
        project: of trackio, new or not; with `None` nothing is sent, and trackio not imported.
        problem: what is trained.
        training: how.

    Raises:
        ImportError: for a project without `trackio`.
    """

    def __init__(self, project: str | None, problem: Problem, training: Training) -> None:
        self._losses: list[float] = []
        self._run: Any = None
        if project is None:
            return
        try:
            import trackio  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                f"track={project!r} needs trackio: pip install 'deltatheory[tracking]'"
            ) from error
        settings = settings_of(problem, training)
        name = f"{problem.delta.name}-{configuration_hash(settings)}"
        self._run = trackio.init(project, name=name, config=settings, resume="allow", embed=False)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.finish()

    def step(self, _step: int, loss: float) -> None:
        """Keep the loss of a step for the next evaluation; `train` calls it with each step."""
        self._losses.append(loss)

    def evaluation(self, scores: Mapping[str, int | float], split: str = "dev") -> None:
        """Send the scores on a split, and the mean training loss since the evaluation before.

        Args:
            scores: by name, and as "step" after how many steps.
            split: what stands before their names.
        """
        if self._run is None:
            return
        row = {f"{split}/{name}": value for name, value in scores.items() if name != "step"}
        if self._losses:
            row["train/loss"] = mean(self._losses)
            self._losses.clear()
        self._run.log(row, step=int(scores["step"]))
