"""An encoder-decoder as a controlled system: the encoder's part of the state, and the decoder's behind it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.control import AnalyticSystem, LayeredSystem, maximum_principle, output_gramian, solve
from deltatheory.control.pontryagin import costates, stationarity, sweep
from deltatheory.deltas import make_delta
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem

SIZES = {
    "t5": {"num_layers": 2, "num_decoder_layers": 1},
    "bart": {"encoder_layers": 1, "decoder_layers": 1},
}
ONE_EACH = {"num_layers": 1, "num_decoder_layers": 1}


def problem_of(family, name, dtype=torch.float64, sizes=None, **options):
    backbone = tiny(family, dtype=dtype, **(sizes or SIZES[family]))
    delta = make_delta(name, backbone, **options)
    return ClassificationProblem(backbone, toy_task(train=6, test=2), delta, "verbalizer", check=False)


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("t5", "full", {"scope": "all"}),
        ("t5", "prompt", {"length": 2}),
        ("bart", "prefix", {"length": 2, "gate": "none"}),
    ],
)
def test_the_adjoint_is_back_propagation_over_both_stacks(family, name, options):
    problem = problem_of(family, name, **options)
    system = LayeredSystem(problem, range(4))
    blocks = len(problem.backbone.layers)
    assert system.names == ("embedding", *(f"block {t}" for t in range(blocks)), "head")
    acts = system.copies > 0
    zero = problem.delta.initial()
    point = 0.1 * torch.randn(zero.shape, generator=torch.Generator().manual_seed(0)).to(zero) * acts
    found = sweep(system, system.split(point))
    batch, labels = problem.batch(problem.train, range(4))
    value, _, gradient = problem.loss_and_gradient(point, batch, labels)
    problem.restore()
    assert float(found.trajectory.cost) == pytest.approx(value, abs=1e-10)
    torch.testing.assert_close(system.join(found.gradients), gradient * acts, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient * ~acts, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    # the state is the encoder's tokens and the decoder's; each stack moves its own part
    tokens = batch.decoder.mask.shape[1]
    for t, (before, after) in enumerate(
        zip(found.trajectory.states[1:-1], found.trajectory.states[2:-1], strict=False)
    ):
        of_decoder = t >= blocks - 1
        source, answer = (slice(None, -tokens), slice(-tokens, None))
        kept = source if of_decoder else answer
        assert torch.equal(after[:, kept], before[:, kept])
    # the costate of what the decoder has done with is 0; before that the memory is worth something
    assert costates(system, found.trajectory)[-2][:, :-tokens].abs().max() == 0
    assert found.costates[-3][:, :-tokens].abs().max() > 0


def test_solvers_and_gramians_run_on_t5():
    problem = problem_of("t5", "lora", torch.float32, ONE_EACH, r=1)
    system = LayeredSystem(problem, energy_weight=1e-2)
    before = float(system.rollout(system.zero_controls()).cost)
    found = maximum_principle(system, system.zero_controls())
    assert (len(found.residual), found.cost) == (system.horizon, before)
    for posed, solver in ((system, "e-msa"), (problem, "gauss-newton")):
        assert solve(posed, solver, budget=12.0).cost < before

    gramian = output_gramian(problem, examples=4, outputs="margin")
    rows = tangent_rows(problem, train=4, test=0, outputs="margin")
    torch.testing.assert_close(gramian.total, rows.kernel(), rtol=1e-4, atol=1e-6)
    assert {"block 0", "block 1"} <= gramian.parts.keys()


def test_ilqr_steers_the_chain_of_both_stacks():
    """u_t is added to all states behind block t: one text, and the loss of its label."""
    problem = problem_of("t5", "layernorm", sizes=ONE_EACH)
    problem.max_length, backbone = 3, problem.backbone
    batch, labels = problem.batch(problem.train, [1])
    x0 = backbone.embed(batch)
    blocks, width = len(backbone.layers), backbone.hidden_size

    def rows(x):
        states = torch.as_tensor(x).reshape(-1, *x0.shape[1:])
        return states, batch.rows(torch.zeros(len(states), dtype=torch.long))

    def step(t, x, u):
        if 0 in x.shape:  # no trajectory is left to move
            return x
        states, texts = rows(x)
        when = torch.as_tensor(t).expand(x.shape[:-1]).reshape(-1)
        new = torch.zeros_like(states)
        for block in range(blocks):
            new = torch.where((when == block)[:, None, None], backbone.step(block, states, texts), new)
        new = (new + torch.as_tensor(u).reshape(-1, 1, width)).reshape(x.shape)
        return new if isinstance(x, torch.Tensor) else new.numpy()

    def energy(t, x, u):
        return 0.05 * (u * u).sum(-1)

    def loss(x):
        if 0 in x.shape:
            return x[..., 0]
        states, texts = rows(x)
        logits = problem.read(backbone.readout(states, texts), texts)
        values = problem.loss_function.values(logits, labels.expand(len(states))).reshape(x.shape[:-1])
        return values if isinstance(x, torch.Tensor) else values.numpy()

    system = AnalyticSystem(step, energy, loss, x0.flatten().numpy(), blocks, width)
    found = solve(system, "ilqr", steps=5, regularization=1.0)
    before, after = (system.rollout(u) for u in (system.zero_controls(), list(torch.as_tensor(found.value))))
    assert float(after.cost) < 0.8 * float(before.cost)
    uphill = [
        sum(float(g.norm()) for g in stationarity(system, run, costates(system, run)))
        for run in (before, after)
    ]
    assert uphill[1] < 0.2 * uphill[0]
