"""Long vectors are trained a segment at a time, to the same bits, and not copied."""

import tracemalloc
from itertools import count

import pytest
import torch
from memory import peak
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.deltas import make_delta
from deltatheory.deltas.files import read_tensors, write_tensors
from deltatheory.linearization import linearization_error
from deltatheory.problems import ClassificationProblem
from deltatheory.training import Training, optimizer, predict_learning_rate, train


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(optimizer, "_SEGMENT", 8)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"optimizer": "sgd", "momentum": 0.9}])
def test_segments_move_as_the_whole_does_and_go_on_from_their_state(settings):
    training = Training(**settings)
    gradients = torch.randn(6, 35, generator=torch.Generator().manual_seed(0))
    whole = torch.zeros(35)
    kind = torch.optim.SGD if "momentum" in settings else torch.optim.AdamW
    given = {name: value for name, value in settings.items() if name != "optimizer"}
    reference = kind([whole], lr=0.1, **{"weight_decay": 0.0, **given})
    delta = torch.zeros(35)
    mover = training.make_optimizer(delta)
    for step, gradient in zip(count(), gradients):
        whole.grad = gradient
        reference.step()
        if step == 3:
            state, mover = mover.state(), training.make_optimizer(delta)
            mover.load(state)
        mover.step(gradient, 0.1)
        assert torch.equal(delta, whole)
    kept = {name: x for name, x in reference.state[whole].items() if isinstance(x, torch.Tensor)}
    assert kept.keys() == mover.state().keys()
    assert all(torch.equal(x, mover.state()[name]) for name, x in kept.items())
    assert mover.state_bytes == sum(x.nbytes for x in kept.values())


@pytest.fixture
def full(monkeypatch):
    """Full fine-tuning of two wide blocks, as of a model whose formed weights are not kept."""
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", 0)
    monkeypatch.setattr(optimizer, "_SEGMENT", 1 << 16)
    backbone = tiny("llama", hidden_size=256, intermediate_size=1024)
    return ClassificationProblem(
        backbone, toy_task(train=8, test=2), make_delta("full", backbone), max_length=8, check=False
    )


def test_full_fine_tuning_holds_the_change_its_gradient_and_two_moments(full):
    """It held seven vectors as long as θ: 4.4 GB in training 135 M parameters."""
    training = Training(steps=2, batch_size=2)
    assert peak(lambda: train(full, training)) < 4.9 * 4 * full.delta.size


def test_a_step_that_is_timed_holds_the_gradient_alone(full):
    batch, labels = full.batch(full.train, [0, 1])
    zero = full.delta.zero()
    assert peak(lambda: full.loss_and_gradient(zero, batch, labels)) < 1.9 * 4 * full.delta.size


def test_a_predicted_rate_holds_a_place_a_gradient_and_signs(full):
    training = Training(steps=8, batch_size=2)
    assert peak(lambda: predict_learning_rate(full, training=training)) < 2.9 * 4 * full.delta.size


def test_the_linearization_error_and_the_self_check_hold_no_vector_of_the_models_length(full):
    """Forward mode and the Hessian's products held up to twelve."""
    delta = torch.full((full.delta.size,), 1e-3)
    assert peak(lambda: linearization_error(full, delta, [0, 1])) < 0.9 * 4 * full.delta.size
    assert peak(full.check) < 0.9 * 4 * full.delta.size


def test_tensors_are_written_without_a_copy(tmp_path):
    """The library's bytes were two copies of what a checkpoint holds."""
    tensors = {"step": torch.tensor(3.0), "δ": torch.arange(1 << 20).double(), "none": torch.zeros(0, 2)}
    tracemalloc.start()
    write_tensors(tmp_path / "x.safetensors", tensors, {"format": "x"})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20
    found, note = read_tensors(tmp_path / "x.safetensors")
    assert note == {"format": "x"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in tensors.items())
