from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from tiny_problems import copy_task, origin, same_run, toy_problem, toy_task

from deltatheory.deltas import make_delta
from deltatheory.deltas.files import load_delta, read_tensors, write_tensors
from deltatheory.problems import ClassificationProblem, GenerationProblem, base, epochs
from deltatheory.results import configuration_hash
from deltatheory.training import Training, full_costs, held_out_scores, parallel, train

KINDS = [("full", {}), ("subspace", {"d": 40}), ("layerwise-subspace", {"d": 40}), ("lora", {"r": 4})]
RATE = {"full": 3e-3, "subspace": 0.5, "layerwise-subspace": 0.5, "lora": 0.02}


def test_the_rate_rises_and_falls_linearly():
    training = Training(steps=10, learning_rate=2.0, warmup=0.2)
    rates = [training.rate(step) for step in range(10)]
    assert rates == pytest.approx([1, 2, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25])
    assert max(rates) == 2.0
    assert [Training(steps=4, learning_rate=1.0, warmup=0.0).rate(s) for s in range(4)] == [
        1,
        0.75,
        0.5,
        0.25,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"optimizer": "adam"},
        {"momentum": 1.0, "optimizer": "sgd"},
        {"momentum": 0.9},
        {"weight_decay": -1e-3},
        {"weight_decay": math.nan},
        {"clip": 0.0},
        {"evaluate_every": 0},
        {"patience": 0, "evaluate_every": 1},
        {"patience": 2},
        {"average": -0.1},
        {"average": 1.5},
        {"average": math.nan},
        {"average": 0.5, "evaluate_every": 1},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_the_loss_falls_and_the_backbone_is_itself_again(delta, options):
    problem = toy_problem(delta, task=toy_task(train=32), **options)
    before = origin(problem.backbone)
    losses: list[tuple[int, float]] = []
    training = Training(steps=30, batch_size=16, learning_rate=RATE[delta])
    frozen = problem.evaluate(problem.delta.initial(), problem.test)
    spent = problem.passes
    result = train(problem, training, on_step=lambda *x: losses.append(x))
    assert result.status == "finished"
    assert [step for step, _ in losses] == list(range(30))
    assert result.train_loss is not None
    assert result.train_loss == pytest.approx(sum(loss for _, loss in losses[-3:]) / 3)
    assert result.train_loss < 0.5 * losses[0][1]
    assert result.test is not None
    assert result.test["loss"] < frozen["loss"]
    assert result.movement == pytest.approx(float(result.delta.norm()))
    assert result.passes == problem.passes - spent == 30 * 16 * 3 + len(problem.test)
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())
    assert problem.evaluate(result.delta, problem.test) == result.test


@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_one_seed_is_one_result_bit_by_bit(delta, options):
    training = Training(steps=4, batch_size=8, learning_rate=0.01, seed=3)
    first, again = (train(toy_problem(delta, **options), training) for _ in range(2))
    assert torch.equal(first.delta, again.delta)
    assert first.test == again.test
    other = train(toy_problem(delta, **options), Training(steps=4, batch_size=8, learning_rate=0.01, seed=4))
    assert not torch.equal(first.delta, other.delta)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_divergence_is_a_status_not_an_exception(delta, options, steps):
    """With one step it is the evaluation that meets the broken weights."""
    problem = toy_problem(delta, **options)
    before = origin(problem.backbone)
    result = train(problem, Training(steps=steps, batch_size=8, learning_rate=1e30))
    assert result.status.startswith("diverged: ")
    assert "lower the learning rate" in result.status
    assert result.test is None
    assert result.train_loss is None
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


@pytest.mark.parametrize("name", ["bitfit", "full"])
def test_micro_batches_add_up_to_the_batch(monkeypatch, name):
    problem, taken = toy_problem(name, dtype=torch.float64, task=toy_task(2, train=14)), []
    batch = ClassificationProblem.batch
    monkeypatch.setattr(
        ClassificationProblem, "batch", lambda *given: taken.append(len(given[2])) or batch(*given)
    )
    training = Training(steps=3, batch_size=7)
    whole, parts = (train(problem, replace(training, micro_batch=size)) for size in (None, 3))
    torch.testing.assert_close(parts.delta, whole.delta, rtol=1e-6, atol=1e-9)
    assert parts.losses == pytest.approx(whole.losses)
    assert taken[:3] == [7, 7, 7]
    assert [n for n in taken if n in (1, 3)][:6] == [3, 3, 1] * 2
    assert "micro_batch" not in training.to_dict()
    assert replace(training, micro_batch=3).to_transformers()["gradient_accumulation_steps"] == 3


def test_micro_batches_of_answers_of_unequal_length_add_up_too():
    backbone = tiny("llama")
    about = {"max_length": 20, "max_new_tokens": 3, "check": False}
    problem = GenerationProblem(backbone, copy_task(), make_delta("lora", backbone, r=2), **about)
    indices, zero = range(5), problem.delta.initial()
    whole = problem.mean_with_gradient(zero, [problem.batch(problem.train, indices)])
    parts = problem.mean_with_gradient(zero, [problem.batch(problem.train, [i]) for i in indices])
    assert (parts.answers, parts.value) == (whole.answers, pytest.approx(whole.value, rel=1e-5))
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_texts_of_like_length_pass_together_and_come_to_the_same(monkeypatch, name):
    problem, taken = toy_problem(name, dtype=torch.float64, task=toy_task(2, train=14)), []
    delta, indices = problem.delta.initial(), range(9)
    whole = problem.mean_with_gradient(delta, [problem.batch(problem.train, indices)])
    batch = ClassificationProblem.batch
    monkeypatch.setattr(
        ClassificationProblem, "batch", lambda *given: taken.append(given[2]) or batch(*given)
    )
    monkeypatch.setattr(base, "_PASS", 1)
    loss, accuracy, gradient = parallel.loss_and_gradient(problem, delta, indices)
    assert 1 < len(taken) < 9
    assert all(len({int(problem.train.lengths[i]) for i in one}) <= 2 for one in taken)
    assert (loss, accuracy) == (pytest.approx(whole.value), whole.right / whole.answers)
    torch.testing.assert_close(gradient, whole.gradient, rtol=1e-6, atol=1e-9)


def test_the_test_split_is_read_once_for_a_run_and_its_scores(monkeypatch):
    problem, read = toy_problem("lora", r=2), []
    predict = ClassificationProblem.predict
    monkeypatch.setattr(
        ClassificationProblem, "predict", lambda *given: read.append(given[2]) or predict(*given)
    )
    result = train(problem, Training(steps=2, batch_size=8, learning_rate=0.01))
    assert result.test is not None
    scores = held_out_scores(problem, result.test, result.answers)
    assert read == [problem.test] * 2  # the trained delta, and the frozen model
    assert (scores.value, scores.texts) == (result.test["accuracy"], len(problem.test))


def test_the_average_is_the_mean_of_the_last_deltas_and_costs_no_other_name():
    problem, seen = toy_problem("lora", r=2), []
    training = Training(steps=6, batch_size=8, learning_rate=0.01, average=0.5)
    original = problem.mean_with_gradient
    problem.mean_with_gradient = lambda delta, *rest: seen.append(delta.clone()) or original(delta, *rest)
    result = train(problem, training)
    last = torch.stack([*seen[4:], result.last]).mean(0)
    torch.testing.assert_close(result.delta, last)
    assert result.test == problem.evaluate(result.delta, problem.test)
    plain = train(problem, Training(steps=6, batch_size=8, learning_rate=0.01))
    assert torch.equal(plain.delta, result.last)
    assert "average" not in Training().to_dict()
    assert training.to_dict()["average"] == 0.5


def test_a_run_is_saved_with_its_delta_and_one_that_diverged_without(tmp_path):
    problem = toy_problem("lora", r=2)
    good = train(problem, Training(steps=2, batch_size=8, learning_rate=0.01))
    assert good.save(tmp_path / "good") == tmp_path / "good" / "report.html"
    delta, values = load_delta(tmp_path / "good" / "delta.safetensors", problem.backbone)
    assert delta.specification() == problem.delta.specification()
    assert torch.equal(values, good.delta)
    said = json.loads((tmp_path / "good" / "result.json").read_text())
    assert said["settings"] == {**json.loads(json.dumps(problem.identity())), **said["settings"]}
    assert (said["losses"], said["full"]) == (good.losses, None)
    bad = train(problem, Training(steps=2, batch_size=8, learning_rate=1e30))
    bad.save(tmp_path / "bad")
    kept = sorted(path.name for path in (tmp_path / "bad").iterdir())
    assert kept == ["answer.json", "report.html", "result.json"]
    assert json.loads((tmp_path / "bad" / "result.json").read_text())["test"] is None


def test_the_costs_of_full_fine_tuning_are_those_of_its_own_run():
    problem = toy_problem("lora", r=2)
    before = origin(problem.backbone)
    training = Training(steps=9, batch_size=8, evaluate_every=2, patience=1)
    costs = full_costs(problem, training)
    full = toy_problem("full").delta.size
    assert costs.tuned_parameters == full
    assert costs.optimizer_state_bytes == 2 * 4 * full + 4
    assert costs.seconds_per_step > 0
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


def test_the_costs_of_full_fine_tuning_are_of_answers_as_long():
    """They were taken with 16 tokens an answer, which left no room to a source of 8 tokens."""
    backbone = tiny("gpt2")
    delta = make_delta("lora", backbone, r=2)
    about = {"max_length": 8, "max_new_tokens": 3, "check": False}
    problem = GenerationProblem(backbone, copy_task(), delta, **about)
    costs = full_costs(problem, Training(steps=9, batch_size=8))
    assert costs.tuned_parameters == make_delta("full", backbone).size
    full = problem.with_delta(make_delta("full", backbone))
    assert (full.max_new_tokens, full.passes, full.train) == (3, 0.0, problem.train)
    assert full.identity() == {**problem.identity(), "delta": full.delta.specification()}


def test_an_interrupted_run_leaves_the_frozen_backbone():
    problem = toy_problem("subspace", d=8)
    before = origin(problem.backbone)

    def stop(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(problem, Training(steps=3, batch_size=8, learning_rate=0.1), on_step=stop)
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())


def test_a_start_is_where_it_starts_and_stays_what_it_was():
    problem = toy_problem("subspace", d=8)
    start = torch.full((8,), 0.3)
    seen: list[float] = []
    training = Training(steps=1, batch_size=24, learning_rate=1e-6)
    result = train(problem, training, start=start, on_step=lambda _, loss: seen.append(loss))
    batch, labels = problem.batch(problem.train, range(24))
    assert seen[0] == pytest.approx(float(problem.loss(start, batch, labels)), abs=1e-5)
    assert torch.equal(start, torch.full((8,), 0.3))
    assert (result.delta - start).abs().max() < 1e-5


def test_configurations_keep_their_names():
    """Logs of earlier versions are found again: new settings count only where they were changed."""
    training = Training(steps=6, seed=3, learning_rate=1e-4)
    assert training.to_dict() == {
        "steps": 6,
        "batch_size": 32,
        "learning_rate": 1e-4,
        "warmup": 0.1,
        "seed": 3,
    }
    assert configuration_hash(training.to_dict()) == "04b97d9b74dc4bff"
    changed = Training(optimizer="sgd", momentum=0.9, clip=1.0).to_dict()
    assert {"optimizer": "sgd", "momentum": 0.9, "clip": 1.0}.items() <= changed.items()
    assert "weight_decay" not in changed


PLAIN = {
    "adamw": ({"weight_decay": 0.1}, lambda x: torch.optim.AdamW([x], weight_decay=0.1)),
    "sgd": ({"momentum": 0.8}, lambda x: torch.optim.SGD([x], lr=1.0, momentum=0.8)),
    "sgd, clipped": ({"optimizer": "sgd", "clip": 0.3}, lambda x: torch.optim.SGD([x], lr=1.0)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_the_plain_loop_of_torch(name):
    settings, make = PLAIN[name]
    settings = {
        "optimizer": name.split(",")[0],
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 0.05,
    } | settings
    training = Training(**settings)
    ours = train(toy_problem("lora", r=2), training)
    problem = toy_problem("lora", r=2)
    delta = problem.delta.initial().requires_grad_()
    optimizer = make(delta)
    norms, losses = [], []
    for step, indices in enumerate(islice(epochs(problem.train.lengths, 8, 0), 6)):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        optimizer.zero_grad()
        loss = problem.loss(delta, *problem.batch(problem.train, indices))
        loss.backward()
        norms.append(float(delta.grad.norm()))
        if "clip" in settings:
            delta.grad *= min(1.0, settings["clip"] / (norms[-1] + 1e-6))
        optimizer.step()
        losses.append(float(loss.detach()))
    assert ours.losses == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(ours.delta, delta.detach(), rtol=0, atol=1e-6)
    assert max(norms) > 0.3  # the clip is met


def test_the_clip_bounds_a_step():
    def moved(clip):
        training = Training(steps=1, batch_size=8, learning_rate=1.0, warmup=0.0, optimizer="sgd", clip=clip)
        return train(toy_problem("lora", r=2), training).movement

    assert moved(1e-3) == pytest.approx(1e-3, rel=1e-2)
    assert moved(None) == moved(1e6) > 0.1


def scripted(monkeypatch, problem, scores):
    """Let the dev split say what it is told to, in turn, and keep the δ it was asked about."""
    asked = []
    evaluate = problem.evaluate

    def answer(delta, split):
        if split is not problem.dev:
            return evaluate(delta, split)
        asked.append(delta.clone())
        return {"accuracy": scores[len(asked) - 1], "loss": 1.0}

    monkeypatch.setattr(problem, "evaluate", answer)
    return asked


def test_early_stopping_returns_the_best_delta(monkeypatch):
    problem = toy_problem("lora", r=2)
    asked = scripted(monkeypatch, problem, [0.5, 0.7, 0.7, 0.6, 0.9])
    seen = []
    training = Training(steps=20, batch_size=8, learning_rate=0.01, evaluate_every=3, patience=2)
    result = train(problem, training, on_evaluate=lambda row: seen.append(row["step"]))
    assert result.stopped_early
    assert result.status == "finished"
    assert seen == [row["step"] for row in result.dev] == [3, 6, 9, 12]
    assert len(result.losses) == 12
    assert torch.equal(result.delta, asked[1])  # the first of equals
    assert not torch.equal(asked[1], asked[3])
    assert result.test == problem.evaluate(asked[1], problem.test)
    assert result.movement == pytest.approx(float(asked[1].norm()))


def test_without_patience_every_step_is_made_and_the_best_is_kept(monkeypatch):
    problem = toy_problem("subspace", d=8)
    asked = scripted(monkeypatch, problem, [0.9, 0.1, 0.2])
    result = train(problem, Training(steps=5, batch_size=8, learning_rate=0.1, evaluate_every=2))
    assert [row["step"] for row in result.dev] == [2, 4, 5]
    assert not result.stopped_early
    assert torch.equal(result.delta, asked[0])


def test_the_dev_split_is_that_of_the_task_and_its_passes_count():
    problem = toy_problem("lora", r=2)
    assert problem.dev.examples == problem.task.dev
    assert problem.dev is problem.dev
    result = train(problem, Training(steps=4, batch_size=8, learning_rate=0.01, evaluate_every=2))
    assert result.passes == 4 * 8 * 3 + 2 * len(problem.dev) + len(problem.test)


@pytest.mark.parametrize(
    ("settings", "numbers"), [({}, 2), ({"optimizer": "sgd"}, 0), ({"optimizer": "sgd", "momentum": 0.9}, 1)]
)
def test_costs_are_reported(settings, numbers):
    problem = toy_problem("lora", r=2)
    result = train(problem, Training(steps=3, batch_size=8, learning_rate=0.01, **settings))
    m = problem.delta.size
    assert result.tuned_parameters == m
    counter = 4 if not settings else 0  # AdamW counts its steps
    assert result.optimizer_state_bytes == numbers * 4 * m + counter
    assert 0 < result.seconds_per_step < result.seconds
    assert result.peak_memory is None or result.peak_memory >= 0


def test_autocast_is_refused_on_the_cpu():
    with pytest.raises(
        ValueError, match="autocast=True: bfloat16 is for CUDA devices; the backbone is on cpu"
    ):
        train(toy_problem("lora", r=2), Training(autocast=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_autocast_trains_on_cuda(delta, options):
    from tiny_models import tiny

    from deltatheory.deltas import make_delta
    from deltatheory.problems import ClassificationProblem

    backbone = tiny("bert").to("cuda")
    problem = ClassificationProblem(
        backbone, toy_task(train=32), make_delta(delta, backbone, **options), check=False
    )
    training = Training(steps=30, batch_size=16, learning_rate=RATE[delta], autocast=True)
    result = train(problem, training)
    assert result.delta.dtype == torch.float32
    assert result.losses[-1] < 0.7 * result.losses[0]
    assert not problem.autocast
    assert result.peak_memory > 0


# Checkpoints.

LONG = {"steps": 14, "batch_size": 8, "learning_rate": 0.05, "evaluate_every": 5}
VARIANTS = [
    ("lora", {"r": 2}, {}),
    ("lora", {"r": 2}, {"optimizer": "sgd", "momentum": 0.9, "clip": 0.5}),
    ("subspace", {"d": 16}, {"weight_decay": 0.1}),
]


class Stop(Exception):
    pass


@pytest.mark.parametrize(("delta", "options", "settings"), VARIANTS)
@pytest.mark.parametrize("at", [0, 1, 6, 9, 13])
def test_a_run_that_was_cut_off_goes_on_bit_by_bit(tmp_path, delta, options, settings, at):
    training = Training(**LONG | settings)
    expected = train(toy_problem(delta, **options), training)

    def stop(step, loss):
        if step == at:
            raise Stop

    file = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 3}
    with pytest.raises(Stop):
        train(toy_problem(delta, **options), training, on_step=stop, **file)
    steps = []
    same_run(
        train(toy_problem(delta, **options), training, on_step=lambda s, _: steps.append(s), **file), expected
    )
    assert steps == list(range(at // 3 * 3, 14))
    # and a finished run is not made again
    same_run(
        train(toy_problem(delta, **options), training, on_step=lambda *_: pytest.fail("again"), **file),
        expected,
    )


def test_an_average_goes_on_from_a_checkpoint_bit_by_bit(tmp_path):
    """Stopped before the averaged steps, and among them; a file that lacks the average is damaged."""
    training = Training(steps=8, batch_size=8, learning_rate=0.01, average=0.5)
    expected, file = train(toy_problem("lora", r=2), training), tmp_path / "run.safetensors"

    def stop(at, step, _):
        if step == at:
            raise Stop

    for at in (3, 7):
        with pytest.raises(Stop):
            train(
                toy_problem("lora", r=2),
                training,
                checkpoint=file,
                checkpoint_every=3,
                on_step=partial(stop, at),
            )
    resumed = train(toy_problem("lora", r=2), training, checkpoint=file)
    same_run(resumed, expected)
    assert torch.equal(resumed.last, expected.last)
    tensors, note = read_tensors(file)
    del tensors["average"]
    write_tensors(file, tensors, note)
    with pytest.raises(ValueError, match="damaged"):
        train(toy_problem("lora", r=2), training, checkpoint=file)


def test_a_stopped_early_run_stays_stopped(tmp_path, monkeypatch):
    training = Training(steps=20, batch_size=8, learning_rate=0.01, evaluate_every=3, patience=2)
    results = []
    for _ in range(2):
        problem = toy_problem("lora", r=2)
        scripted(monkeypatch, problem, [0.5, 0.7, 0.7, 0.6])
        results.append(train(problem, training, checkpoint=tmp_path / "c"))
    same_run(*results)
    assert results[1].stopped_early


CHILD = """
import os, signal, sys
sys.path[:0] = {paths}
from tiny_problems import toy_problem
from deltatheory.training import Training, full_costs, held_out_scores, parallel, train

def on_step(step, loss):
    if step == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

file = {{"checkpoint": {file!r}, "checkpoint_every": 1}}
train(toy_problem("lora", r=2), Training(**{settings}), on_step=on_step, **file)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_and_the_same_call_again_is_the_run_that_was_not_killed(tmp_path):
    torch.set_num_threads(1)
    at = random.randrange(1, 14)
    file = tmp_path / "run.safetensors"
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    code = CHILD.format(paths=paths, at=at, settings=LONG, file=str(file))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert read_tensors(file)[1]["log"]["step"] == at
    resumed = train(toy_problem("lora", r=2), Training(**LONG), checkpoint=file)
    same_run(resumed, train(toy_problem("lora", r=2), Training(**LONG)))


def test_the_comparison_of_runs_can_fail(tmp_path):
    """A resumed run that lost the optimizer's state is another run."""
    training, file = Training(**LONG), tmp_path / "run.safetensors"
    expected = train(toy_problem("lora", r=2), training)
    with pytest.raises(Stop):
        train(
            toy_problem("lora", r=2),
            training,
            checkpoint=file,
            checkpoint_every=4,
            on_step=lambda step, _: (_ for _ in ()).throw(Stop) if step == 5 else None,
        )
    tensors, note = read_tensors(file)
    tensors["exp_avg"].zero_()
    write_tensors(file, tensors, note)
    assert not torch.equal(train(toy_problem("lora", r=2), training, checkpoint=file).delta, expected.delta)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    train(toy_problem("lora", r=2), training, checkpoint=file)
    before = file.read_bytes()
    others = [
        ({}, Training(**LONG | {"learning_rate": 0.06}), r"training.learning_rate=0.05, here 0.06"),
        ({}, Training(**LONG | {"clip": 1.0}), r"training.clip=None, here 1.0"),
        ({"r": 3}, training, r"delta.r=2, here 3"),
        ({"family": "gpt2"}, training, r"backbone.name='tiny-bert', here 'tiny-gpt2'"),
        ({"task": toy_task(3)}, training, r"task.examples_sha256="),
        ({"head": "random"}, training, r"head='label-words', here 'random'"),
        ({"dtype": torch.float64}, training, r"dtype='float32', here 'float64'"),
    ]
    for options, other, message in others:
        with pytest.raises(ValueError, match=f"is of another run: there {message}.*delete it to start over"):
            train(toy_problem("lora", **{"r": 2} | options), other, checkpoint=file)
    problem = toy_problem("lora", r=2)
    with pytest.raises(ValueError, match="start_sha256=None, here '"):
        train(problem, training, checkpoint=file, start=torch.ones(problem.delta.size))
    assert file.read_bytes() == before


def test_a_checkpoint_of_an_older_version_is_read(tmp_path):
    """It does not name the files of configuration and tokenizer; one that names others is of another run."""
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    train(toy_problem("lora", r=2), training, checkpoint=file)
    tensors, note = read_tensors(file)
    for there, message in ((None, None), ("b", "backbone.files_sha256='b', here 'a'")):
        backbone = note["configuration"]["backbone"] | ({"files_sha256": there} if there else {})
        write_tensors(
            file, tensors, {**note, "configuration": {**note["configuration"], "backbone": backbone}}
        )
        problem = toy_problem("lora", r=2)
        problem.backbone.provenance["files_sha256"] = "a"
        if message is None:
            again = train(problem, training, checkpoint=file, on_step=lambda *_: pytest.fail("trained again"))
            assert again.losses == note["log"]["losses"]
        else:
            with pytest.raises(ValueError, match=message):
                train(problem, training, checkpoint=file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda note: note["configuration"].update(precision="tf32"), "precision='tf32'"),
        (lambda note: note["configuration"]["training"].update(dropout=0.1), "training.dropout=0.1"),
        (lambda note: note["configuration"]["training"].pop("warmup"), "training.warmup=0.1 is not in it"),
        (lambda note: note["configuration"].pop("suffix"), r"suffix=\[\] is not in it"),
        (lambda note: note["log"].update(temperature=[1.0]), "log.temperature"),
        (lambda note: note["log"].pop("step_seconds"), "log.step_seconds is not in it"),
        (lambda note: note.update(machine="a"), None),
    ],
)
def test_a_key_more_or_fewer_does_not_block_a_run(tmp_path, change, said):
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    train(toy_problem("lora", r=2), training, checkpoint=file)
    tensors, note = read_tensors(file)
    change(note)
    write_tensors(file, tensors, note)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        problem, done = toy_problem("lora", r=2), lambda *_: pytest.fail("trained again")
        again = train(problem, training, checkpoint=file, on_step=done)
    assert again.losses == note["log"]["losses"]
    told = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    assert re.search(f"is of another version, .*{said}", *told) if said else not told


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, note: note["log"].pop("step"),
        lambda tensors, note: note["log"].update(losses=["a"] * 14),
        lambda tensors, note: note["log"].update(losses=note["log"]["losses"][:-1]),
        lambda tensors, note: note["log"].update(dev=[3]),
        lambda tensors, note: note.update(log=[]),
        lambda tensors, note: note.pop("configuration"),
        lambda tensors, note: tensors.pop("delta"),
        lambda tensors, note: tensors.update(delta=torch.zeros(3)),
        lambda tensors, note: tensors.update(exp_avg=torch.zeros(3)),
        lambda tensors, note: tensors.pop("exp_avg"),
    ],
)
def test_a_checkpoint_whose_content_cannot_be_right_is_refused(tmp_path, change):
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    train(toy_problem("lora", r=2), training, checkpoint=file)
    tensors, note = read_tensors(file)
    change(tensors, note)
    write_tensors(file, tensors, note)
    with pytest.raises(ValueError, match=r"run.safetensors' is damaged .*: delete it to start over"):
        train(toy_problem("lora", r=2), training, checkpoint=file)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    train(toy_problem("lora", r=2), training, checkpoint=file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.safetensors"]  # nothing half-written is left
    whole = file.read_bytes()
    for part in (whole[:-10], whole[:50], b"", b"nonsense" * 9):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"run.safetensors' is no whole safetensors file .*: delete it"):
            train(toy_problem("lora", r=2), training, checkpoint=file)
    write_tensors(file, {"delta": torch.zeros(3)}, {"format": "delta 1"})
    with pytest.raises(ValueError, match="is not one: it holds 'delta 1'"):
        train(toy_problem("lora", r=2), training, checkpoint=file)


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """A half-written file has another name: it is never read."""
    file, training = tmp_path / "run.safetensors", Training(**LONG)
    expected = train(toy_problem("lora", r=2), training)
    replace_file, calls = os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError("no")
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            train(toy_problem("lora", r=2), training, checkpoint=file, checkpoint_every=2)
    assert read_tensors(file)[1]["log"]["step"] == 4
    same_run(train(toy_problem("lora", r=2), training, checkpoint=file), expected)


def test_the_checkpoint_says_what_it_is(tmp_path):
    file = tmp_path / "run.safetensors"
    train(toy_problem("lora", r=2), Training(**LONG), checkpoint=file)
    tensors, note = read_tensors(file)
    assert set(tensors) == {"delta", "best", "exp_avg", "exp_avg_sq", "step"}
    assert {"step", "losses", "passes", "seconds"} <= note["log"].keys()
    assert note["hash"] == configuration_hash(note["configuration"])
    assert json.dumps(note["configuration"]["backbone"]["name"]) == '"tiny-bert"'
    with pytest.raises(ValueError, match="checkpoint_every=0: must be at least 1"):
        train(toy_problem("lora", r=2), Training(**LONG), checkpoint=file, checkpoint_every=0)
