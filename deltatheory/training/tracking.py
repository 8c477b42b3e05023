"""Scores of a run, sent while it trains to what follows runs, by the names of `transformers`' `report_to`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from statistics import mean

from deltatheory.problems import Problem
from deltatheory.results import configuration_hash
from deltatheory.training.trainer import Training, settings_of

__all__ = ["TRACKERS", "Tracker", "tracker_of"]

_PROJECT = "deltatheory"
Log = Callable[[dict[str, float], int], None]


def _trackio(project: str, name: str, settings: dict, _: Path) -> tuple[Log, Callable[[], None]]:
    import trackio  # pyright: ignore[reportMissingImports]

    run = trackio.init(project, name=name, config=settings, resume="allow", embed=False)
    return lambda row, step: run.log(row, step=step), run.finish


def _wandb(project: str, name: str, settings: dict, folder: Path) -> tuple[Log, Callable[[], None]]:
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(project=project, name=name, id=name, config=settings, resume="allow", dir=folder)
    return lambda row, step: run.log(row, step=step), run.finish


def _tensorboard(project: str, name: str, settings: dict, folder: Path) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard" / project / name))
    writer.add_text("settings", str(settings))

    def log(row: dict[str, float], step: int) -> None:
        for key, value in row.items():
            writer.add_scalar(key, value, step)

    return log, writer.close


TRACKERS = {"trackio": _trackio, "tensorboard": _tensorboard, "wandb": _wandb}


def tracker_of(track: str) -> tuple[str, str]:
    """Return the tracker and the project of NAME or NAME:PROJECT.

    Raises:
        ValueError: for a tracker that is not known.

    >>> tracker_of("wandb"), tracker_of("trackio:letters")
    (('wandb', 'deltatheory'), ('trackio', 'letters'))
    """
    name, _, project = track.partition(":")
    if name not in TRACKERS:
        raise ValueError(f"track={track!r}: must be one of {', '.join(TRACKERS)}, or NAME:PROJECT.")
    return name, project or _PROJECT


def _aside() -> AbstractContextManager[object]:
    """Let what a tracker prints of itself go where no answer is: trackio says it on standard output."""
    return redirect_stdout(sys.stderr)


class Tracker:
    """Sends the training loss and the scores at every evaluation.

    A run has its settings in its name: one that was stopped goes on under the same name.

    Args:
        track: where to, as `tracker_of` takes it; with `None` nothing is sent, and nothing imported.
        problem: what is trained.
        training: how.
        folder: for the files of a tracker that has some.

    Raises:
        ImportError: without the tracker's package.
        ValueError: as `tracker_of`.
    """

    def __init__(
        self, track: str | None, problem: Problem, training: Training, folder: str | os.PathLike[str] = "."
    ) -> None:
        self._losses: list[float] = []
        self._log: Log | None = None
        self._finish: Callable[[], None] = lambda: None
        if track is None:
            return
        tracker, project = tracker_of(track)
        settings = settings_of(problem, training)
        name = f"{problem.delta.name}-{configuration_hash(settings)}"
        try:
            with _aside():
                self._log, self._finish = TRACKERS[tracker](project, name, settings, Path(folder))
        except ImportError as error:
            raise ImportError(f"track={track!r} needs {tracker}: pip install {tracker}") from error

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        with _aside():
            self._finish()

    def step(self, _step: int, loss: float) -> None:
        """Keep the loss of a step for the next evaluation; `train` calls it with each step."""
        self._losses.append(loss)

    def evaluation(self, scores: Mapping[str, int | float], split: str = "dev") -> None:
        """Send the scores on a split, and the mean training loss since the evaluation before.

        Args:
            scores: by name, and as "step" after how many steps.
            split: what stands before their names.
        """
        if self._log is None:
            return
        row = {f"{split}/{name}": value for name, value in scores.items() if name != "step"}
        if self._losses:
            row["train/loss"] = mean(self._losses)
            self._losses.clear()
        self._log(row, int(scores["step"]))
