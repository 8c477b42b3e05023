"""The tails that are finite sums agree with scipy."""

from __future__ import annotations

from fractions import Fraction

import pytest
from scipy import stats

from deltatheory.theorems.random_subspaces import beta_cdf, chi_squared_tail


def test_tails_agree_with_scipy() -> None:
    assert float(chi_squared_tail(10, Fraction(7))) == pytest.approx(stats.chi2.sf(7, 10))
    assert float(beta_cdf(3, 5, Fraction(2, 5))) == pytest.approx(stats.beta.cdf(0.4, 3, 5))
    with pytest.raises(ValueError, match="even"):
        chi_squared_tail(3, Fraction(1))
