from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.control.reach.actuators import rank_actuators, rank_layers
from deltatheory.control.reach.parts import coordinate_groups, part_kernels, part_tangent_rows
from deltatheory.linearization.ridge import cross_fitted_logits


@pytest.fixture(scope="module")
def problem():
    return toy_problem("lora", dtype=torch.float64, task=toy_task(3), r=2)


def margin_features(problem, groups, **options):
    return part_tangent_rows(problem, groups, train=24, outputs="margin", **options)


def test_places_are_ranked_by_what_they_are_predicted_to_reach(problem):
    groups = coordinate_groups(problem, "layer")
    features = margin_features(problem, groups)
    before = problem.passes
    ranking = rank_actuators(problem, "layer")
    assert problem.passes - before >= ranking.passes == 24 * 3  # two forwards, half a backward
    assert {place.name for place in ranking.places} == {"block 0", "block 1"} == set(groups)
    assert [p.loss for p in ranking.places] == sorted(p.loss for p in ranking.places)
    assert ranking.chosen == ranking.places[0].name
    first = next(iter(features.values()))
    assert ranking.frozen == pytest.approx(float(first.start.solved(first.start.logits).double().mean()))
    for place in ranking.places:
        part = features[place.name]
        fitted = cross_fitted_logits(part.kernel(), first.start.double())
        assert place.loss == pytest.approx(
            float(torch.nn.functional.softplus(fitted[..., 0] - fitted[..., 1]).mean(1).min()), rel=1e-5
        )  # to which the fits converge
        solved = part.start.solved(fitted)
        assert place.score == pytest.approx(float(solved.double().mean(-1).max()))
        # The gradient of the loss Σ softplus(-m) in these coordinates is -J_iᵀ p.
        pull = torch.sigmoid(-first.start.logits[:, 1])
        assert place.energy == pytest.approx(float((part.rows[:, 0].T @ pull).norm() ** 2))
        assert place.size == len(groups[place.name])
        total = torch.eye(24) + part.kernel() / ranking.selection.epsilon
        assert place.gain == pytest.approx(float(torch.logdet(total)))
    assert sum(ranking.selection.gains) == pytest.approx(ranking.selection.value)


def test_a_place_that_fits_the_labels_goes_before_one_that_only_moves_more(problem):
    kernel = part_kernels(
        problem, coordinate_groups(problem, "layer"), by="layer", train=24, outputs="margin"
    )
    generator = torch.Generator().manual_seed(0)
    noise = 30 * torch.randn(24, 24, generator=generator, dtype=torch.float64)
    helps = torch.ones(24, 1, dtype=torch.float64)  # one coordinate that raises every margin
    parts = {"moves": noise @ noise.T, "fits": helps @ helps.T}
    ranking = rank_layers(replace(kernel, parts=parts), {"moves": 24, "fits": 1}, epsilon=1.0)
    assert ranking.chosen == "fits"
    assert ranking.selection.chosen[0] == "moves"


def test_modules_split_layers_further(problem):
    layers = coordinate_groups(problem, "layer")
    modules = coordinate_groups(problem, "module")
    assert len(modules) == 4
    for t in range(2):
        inside = torch.cat([group for name, group in modules.items() if f"layer.{t}." in name])
        assert torch.equal(inside.sort().values, layers[f"block {t}"])
    ranking = rank_actuators(problem, "module", sketch=None)
    assert {place.name for place in ranking.places} == set(modules)


def test_coordinates_that_act_nowhere_are_no_place():
    problem = toy_problem("full", task=toy_task(3, train=6), scope="all")
    assert "no layer" in coordinate_groups(problem, examples=4)  # letters that the four texts do not have
    names = {place.name for place in rank_actuators(problem, examples=4).places}
    assert names == {"embedding", "block 0", "block 1"}


def test_an_unfit_kernel_is_refused(problem):
    kernel = part_kernels(problem, coordinate_groups(problem, "layer"), by="layer", train=24)
    with pytest.raises(ValueError, match=r"kernel.parts=\{\}"):
        rank_layers(replace(kernel, parts={}), {})
    with pytest.raises(ValueError, match="outputs='margin'"):
        rank_layers(kernel, {})


@pytest.mark.parametrize("by", ["layer", "module"])
def test_kernels_of_parts_are_those_of_their_rows(problem, by):
    groups = coordinate_groups(problem, by)
    factors = part_kernels(problem, groups, by=by, train=24, outputs="margin")
    rows = part_kernels(problem, groups, train=24, outputs="margin")
    assert list(factors.parts) == list(rows.parts)
    for name, part in rows.parts.items():
        torch.testing.assert_close(factors.parts[name], part, rtol=0, atol=1e-8)


def test_ranking_is_drawn(problem):
    pytest.importorskip("matplotlib")
    figure = rank_actuators(problem).plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["block 1", "block 0"]
