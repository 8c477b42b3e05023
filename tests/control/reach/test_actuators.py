from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_problems import toy_problem, toy_task

from deltatheory.control.reach.actuators import greedy_log_det, log_det_gain, rank_actuators, rank_layers
from deltatheory.control.reach.gramian import coordinate_groups, part_tangent_rows
from deltatheory.linearization.ridge import cross_fitted_logits

# An exact instance: adding W1 after W2 gains more of -tr(εI + W)⁻¹ than adding it before.
W0 = [[4, 4, 2], [4, 4, 2], [2, 2, 5]]
W1 = [[9, 6, -9], [6, 4, -6], [-9, -6, 9]]
W2 = [[4, 6, -6], [6, 9, -9], [-6, -9, 9]]


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_places(seed: int, places: int = 7, outputs: int = 5, rank: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(places, outputs, rank, generator=generator, dtype=torch.float64)
    roots *= 10.0 ** torch.randn(places, 1, 1, generator=generator)
    return {f"place {k}": root @ root.T for k, root in enumerate(roots)}


def exact_sum(*matrices) -> list[list[Fraction]]:
    return [[Fraction(int(i == j)) + sum(m[i][j] for m in matrices) for j in range(3)] for i in range(3)]


def cofactor(a, i, j) -> Fraction:
    rows = [[a[r][c] for c in range(3) if c != j] for r in range(3) if r != i]
    return (-1) ** (i + j) * (rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0])


def determinant(a) -> Fraction:
    return sum(a[0][j] * cofactor(a, 0, j) for j in range(3))


def minus_trace_of_inverse(*matrices) -> Fraction:
    a = exact_sum(*matrices)
    return -sum(cofactor(a, i, i) for i in range(3)) / determinant(a)


def test_minus_trace_of_the_inverse_is_not_submodular_and_log_det_is():
    before = minus_trace_of_inverse(W0, W1) - minus_trace_of_inverse(W0)
    after = minus_trace_of_inverse(W0, W2, W1) - minus_trace_of_inverse(W0, W2)
    assert (before, after) == (Fraction(1103, 4370), Fraction(20541, 45410))
    assert after > before  # submodularity asks for the opposite
    gain = determinant(exact_sum(W0, W1)) / determinant(exact_sum(W0))
    later = determinant(exact_sum(W0, W2, W1)) / determinant(exact_sum(W0, W2))
    assert later < gain
    places = {"0": tensor(W0), "1": tensor(W1), "2": tensor(W2)}
    base = log_det_gain(places, ["0"], 1.0)
    assert log_det_gain(places, ["0", "1"], 1.0) - base == pytest.approx(math.log(gain), abs=1e-12)
    base = log_det_gain(places, ["0", "2"], 1.0)
    assert log_det_gain(places, ["0", "2", "1"], 1.0) - base == pytest.approx(math.log(later), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_log_det_is_monotone_and_submodular(seed):
    places = random_places(seed, places=5)
    names = list(places)
    value = {s: log_det_gain(places, s, 0.5) for k in range(6) for s in itertools.combinations(names, k)}
    smallest_eigenvalue = {
        s: float(torch.linalg.eigvalsh(sum((places[n] for n in s), torch.zeros(5, 5)))[0]) for s in value
    }
    broken = 0
    for name in names:
        for big in (s for s in value if name not in s):
            for small in (s for s in value if set(s) <= set(big)):
                with_big, with_small = (tuple(sorted({*s, name})) for s in (big, small))
                gain, later = value[with_small] - value[small], value[with_big] - value[big]
                assert gain >= later - 1e-9
                assert later >= -1e-12
                other = smallest_eigenvalue
                broken += other[with_big] - other[big] > other[with_small] - other[small] + 1e-9
    assert broken  # the same check rejects the smallest eigenvalue, which is not submodular


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_keeps_its_guarantee_and_equals_plain_greedy(seed, count):
    places = random_places(seed)
    selection = greedy_log_det(places, count, epsilon=0.3)
    best = max(log_det_gain(places, s, 0.3) for s in itertools.combinations(places, count))
    assert selection.value == pytest.approx(log_det_gain(places, selection.chosen, 0.3), abs=1e-9)
    assert best + 1e-9 >= selection.value >= (1 - 1 / math.e) * best
    taken: list[str] = []
    for name, gain in zip(selection.chosen, selection.gains, strict=True):
        gains = {
            n: log_det_gain(places, [*taken, n], 0.3) - log_det_gain(places, taken, 0.3)
            for n in places
            if n not in taken
        }
        assert name == max(gains, key=lambda n, gains=gains: gains[n])
        assert gain == pytest.approx(gains[name], abs=1e-9)
        taken.append(name)
    plain = sum(len(places) - k for k in range(count))
    assert len(places) <= selection.evaluations <= plain
    assert selection.gains == sorted(selection.gains, reverse=True)


def test_lazy_evaluation_saves_determinants():
    places = {f"{k}": 4.0**-k * torch.eye(6, dtype=torch.float64) for k in range(8)}
    selection = greedy_log_det(places, 8, epsilon=1e-2)
    assert selection.chosen == list(places)
    assert selection.evaluations < 36  # plain greedy: 8 + 7 + ... + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count=0: must lie in 1..7"),
        ({"count": 8}, "count=8"),
        ({"count": 1, "epsilon": 0.0}, "epsilon=0.0: must be above 0"),
    ],
)
def test_bad_selections_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        greedy_log_det(random_places(0), **arguments)
    with pytest.raises(ValueError, match="all 0"):
        greedy_log_det({"a": torch.zeros(2, 2)}, 1)


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
    assert problem.passes - before >= ranking.passes == 24 * 3
    assert {place.name for place in ranking.places} == {"block 0", "block 1"} == set(groups)
    assert [p.loss for p in ranking.places] == sorted(p.loss for p in ranking.places)
    assert ranking.chosen == ranking.places[0].name
    first = next(iter(features.values()))
    assert ranking.frozen == pytest.approx(float(first.solved(first.logits).double().mean()))
    for place in ranking.places:
        part = features[place.name]
        fitted = torch.from_numpy(
            cross_fitted_logits(part.kernel().numpy(), first.logits.numpy(), np.ones(24, int))
        )
        assert place.loss == pytest.approx(
            float(torch.nn.functional.softplus(fitted[..., 0] - fitted[..., 1]).mean(1).min())
        )
        solved = part.solved(fitted)
        assert place.score == pytest.approx(float(solved.double().mean(-1).max()))
        # The gradient of the loss Σ softplus(-m) in these coordinates is -J_iᵀ p.
        pull = torch.sigmoid(-first.logits[:, 1])
        assert place.energy == pytest.approx(float((part.rows[:, 0].T @ pull).norm() ** 2))
        assert place.size == len(groups[place.name])
        total = torch.eye(24) + part.kernel() / ranking.selection.epsilon
        assert place.gain == pytest.approx(float(torch.logdet(total)))
    assert sum(ranking.selection.gains) == pytest.approx(ranking.selection.value)


def test_a_place_that_fits_the_labels_goes_before_one_that_only_moves_more(problem):
    features = next(iter(margin_features(problem, coordinate_groups(problem, "layer")).values()))
    generator = torch.Generator().manual_seed(0)
    noise = 30 * torch.randn(24, 1, 24, generator=generator, dtype=torch.float64)
    helps = torch.ones(24, 1, 1, dtype=torch.float64)  # one coordinate that raises every margin
    ranking = rank_layers(
        {"moves": replace(features, rows=noise), "fits": replace(features, rows=helps)}, epsilon=1.0
    )
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


def test_unfit_features_are_refused(problem):
    groups = coordinate_groups(problem, "layer")
    margins, logits = margin_features(problem, groups), part_tangent_rows(problem, groups, train=24)
    with pytest.raises(ValueError, match=r"features=\{\}"):
        rank_layers({})
    with pytest.raises(ValueError, match="outputs='margin'"):
        rank_layers(logits)
    name = next(iter(margins))
    other = replace(margins[name], logits=margins[name].logits + 1)
    with pytest.raises(ValueError, match="other examples"):
        rank_layers({**margins, "other": other})


def test_ranking_is_drawn(problem):
    pytest.importorskip("matplotlib")
    figure = rank_actuators(problem).plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["block 1", "block 0"]
