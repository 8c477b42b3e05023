"""Train one delta on a task, from names to files: what `deltatheory train` does."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import DELTAS, Delta, make_delta
from deltatheory.deltas.files import save_delta
from deltatheory.deltas.subspace import FullFineTuning
from deltatheory.problems import ClassificationProblem, GenerationProblem, Problem
from deltatheory.problems.heads import make_head
from deltatheory.results import provenance, write_json
from deltatheory.tasks import Task, load_task
from deltatheory.training import parallel
from deltatheory.training.tracking import Tracker
from deltatheory.training.trainer import Training, TrainingResult, train

__all__ = ["tune"]

_TIMED = 5  # steps of full fine-tuning that tell its cost
_COSTS = ("tuned_parameters", "optimizer_state_bytes", "peak_memory", "seconds_per_step")


def tune(
    model: str | Backbone = "minilm",
    task: str | Task = "stdlib-topics",
    delta: str = "lora",
    options: Mapping[str, Any] | None = None,
    training: Training | None = None,
    *,
    head: str = "label-words",
    suffix: str = "",
    train_examples: int | None = None,
    test_examples: int | None = None,
    max_length: int = 64,
    max_new_tokens: int = 16,
    compare: bool = True,
    device: str = "cpu",
    out: str | Path = "runs/train",
    track: str | None = None,
    progress: bool = False,
) -> dict:
    """Train one delta and write `result.json` and `delta.safetensors`; a run that was stopped goes on.

    The processes of `accelerate launch` share every batch (see `train`), and the first one writes.

    Args:
        model: a backbone, or what `load_backbone` takes.
        task: a task, or what `load_task` takes.
        delta: a key of `deltatheory.deltas.DELTAS`.
        options: the arguments of its class.
        training: how; its seed also draws examples and a random head.
        head: a key of `deltatheory.problems.heads.HEADS`, for classification.
        suffix: put after each text, before the label word (verbalizer) or the target (generation).
        train_examples: training examples to use (a stratified draw; `None`: all there are).
        test_examples: test examples to use (`None`: all there are).
        max_length: longer texts are cut here, in tokens.
        max_new_tokens: of targets and answers of a generation task.
        compare: also time a few steps of full fine-tuning, for its costs beside the delta's.
        device: "cpu" or "cuda".
        out: folder for the files and the checkpoint.
        track: a project of `trackio` that gets loss and scores at every evaluation.
        progress: show a bar with loss, score, passes and time left.

    Returns:
        What `result.json` holds.

    Raises:
        ImportError: for `track` without `trackio`.
        ValueError: for bad arguments, or a folder with the checkpoint of another run.
        DerivativeError: if the backbone's derivatives fail the self-check.
    """
    training, out = training or Training(), Path(out)
    parallel.join(device)
    first = parallel.is_first()
    made_of = _checked(delta, dict(options or {}))
    task = load_task(task) if isinstance(task, str) else task
    task = task.limited(train_examples, test_examples, training.seed)
    backbone = load_backbone(model, device=device) if isinstance(model, str) else model
    tuned = made_of(backbone)
    length = min(max_length, backbone.max_length)
    frozen = None
    if task.kind == "classification":
        frozen = make_head(head, backbone, task, seed=training.seed, max_length=length, suffix=suffix)

    def problem_of(delta: Delta, task: Task, check: bool) -> Problem:
        if frozen is not None:
            return ClassificationProblem(backbone, task, delta, frozen, max_length=length, check=check)
        lengths = {"max_length": length, "max_new_tokens": max_new_tokens}
        return GenerationProblem(backbone, task, delta, suffix=suffix, check=check, **lengths)

    problem = problem_of(tuned, task, True)
    settings = {**problem.identity(), "training": training.to_dict(), "device": str(backbone.device)}
    with (
        _Bar(problem, training.steps, progress and first) as bar,
        Tracker(track if first else None, tuned.name, settings) as tracker,
    ):
        outcome = train(
            problem,
            training,
            checkpoint=out / "checkpoint.safetensors",
            on_step=_each(bar.step, tracker.step),
            on_evaluate=_each(bar.evaluation, tracker.evaluation),
        )
        if outcome.test is not None:
            tracker.evaluation({"step": len(outcome.losses), **outcome.test}, "test")
    result = {
        **_plain(outcome),
        "full": None,
        "settings": settings,
        "provenance": {**provenance(), "task": {"name": task.name, **task.provenance}},
    }
    if outcome.test is not None and first:
        save_delta(out / "delta.safetensors", tuned, outcome.delta)
    if first:
        write_json(out / "result.json", result)
    if compare:
        full = FullFineTuning(backbone, scope=getattr(tuned, "scope", "blocks"))
        short = replace(training, steps=_TIMED, evaluate_every=None, patience=None, learning_rate=1e-5)
        costs = train(problem_of(full, task.limited(None, 1, training.seed), False), short)
        result["full"] = {name: getattr(costs, name) for name in _COSTS}
        if first:
            write_json(out / "result.json", result)
    return result


def _checked(name: str, options: dict[str, Any]) -> Callable[[Backbone], Delta]:
    """Say which options a delta takes before anything is loaded."""

    def make(backbone: Backbone) -> Delta:
        try:
            return make_delta(name, backbone, **options)
        except TypeError as error:  # a text where the class computes with a number
            raise ValueError(f"options={options}: {error}.") from error

    if name in DELTAS:  # `make_delta` names the nearest of an unknown one
        signature = inspect.signature(DELTAS[name])
        try:
            signature.bind(None, **options)
        except TypeError as error:
            bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            allowed = ", ".join(map(str, bare[1:])) or "none"
            raise ValueError(f"options={options} of delta={name!r}: {error}; allowed: {allowed}.") from error
    return make


def _each(*functions: Callable[..., None]) -> Callable[..., None]:
    """Return a function that calls all of these."""

    def call(*arguments: Any) -> None:
        for function in functions:
            function(*arguments)

    return call


def _plain(outcome: TrainingResult) -> dict[str, Any]:
    """Return a result without δ, in what JSON has."""
    values = {name: value for name, value in vars(outcome).items() if name != "delta"}
    return {**values, "movement": outcome.movement if math.isfinite(outcome.movement) else None}


class _Bar:
    """Steps done, loss, the dev split's score, passes and time left."""

    def __init__(self, problem: Problem, steps: int, on: bool) -> None:
        self.problem, self.score, self.bar = problem, "", None
        if on:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, desc=problem.delta.name, file=sys.stderr)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int, loss: float) -> None:
        """Show one more step; a run that goes on starts where it was."""
        if self.bar is None:
            return
        if self.bar.n == 0:
            self.bar.initial = self.bar.n = step
        self.bar.set_postfix_str(f"loss {loss:.3f}{self.score}, {self.problem.passes:.3g} passes", False)
        self.bar.update()

    def evaluation(self, scores: dict[str, int | float]) -> None:
        """Keep the latest score for the next step."""
        self.score = f", {self.problem.metric} {scores[self.problem.metric]:.3f}"
