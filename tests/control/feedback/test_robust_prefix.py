from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_problems import toy_problem

from deltatheory.control.feedback.robust_prefix import RobustPrefix, principal_bases
from deltatheory.control.feedback.setpoints import nominal_states


def setting(gate="values", family="bert", **options):
    problem = toy_problem(
        "prefix", length=2, gate=gate, family=family, dtype=torch.float64, head="prototypes"
    )
    generator = torch.Generator().manual_seed(1)
    delta = 0.2 * torch.randn(problem.delta.size, generator=generator).double()
    clean = nominal_states(problem, delta)
    bases = [b[:3] for b in principal_bases(clean.states)]
    batch, _ = problem.batch(problem.test, range(6))
    return problem, delta, batch, RobustPrefix(problem, clean, bases, **{"blocks": 2} | options)


@pytest.mark.parametrize("mass", [0.5, 0.9, 0.99, 1.0])
def test_the_rank_is_the_least_that_holds_more_than_the_share(mass):
    rng = np.random.default_rng(0)
    states = rng.standard_normal((2, 30, 12)) * np.geomspace(1, 1e-3, 12)
    for x, basis in zip(states, principal_bases(torch.from_numpy(states), mass), strict=True):
        sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
        share = sigma.cumsum() / sigma.sum()
        rank = next((k + 1 for k in range(12) if share[k] > mass), 12)
        squares = (sigma**2).cumsum() / (sigma**2).sum()
        assert basis.shape == (rank, 12)
        if mass == 0.99:  # squares instead of values would take fewer
            assert next(k + 1 for k in range(12) if squares[k] > mass) < rank
        np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-12)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_excess_is_what_lies_outside_the_subspaces(family):
    problem, delta, batch, robust = setting(family=family)
    backbone, edit = problem.backbone, problem.delta.edit(delta)
    x, expected = backbone.embed(batch, edit), 0.0
    lengths = batch.mask.long().sum(1)
    for t in range(2):
        x = backbone.step(t, x, batch, edit)
        rows = [
            row[:n].mean(0) if family == "bert" else row[n - 1] for row, n in zip(x, lengths, strict=True)
        ]
        z = torch.stack(rows).numpy()
        z = z - z.mean(0)
        V = robust.bases[t].numpy()
        expected += np.mean((z @ (np.eye(16) - V.T @ V)) ** 2)
    assert float(robust.excess(delta, batch)) == pytest.approx(expected)


def test_a_single_text_is_centred_by_the_nominal_states():
    problem, delta, batch, robust = setting(blocks=1)
    one = batch.select([0])
    z = problem.backbone.step(0, problem.backbone.embed(one), one, problem.delta.edit(delta))[0].mean(0)
    off = (z - robust.nominal.mean[0]).numpy()
    V = robust.bases[0].numpy()
    assert float(robust.excess(delta, one)) == pytest.approx(np.mean((off - off @ V.T @ V) ** 2))
    assert float(robust.excess(delta, one)) > 0


def test_the_first_step_of_adam_goes_against_the_signs_of_finite_differences():
    problem, delta, batch, robust = setting(gate="zero", iterations=1, learning_rate=0.01)
    change = robust.adapted(delta, batch) - delta
    rng = np.random.default_rng(0)
    pieces = problem.delta.coordinates.split(torch.arange(problem.delta.size).double())
    gates = torch.cat([pieces[f"{t}.gate"] for t in range(2)]).long()
    assert (change[gates] == 0).all()
    moved = change.nonzero().flatten().numpy()
    assert len(moved) > 0.9 * (problem.delta.size - len(gates))
    for i in rng.choice(moved, 8, replace=False):
        unit = torch.zeros_like(delta)
        unit[i] = 1e-6
        slope = float(robust.excess(delta + unit, batch) - robust.excess(delta - unit, batch)) / 2e-6
        if abs(slope) > 1e-6:
            assert float(change[i]) == pytest.approx(-0.01 * np.sign(slope), rel=1e-2)


def test_steps_bring_the_states_nearer_and_tune_the_first_blocks_alone():
    problem, delta, batch, robust = setting(blocks=1, iterations=10, learning_rate=0.02)
    before = problem.passes
    adapted = robust.adapted(delta, batch)
    assert float(robust.excess(adapted, batch)) < 0.9 * float(robust.excess(delta, batch))
    pieces = problem.delta.coordinates.split(adapted - delta)
    assert all((x == 0).all() for name, x in pieces.items() if name.startswith("1."))
    assert any((x != 0).any() for name, x in pieces.items() if name.startswith("0."))
    assert problem.passes - before == 2 * 10 * 0.5 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks=0: must lie in 1..2"),
        ({"blocks": 3}, "blocks=3"),
        ({"iterations": 0}, "iterations=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        setting(**options)


def test_only_a_prefix_without_an_mlp_is_tuned():
    _, _, _, robust = setting()
    for delta, options in (("lora", {}), ("prefix", {"hidden": 4})):
        problem = toy_problem(delta, dtype=torch.float64, **options)
        with pytest.raises(ValueError, match="give a prefix with hidden=None"):
            RobustPrefix(problem, robust.nominal, robust.bases, blocks=1)
    with pytest.raises(ValueError, match="mass=0"):
        principal_bases(torch.ones(1, 2, 2), 0.0)
