"""Scores of a run, sent to a project of `trackio` while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from deltatheory.results import configuration_hash

__all__ = ["Tracker"]


class Tracker:
    """Sends the training loss and the scores at every evaluation; `trackio show` draws the curves.

    A run has its settings in its name: one that was stopped goes on under the same name.

    Args:
        project: of trackio, new or not; with `None` nothing is sent, and trackio not imported.
        delta: what is tuned, for the run's name.
        settings: what makes the run what it is; plain JSON values.

    Raises:
        ImportError: for a project without `trackio`.
    """

    def __init__(self, project: str | None, delta: str, settings: Mapping) -> None:
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
        name = f"{delta}-{configuration_hash(settings)}"
        self._run = trackio.init(project, name=name, config=dict(settings), resume="allow", embed=False)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.finish()

    def step(self, _step: int, loss: float) -> None:
        """Keep the loss of a step for the next evaluation."""
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
