"""Where trials run: which folder has the tasks, on which device, and what each process loads once."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatheory.backbones import Backbone
    from deltatheory.deltas import Delta
    from deltatheory.problems import Setup
    from deltatheory.tasks import Examples, Task
    from experiments.trial import Trial

BACKBONES = Path(__file__).parent / "backbones"
_SUFFIX = " Answer:"  # between the source of a generation task and its target


@dataclass(frozen=True)
class Environment:
    """Where trials run; it is not part of what they are.

    Attributes:
        data: folder of the tasks; `None` where only embedded ones are run.
        device: "cpu" or "cuda".
        threads: of torch, in each process.
    """

    data: Path | None = None
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: must be at least 1.")

    def check(self, models: Iterable[str]) -> None:
        """Raise before any trial what all of one backbone would fail with.

        Raises:
            ValueError: for a backbone that is not to be had, or a device that is not there.
            FileNotFoundError: as `backbone`.
        """
        from deltatheory.backbones.devices import find_device
        from deltatheory.backbones.load import find_checkpoint

        find_device(self.device)
        for model in models:
            find_checkpoint(_place_of(model))

    def start(self) -> None:
        """Prepare a process."""
        import torch

        torch.set_num_threads(self.threads)

    def backbone(self, name: str) -> Backbone:
        """Load a backbone once in a process: one of this folder, or what `load_backbone` takes.

        Raises:
            FileNotFoundError: where this folder has its card alone, without its weights.
        """
        return _backbone(_place_of(name), self.device)

    def task(self, trial: Trial) -> Task:
        """Load the task of a trial, with the trial's numbers of examples, or all of them in their order.

        The stratified draw is the same for all trials; a trial with `own_draw` leaves it to its setup, which
        draws with the trial's seed.
        """
        path = trial.task
        folder, slash, name = path.partition("/")
        if slash:
            if self.data is None:
                raise ValueError(f"task={trial.task!r}: name the folder it lies in (--data).")
            path = str(self.data / folder / "tasks" / f"{name}.jsonl.gz")
        given = trial.settings
        cut = (None, None) if given.get("own_draw") else (given.get("train"), given.get("test"))
        return _task(path, *cut, given.get("dev"))

    def setup(self, trial: Trial) -> Setup:
        """Return backbone, task and frozen head of a trial, made once in a process for each of its seeds."""
        from deltatheory.problems import Setup

        backbone, task, given = self.backbone(trial.model), self.task(trial), trial.settings
        about = {
            "head": given.get("head", "label-words"),
            "max_length": given["max_length"],
            "seed": trial.seed,
        }
        if given.get("own_draw"):
            about |= {"train_examples": given["train"], "test_examples": given["test"]}
        key = id(backbone), id(task), *about.values()
        if key not in _setups:
            suffix = _SUFFIX if task.kind == "generation" else ""
            _setups[key] = Setup(backbone, task, suffix=suffix, **about)
        return _setups[key]

    def problem(self, trial: Trial, delta: str | Delta | None = None) -> Any:
        """Bind the delta of a trial, or another one, to its task and backbone."""
        setup = self.setup(trial)
        answers = {k: v for k, v in trial.settings.items() if k == "max_new_tokens"}
        options = trial.options if delta is None else {}
        return setup.problem(trial.delta if delta is None else delta, options, check=False, **answers)


def _place_of(name: str) -> str:
    folder = BACKBONES / name
    if Path(name).is_absolute() or folder == BACKBONES or not folder.is_dir():
        return name
    if not (folder / "model.safetensors").exists():
        card = folder / "README.md"
        raise FileNotFoundError(f"models={name!r}: not here; the command in {card} makes it.")
    return str(folder)


_setups: dict[tuple, Setup] = {}  # its values keep alive what the keys number


@functools.lru_cache(maxsize=2)
def _backbone(name: str, device: str) -> Backbone:
    from deltatheory.backbones import load_backbone

    return load_backbone(name, device=device)


@functools.lru_cache(maxsize=64)
def _task(path: str, train: int | None, test: int | None, dev: int | None) -> Task:
    from deltatheory.tasks import load_task

    task = load_task(path)

    def most(asked: int | None, split: Examples) -> int | None:
        return None if asked is None else min(asked, len(split))

    task = task.limited(most(train, task.train), most(test, task.test), 0)
    return replace(task, dev=task.dev.subset(range(len(task.dev))[:dev]))
