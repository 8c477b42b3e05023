"""The counter-based generator: a function of (seed, stream, position), in any order, well distributed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from deltatheory.projections.counter import gaussian, integers, permutation, signs, uniform_bits, words_at


@pytest.mark.parametrize("draw", [uniform_bits, signs, gaussian])
def test_any_part_can_be_made_alone(draw) -> None:
    whole = draw(4, "stream", 0, 1000)
    for start, count in ((0, 1), (1, 5), (63, 2), (129, 640), (999, 1), (5, 0)):
        assert torch.equal(draw(4, "stream", start, count), whole[start : start + count])


def test_words_are_frozen() -> None:
    # The same P for ever: a change of these numbers changes every result measured so far.
    assert uniform_bits(0, "a", 0, 2).tolist() == [-9032334708226504305, 176445432726024059]
    assert uniform_bits(2**70 + 1, "b", 10**12, 1).tolist() == [8461859722371408868]


def test_seeds_and_streams_are_unrelated() -> None:
    one = signs(0, "a", 0, 1 << 16)
    for other in (signs(1, "a", 0, 1 << 16), signs(0, "b", 0, 1 << 16), signs(2**64, "a", 0, 1 << 16)):
        assert abs((one * other).mean()) < 5 / 256


def test_every_bit_is_fair() -> None:
    words = uniform_bits(3, "bits", 0, 1 << 15).numpy().view(np.uint64)
    ones = [(words >> np.uint64(b) & np.uint64(1)).mean() for b in range(64)]
    assert np.abs(np.array(ones) - 0.5).max() < 5 * 0.5 / np.sqrt(1 << 15)


def test_gaussian_is_gaussian() -> None:
    values = gaussian(0, "g", 0, 1 << 17, dtype=torch.float64).numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert values.var() == pytest.approx(1, abs=0.02)
    assert np.abs(values).max() < 4.5


def test_permutation_and_integers() -> None:
    order = permutation(1, "p", 5000)
    assert torch.equal(order.sort().values, torch.arange(5000))
    drawn = integers(1, "i", 0, 30_000, 7)
    assert stats.chisquare(torch.bincount(drawn, minlength=7).numpy()).pvalue > 1e-3


def test_positions_of_any_shape() -> None:
    positions = torch.arange(12).view(3, 4)
    assert torch.equal(words_at(1, "s", positions).flatten(), uniform_bits(1, "s", 0, 12))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_bits() -> None:
    for draw in (uniform_bits, signs, gaussian):
        assert torch.equal(draw(9, "x", 17, 100_001, "cuda").cpu(), draw(9, "x", 17, 100_001))
