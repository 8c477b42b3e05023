"""Which dimension to try next, and what the trials so far say of d90: pure logic, no network.

The score against ln d is fitted as a monotone curve between a floor (δ = 0) and a ceiling (the baseline):
logit((score - floor)/(ceiling - floor)) = a + b ln d, b > 0. Trials near the level count most, and a weak
prior on b lets the first trial already say where to look. Each next trial goes where the fit puts the level,
inside the bracket of the trials that failed and those that passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltatheory.dimension.criterion import DimensionEstimate

__all__ = ["DimensionSearch", "SearchPoint", "log_grid"]

# One over the width in ln d of a score's rise: 1 is a rise from 12 % to 88 % within a factor of 50, what the
# recorded curves of Li et al. (2018) and trained transformers show; the prior's spread is a factor of 2.
_SLOPE, _SLOPE_SPREAD = 1.0, 0.7
_PRIOR_WEIGHT = 0.3  # what the slope prior counts beside a trial in mid-curve one unit of ln d away
_PRIOR_TRIALS = 3  # how many trials the assumed noise counts for
_LOCALITY = 0.25  # share of the floor-to-ceiling range around the level in which trials count fully
_MARGIN = 4  # grid steps: how far inside a wide bracket the next trial is kept from its rim
_RESOLUTION = 0.05  # in ln d: a grid point this little below the fitted crossing reaches it
_BOOTSTRAP = 2000

_Values = np.ndarray | float  # one, or one a replicate of the bootstrap


def log_grid(low: int, high: int, ratio: float = 2**0.25) -> list[int]:
    """Return whole numbers from low to high, each about `ratio` times the one before.

    Raises:
        ValueError: for low < 1, high < low, or ratio <= 1.

    >>> log_grid(1, 16, ratio=2.0)
    [1, 2, 4, 8, 16]
    """
    if not 1 <= low <= high:
        raise ValueError(f"low={low}, high={high}: must satisfy 1 <= low <= high.")
    if not ratio > 1:
        raise ValueError(f"ratio={ratio}: must be above 1.")
    count = math.ceil(math.log(high / low) / math.log(ratio)) + 1 if high > low else 1
    return sorted({round(x) for x in np.geomspace(low, high, count)})


@dataclass(frozen=True)
class SearchPoint:
    """One run: its dimension and its score."""

    d: int
    score: float


class DimensionSearch:
    """Ask for a dimension (`propose`), tell its score (`tell`), until the answer is narrow enough.

    Args:
        grid: dimensions that may be tried, ascending.
        level: the score to reach.
        floor: the score at δ = 0 (or chance).
        ceiling: the score of the baseline, above the level.
        noise: standard deviation of a score from run to run, as known before any repeat.
        level_noise: standard deviation of the level, in units of `noise`: its baseline is of few runs.
        guess: where to start; the middle of the grid by default.

    Raises:
        ValueError: for a grid that is empty, unsorted or below 1, noise <= 0, or a ceiling not above the
            floor.
    """

    def __init__(
        self,
        grid: Sequence[int],
        level: float,
        *,
        floor: float,
        ceiling: float,
        noise: float,
        level_noise: float = 0.0,
        guess: float | None = None,
    ) -> None:
        if not len(grid) or list(grid) != sorted(set(grid)) or grid[0] < 1:
            raise ValueError(f"grid={list(grid)!r}: must be ascending dimensions from 1 on, at least one.")
        if not noise > 0:
            raise ValueError(f"noise={noise}: must be above 0.")
        if not ceiling > floor:
            raise ValueError(
                f"ceiling={ceiling}: must be above floor={floor}; a baseline that does not beat the frozen "
                "model leaves nothing to search: train it longer or at another learning rate"
            )
        self.grid = np.array(grid)
        self.level, self.floor, self.ceiling = level, floor, ceiling
        self.noise, self.level_noise = noise, level_noise
        self.guess = float(np.sqrt(self.grid[0] * self.grid[-1])) if guess is None else guess
        self.trials: list[SearchPoint] = []

    def tell(self, d: int, score: float) -> None:
        """Record a finished trial.

        Raises:
            ValueError: for a score that is not a number, or a dimension below 1.
        """
        if d < 1:
            raise ValueError(f"d={d}: must be at least 1; δ = 0, the frozen backbone, is the floor.")
        if not math.isfinite(score):
            raise ValueError(f"score={score} at d={d}: must be a finite number.")
        self.trials.append(SearchPoint(d, score))

    def bracket(self) -> tuple[int, int]:
        """Return grid indices (low, high): the level lies above low and at or below high.

        Means over repeats decide; low = -1 or high = len(grid) where nothing has failed or passed yet. Where
        noise makes a larger dimension fail and a smaller one pass, the bracket spans both.
        """
        low, high = -1, len(self.grid)
        for index, score in self._means():
            if score >= self.level:
                high = min(high, index)
            else:
                low = max(low, index)
        return (low, high) if low < high else (high - 1, low + 1)

    def _means(self) -> list[tuple[int, float]]:
        by_d: dict[int, list[float]] = {}
        for trial in self.trials:
            by_d.setdefault(trial.d, []).append(trial.score)
        return [(int(np.searchsorted(self.grid, d)), float(np.mean(s))) for d, s in sorted(by_d.items())]

    def propose(self) -> int:
        """Return the dimension to try next."""
        if not self.trials:
            return self._nearest(math.log(self.guess))
        low, high = self.bracket()
        crossing = self._nearest(float(self._crossing(self._scores(), self.level)))
        index = int(np.searchsorted(self.grid, crossing))
        if high - low > 2:  # something lies strictly inside the bracket: go there, and not only to its rim
            margin = min((high - low) // 6, _MARGIN)
            index = min(max(index, low + 1 + margin), high - 1 - margin)
        else:  # adjacent: repeat on the side that has been tried less
            rim = [i for i in (low, high) if 0 <= i < len(self.grid)]
            tried = [sum(t.d == self.grid[i] for t in self.trials) for i in rim]
            inside = [i for i in range(max(low + 1, 0), high) if i < len(self.grid)]
            index = inside[0] if inside else rim[int(np.argmin(tried))]
        return int(self.grid[min(max(index, 0), len(self.grid) - 1)])

    def bracketed(self) -> bool:
        """Whether two neighbours on the grid were tried, of which the smaller fails and the larger passes."""
        low, high = self.bracket()
        return high - low == 1 and (low >= 0 or self.grid[0] == 1) and high < len(self.grid)

    def smallest(self) -> int | None:
        """Return the smallest dimension of the grid that by the fit reaches the level, within the bracket.

        The rim that failed is included: where one noisy trial contradicts the curve, the curve decides. While
        no trial has passed, an answer must lie above what has failed: else the curve has levelled off.
        """
        low, high = self.bracket()
        crossing = float(self._crossing(self._scores(), self.level))
        if high >= len(self.grid) and not self.grid[low] <= math.exp(crossing) <= self.grid[-1]:
            return None
        inside = self.grid[max(low, 0) : high + 1]
        reaching = inside[np.log(inside) >= crossing - _RESOLUTION]
        return int(reaching[0] if len(reaching) else inside[-1])

    def estimate(self, seed: int = 0) -> DimensionEstimate:
        """Return d90 with its 90 % interval, by a bootstrap over runs of the monotone fit.

        Each replicate draws the noise level from what residuals and prior leave possible, adds noise of that
        size to every score and to the level, and fits again.
        """
        if not self.trials:
            return DimensionEstimate(None, None, None, "nothing has been tried yet")
        rng = np.random.default_rng(seed)
        scores = self._scores()
        residual = scores - self._curve(scores)
        near = self._locality(scores)
        freedom = max(0.0, near.sum() - 2) + _PRIOR_TRIALS
        square = _PRIOR_TRIALS * self.noise**2 + float((near * residual**2).sum())
        sigma = np.sqrt(square / rng.chisquare(freedom, _BOOTSTRAP))
        drawn = scores + sigma[:, None] * rng.standard_normal((_BOOTSTRAP, len(scores)))
        levels = self.level + sigma * self.level_noise * rng.standard_normal(_BOOTSTRAP)
        slopes = np.exp(_SLOPE_SPREAD * rng.standard_normal(_BOOTSTRAP))
        crossings = self._crossing(drawn, levels, slopes)
        centre = float(self._crossing(scores, self.level))
        low, high = (math.exp(x) for x in np.quantile(crossings, (0.05, 0.95)))
        value, top = math.exp(centre), float(self.grid[-1])
        if value > top:
            status = f"the level {self.level:.4g} is not reached at d <= {top:g}: try larger d, or more steps"
            return DimensionEstimate(None, low, None, status)
        # A dimension is a whole number: below 1 there is only the frozen backbone.
        value, low, high = (max(1.0, x) for x in (value, low, high))
        if self.bracket()[1] == len(self.grid):
            tried = max(trial.d for trial in self.trials)
            status = (
                f"extrapolated: no run at d <= {tried} has reached the level; try larger d, or more steps"
            )
        else:
            status = "reached" if high <= top else f"reached; the interval passes the largest d, {top:g}"
        return DimensionEstimate(value, low, high if high <= top else None, status)

    def _scores(self) -> np.ndarray:
        return np.array([trial.score for trial in self.trials])

    def _x(self) -> np.ndarray:
        return np.log([trial.d for trial in self.trials])

    def _nearest(self, x: float) -> int:
        return int(self.grid[int(np.argmin(np.abs(np.log(self.grid) - x)))])

    def _logit(self, score: _Values) -> _Values:
        q = (np.asarray(score) - self.floor) / (1.02 * self.ceiling - self.floor)
        q = np.clip(q, 0.02, 0.98)
        return np.log(q / (1 - q))

    def _locality(self, scores: np.ndarray) -> np.ndarray:
        distance = (scores - self.level) / (_LOCALITY * (self.ceiling - self.floor))
        return 1 / (1 + distance**2)

    def _fit(self, scores: np.ndarray, slope: _Values = 1.0) -> tuple[_Values, _Values]:
        """Weighted least squares for (a, b) over the last axis, with a pull of b towards the prior slope."""
        x, y = self._x(), self._logit(scores)
        q = 1 / (1 + np.exp(-y))
        # q(1-q) turns the score's noise into the logit's (delta method); 16 makes mid-curve count 1.
        weight = 16 * (q * (1 - q)) ** 2 * self._locality(scores)
        share = weight / weight.sum(-1, keepdims=True)
        centre, height = ((share * z).sum(-1, keepdims=True) for z in (x, y))
        variance = (weight * (x - centre) ** 2).sum(-1)
        covariance = (weight * (x - centre) * (y - height)).sum(-1)
        b = (covariance + _PRIOR_WEIGHT * _SLOPE * slope) / (variance + _PRIOR_WEIGHT)
        b = np.maximum(b, 0.2 * _SLOPE)  # monotone
        return height[..., 0] - b * centre[..., 0], b

    def _crossing(self, scores: np.ndarray, level: _Values, slope: _Values = 1.0) -> _Values:
        a, b = self._fit(scores, slope)
        return np.clip((self._logit(level) - a) / b, -3, math.log(self.grid[-1]) + 3)

    def _curve(self, scores: np.ndarray) -> np.ndarray:
        a, b = self._fit(scores)
        q = 1 / (1 + np.exp(-(a + b * self._x())))
        return self.floor + q * (1.02 * self.ceiling - self.floor)
