from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from deltatheory.linearization.selection import greedy_log_det, log_det_gain

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
