"""`deltatheory train`: one delta on one task."""

import warnings
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from deltatheory.cli.extras import need_tracker
from deltatheory.cli.options import (
    AUTO,
    DELTA,
    SETUP,
    TRAINING,
    Group,
    Progress,
    Shared,
    command,
    options_of,
    rate,
    results_in,
)
from deltatheory.cli.output import aside, failed, progress_bar, resumable, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.problems import ClassificationProblem, Problem, Setup
    from deltatheory.training import Training, TrainingResult

_FEW, _TRAININGS = 100, 5  # test texts drawn from a table that are too few, and what is done about it
_SEED = "Of the data order, the draw of examples, and a random head."


def _tuned(delta: str, option: list[str] | None, train_head: bool) -> dict[str, Any]:
    return {"delta": delta, "options": options_of(option), "train_head": train_head}


_TUNED = Group(
    _tuned,
    {
        **DELTA.changed(
            default={"delta": "lora"},
            help={
                "delta": "What to tune (see `deltas`).",
                "option": "Of the delta, as NAME=VALUE: r=8, or targets='[\"query\"]'.",
            },
        ).options,
        "train_head": Shared(bool, False, "Tune the head of a classification task too.", flag="--train-head"),
    },
)


def _planned(learning_rate: float | str, **others: Any) -> "tuple[Training, bool]":
    """Return how to train, and whether its learning rate is to be predicted first."""
    if learning_rate != AUTO:
        return TRAINING.make(learning_rate=learning_rate, **others), False
    if others["optimizer"] != "adamw":
        raise ValueError("learning_rate='auto': is predicted for optimizer='adamw'; give a number.")
    return TRAINING.make(**others), True


_TRAINING = Group(
    _planned,
    TRAINING.changed(
        parser={"learning_rate": rate},
        help={"learning_rate": "The peak, after warm-up; auto predicts it before training."},
    ).options,
)


def _compared(compare: bool, score_full: bool, trainings: int | None) -> tuple[bool, bool, int | None]:
    """Return whether full fine-tuning stands beside it, whether with scores, and how many trainings score."""
    return compare or score_full, score_full, trainings


_BESIDE = Group(
    _compared,
    {
        "compare": Shared(
            bool, True, "Also time five steps of full fine-tuning, and count what it tunes and keeps."
        ),
        "score_full": Shared(
            bool,
            False,
            "Also train full fine-tuning as long, at its predicted rate, and score it.",
            flag="--score-full",
        ),
        "trainings": Shared(
            int | None,
            None,
            "Score by so many trainings that hold out other texts each (cross-validation); by default 5 "
            "where a table has no test split and too few rows for one.",
        ),
    },
)


@command(
    "models",
    "report",
    setup=SETUP.changed(help={"seed": _SEED}),
    tuned=_TUNED,
    training=_TRAINING,
    beside=_BESIDE,
    out=results_in(
        "runs/train",
        "Folder for result.json, report.html and delta.safetensors; a stopped run goes on from there.",
    ),
)
def train(
    setup: "Setup",
    tuned: dict[str, Any],
    training: "tuple[Training, bool]",
    beside: tuple[bool, bool, int | None],
    out: "RunFolder",
    max_new_tokens: Annotated[
        int, Option(min=1, help="Longest target and answer of a generation task.")
    ] = 16,
    checkpoint_every: Annotated[int, Option(min=1, help="Steps between checkpoints.")] = 100,
    track: Annotated[
        str | None,
        Option(
            help="trackio, tensorboard or wandb, or NAME:PROJECT: gets loss and scores at every evaluation."
        ),
    ] = None,
    progress: Progress = True,
) -> None:
    """Train one delta on a task; the same command goes on with a run that was stopped."""
    from deltatheory.adapters import is_for_peft
    from deltatheory.problems import ClassificationProblem
    from deltatheory.training import full_costs, held_out_scores
    from deltatheory.training.parallel import from_first, is_first, join
    from deltatheory.training.tracking import tracker_of

    if track is not None:
        need_tracker(tracker_of(track)[0])
    plan, predicted = training
    plan.check_device(setup.device)
    join(setup.device)
    problem = setup.problem(**tuned, max_new_tokens=max_new_tokens)
    if predicted:
        plan = replace(plan, learning_rate=from_first(partial(_predicted, problem, plan, out.own)))
    compared, scored, trainings = beside
    validated = isinstance(problem, ClassificationProblem)
    if trainings is not None and trainings < 1:
        raise ValueError(f"trainings={trainings}: must be at least 1.")
    if trainings and trainings > 1 and not validated:
        raise ValueError(f"trainings={trainings}: cross-validation is for classification; leave it out.")
    few = validated and setup.whole_task.drawn and len(setup.whole_task.test) < _FEW
    count = trainings or (_TRAININGS if few else 1)
    checkpoint = _checkpoint(out, problem, plan)
    with resumable(checkpoint):
        shown, project = progress and is_first(), track if is_first() else None
        result = _watched(problem, plan, checkpoint, checkpoint_every, project, shown)
        if is_first():
            result.save_numbers(out.own)  # what comes now may take long, and may be stopped
        if result.test is not None:
            about = {**tuned, "max_new_tokens": max_new_tokens}
            elsewhere = _elsewhere(setup, about, plan, out.own, count, shown) if count > 1 else []
            if is_first():
                scores = held_out_scores(problem, result.test, result.answers, elsewhere)
                result = replace(result, scores=scores)
        if compared and result.test is not None:
            result = replace(result, full=full_costs(problem, plan, scored=scored))
        if is_first():
            files = {} if result.test is None else {"Delta": "delta.safetensors"}
            if files and is_for_peft(result.tuned, result.classifier):
                files["For_peft"] = "adapter"
            tell(result, out.own, **files)
    if result.test is None:
        failed(f"Training {result.status}")


def _elsewhere(
    setup: "Setup", tuned: dict[str, Any], training: "Training", own: Path, count: int, progress: bool
) -> "list[tuple[ClassificationProblem, list[int]]]":
    """Train alike on other parts of the table, and return what is answered to the texts held out there.

    Of a training that is done the answers are kept, and no checkpoint.
    """
    from deltatheory.results import read_json, write_json
    from deltatheory.training import train
    from deltatheory.training.parallel import is_first

    if is_first():
        aside(
            f"Scores come from {count} trainings, each of which holds out other texts than the "
            f"{len(setup.task.test)} of the test split (--trainings 1 for one)"
        )
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = read_json(own / "trainings.json")
    found = []
    for number, task in enumerate(setup.task.held_out_elsewhere(count - 1), 2):
        problem = setup.replace(task=task, train_examples=None, test_examples=None).problem(
            **tuned, check=False
        )
        answers, checkpoint = known.get(str(number)), own / f"training-{number}.safetensors"
        if answers is None:
            with progress_bar(progress, total=training.steps, desc=f"{number} of {count}") as bar:

                def step(done: int, _: float, bar: Any = bar) -> None:
                    bar.update(done + 1 - bar.n)

                run = train(problem, training, checkpoint=checkpoint, on_step=step)
            answers = known[str(number)] = run.answers
            if answers is None:
                raise ValueError(f"Training {number} of {count} {run.status}; --trainings 1 takes one.")
            if is_first():
                write_json(own / "trainings.json", known)
                checkpoint.unlink(missing_ok=True)
        found.append((problem, answers))
    return found


def _predicted(problem: "Problem", training: "Training", own: Path) -> float:
    """Return the learning rate that is predicted, and keep it: a run that goes on must have the same."""
    from deltatheory.results import read_json
    from deltatheory.training import RatePrediction, predict_learning_rate
    from deltatheory.training.trainer import settings_of

    def same(kept: float) -> dict[str, Any]:
        return {**settings_of(problem, replace(training, learning_rate=kept)), "device": None}

    with suppress(OSError, ValueError, KeyError, TypeError):
        left = read_json(own / RatePrediction.FILE)
        if {**left["settings"], "device": None} == same(left["rate"]):
            aside(f"Learning rate {left['rate']:.2g}, as predicted when this run began")
            return left["rate"]
    found = predict_learning_rate(problem, training=training)
    if not found.found:
        raise ValueError(f"learning_rate='auto': {found.status}; or give a number.")
    aside(str(found))
    found.save(own)
    return found.rate


def _checkpoint(out: "RunFolder", problem: "Problem", training: "Training") -> Path:
    """Return the run's checkpoint; where another run or version has left one of the same, its copy."""
    from deltatheory.training.trainer import checkpoint_of

    own, given = (folder / "checkpoint.safetensors" for folder in (out.own, out.given))
    if not own.exists():
        with suppress(ValueError), warnings.catch_warnings(action="ignore"):  # told when the copy is read
            if checkpoint_of(problem, training, given).load({}):
                copyfile(given, own)
    return own


def _watched(
    problem: "Problem", training: "Training", checkpoint: Path, every: int, track: str | None, progress: bool
) -> "TrainingResult":
    """Train with a bar (loss, score of the dev split, passes, time left), and what tracks the run."""
    from deltatheory.training import train
    from deltatheory.training.tracking import Tracker

    score = ""
    with (
        progress_bar(progress, total=training.steps, desc=problem.delta.name) as bar,
        Tracker(track, problem, training, checkpoint.parent) as tracker,
    ):

        def step(number: int, loss: float) -> None:
            if bar.n == 0:
                bar.initial = bar.n = number  # where a run that goes on was
            bar.set_postfix_str(f"loss {loss:.3f}{score}, {problem.passes:.3g} passes", False)
            bar.update()
            tracker.step(number, loss)

        def evaluation(scores: dict[str, int | float]) -> None:
            nonlocal score
            score = f", {problem.metric} {scores[problem.metric]:.3f}"
            tracker.evaluation(scores)

        result = train(
            problem,
            training,
            checkpoint=checkpoint,
            checkpoint_every=every,
            on_step=step,
            on_evaluate=evaluation,
        )
        if result.test is not None:
            tracker.evaluation({"step": len(result.losses), **result.test}, "test")
    return result
