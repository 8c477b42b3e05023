from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task
from torch.nn.functional import cross_entropy, normalize

from deltatheory._memory import Pieces
from deltatheory.deltas import FullFineTuning, Subspace
from deltatheory.problems import ClassificationProblem, epochs
from deltatheory.training.trainer import Training, train


def columns(subspace: Subspace) -> torch.Tensor:
    return torch.stack([subspace.change(row) for row in torch.eye(subspace.size)])


def test_one_seed_is_one_subspace_on_every_backbone():
    first, second = (Subspace(tiny("bert"), d=5, seed=3) for _ in range(2))
    assert torch.equal(columns(first), columns(second))


def test_repeats_do_not_share_one_subspace():
    """Regression of a public fault: repeats that share one P show nothing of the spread over subspaces."""
    backbone = tiny("bert")
    first, second = (columns(Subspace(backbone, d=5, seed=seed)) for seed in (0, 1))
    overlap = torch.linalg.svdvals(normalize(first) @ normalize(second).T)
    assert overlap.max() < 0.5


def test_scope_counts_what_acts():
    backbone = tiny("bert")
    inside = sum(p.numel() for p in backbone.layers.parameters())
    pooler = sum(p.numel() for n, p in backbone.model.named_parameters() if n.startswith("pooler."))
    assert pooler > 0
    assert FullFineTuning(backbone, scope="blocks").size == inside
    everything = sum(p.numel() for p in tiny("bert").model.parameters())
    assert FullFineTuning(tiny("bert"), scope="all").size == everything - pooler


def test_scopes_are_checked():
    backbone = tiny("bert")
    with pytest.raises(ValueError, match="scope='layers': allowed are blocks, all"):
        Subspace(backbone, d=4, scope="layers")
    Subspace(backbone, d=4, scope="blocks")
    with pytest.raises(ValueError, match="in use with scope='blocks'"):
        Subspace(backbone, d=4, scope="all")


@pytest.mark.parametrize("d", [0, 10**9])
def test_dimension_is_checked(d):
    with pytest.raises(ValueError, match=f"d={d}"):
        Subspace(tiny("bert"), d=d)


def test_deltas_of_one_backbone_share_its_origin():
    backbone = tiny("bert")
    batch = backbone.encode(["a b c"])
    frozen = backbone.pooled(batch)
    first = Subspace(backbone, d=4)
    first.write(torch.ones(4))
    second = Subspace(backbone, d=4, seed=1)
    zero, moved = torch.zeros(4), backbone.pooled(batch).detach()
    assert (moved - frozen).abs().max() > 1e-3
    assert torch.equal(backbone.pooled(batch, second.parameters(zero)), frozen)
    second.write(zero)
    assert torch.equal(backbone.pooled(batch), frozen)
    first.write(torch.ones(4))
    second.restore()
    assert torch.equal(backbone.pooled(batch), frozen)


def test_a_backbone_that_was_cast_moves_in_its_new_type():
    """The old vector was kept: writes went beside the model, which stayed the frozen one."""
    backbone = tiny("bert")
    Subspace(backbone, d=4)
    backbone.to(dtype=torch.float64)
    problem = ClassificationProblem(backbone, toy_task(), Subspace(backbone, d=4), check=False)
    frozen = problem.predict(problem.delta.initial(), problem.test)
    moved = problem.predict(torch.ones(4, dtype=torch.float64), problem.test)
    assert moved.dtype == torch.float64
    assert (moved - frozen).abs().max() > 1e-3


def test_full_fine_tuning_is_ordinary_adamw_step_by_step():
    task = toy_task(length=4)
    problem = toy_problem("full", task=task)
    training = Training(steps=3, batch_size=8, learning_rate=1e-2, warmup=0.4, seed=2)
    ours: list[float] = []
    train(problem, training, on_step=lambda _, loss: ours.append(loss))

    backbone = tiny("bert")
    parameters = list(backbone.layers.parameters())
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    order = epochs(problem.train.lengths, 8, 2)
    for step, loss_of_ours in enumerate(ours):
        batch, labels = problem.batch(problem.train, next(order))
        optimizer.param_groups[0]["lr"] = training.rate(step)
        optimizer.zero_grad()
        loss = cross_entropy(problem.head(backbone.pooled(batch)), labels)
        loss.backward()
        optimizer.step()
        assert loss_of_ours == pytest.approx(float(loss.detach()), abs=1e-6)
    assert abs(ours[0] - ours[-1]) > 1e-3


@pytest.mark.parametrize(("delta", "options"), [("subspace", {"d": 8}), ("full", {})])
def test_weights_formed_one_after_another_share_their_memory(monkeypatch, delta, options):
    """Cut up by the activations between them, the heap grew by new memory for most of them."""
    monkeypatch.setattr("deltatheory.deltas.moved.KEPT", 0)  # as large models do
    problem, places = toy_problem(delta, **options), []

    def noted(pieces: Pieces, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        found = empty_like(pieces, like, dtype)
        places.append(found.data_ptr())
        return found

    empty_like = Pieces.empty_like
    monkeypatch.setattr(Pieces, "empty_like", noted)
    problem.loss_and_gradient(problem.delta.zero(), *problem.batch(problem.train, [0, 1]))
    problem.restore()
    parameters = len(problem.delta.moved.names)
    assert len(places) > parameters  # matrices again on the way back
    assert len(set(places)) <= 8 < parameters
