"""A tuned model by name, under disturbances and under controllers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatheory.backbones import Backbone
from deltatheory.control.feedback.disturbances import DISTURBANCES
from deltatheory.control.feedback.steering import SteeringResult, SteeringRow, check_names, steer
from deltatheory.deltas import split_size
from deltatheory.deltas.files import load_delta, save_delta
from deltatheory.problems import load_problem
from deltatheory.tasks import Task
from deltatheory.training.trainer import Training, train

__all__ = ["steer_task"]


def steer_task(
    model: str | Backbone = "minilm",
    task: str | Task = "stdlib-topics",
    delta: str = "prefix:8",
    options: Mapping[str, Any] | None = None,
    *,
    tuned: str | Path | None = None,
    training: Training | None = None,
    controllers: Sequence[str] | None = None,
    disturbances: Sequence[str] = tuple(DISTURBANCES),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    examples: int | None = None,
    test_examples: int | None = None,
    head: str = "label-words",
    max_length: int = 64,
    seed: int = 0,
    device: str = "cpu",
    out: str | Path = "runs/steer",
    on_row: Callable[[SteeringRow], None] | None = None,
) -> SteeringResult:
    """Run controllers on a tuned model under disturbances, and write what they give back.

    Written are `result.json`, `table.md`, `figure.svg` and the δ that was steered, `delta.safetensors`.

    Args:
        model: as the other arguments of the problem, see `load_problem`.
        task: a classification task.
        delta: what is tuned, with its size; a prefix has gate="values" unless `options` say otherwise.
        options: further arguments of its class.
        tuned: a file with a trained δ of that delta, as `deltatheory train` writes it; it is trained here
            where there is none.
        training: how.
        controllers: keys of `POLICIES`; all that the delta takes by default.
        disturbances: keys of `DISTURBANCES`.
        settings: controller ↦ its settings.
        examples: training examples; all by default.
        test_examples: test examples; all by default.
        head: a key of `deltatheory.problems.heads.HEADS`.
        max_length: longer texts are cut here.
        seed: of the draws and the disturbances.
        device: "cpu" or "cuda".
        out: folder for the files.
        on_row: called with each row.

    Raises:
        ValueError: as `load_problem` and `steer`, for a δ that is not of the delta's size, or where the
            training diverges.
    """
    check_names(controllers or (), disturbances)
    if split_size(delta)[0] == "prefix":
        options = {"gate": "values", **(options or {})}
    problem = load_problem(
        model,
        task,
        delta,
        options,
        examples=examples,
        test_examples=test_examples,
        head=head,
        max_length=max_length,
        seed=seed,
        device=device,
    )
    if tuned is None:
        trained = train(problem, training or Training(learning_rate=1e-2, seed=seed))
        if trained.test is None:
            raise ValueError(f"training {trained.status}.")
        value = trained.delta
    else:
        kept, value = load_delta(tuned, problem.backbone)
        asked = problem.delta.specification()
        if kept.specification() != asked:
            raise ValueError(f"tuned={str(tuned)!r} holds {kept.specification()}: asked for is {asked}.")
    result = steer(
        problem,
        value,
        controllers,
        disturbances,
        settings=settings,
        examples=min(256, len(problem.train)),
        seed=seed,
        on_row=on_row,
    )
    folder = Path(out)
    result.save(folder)
    save_delta(folder / "delta.safetensors", problem.delta, value)
    return result
