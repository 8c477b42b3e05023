"""One posterior over the curve "share of the gain against ln d": the kernel's curve first, runs sharpen it.

The share of the gain that a run of dimension d reaches is (score - floor)/(ceiling - floor), with the frozen
model for the floor and full fine-tuning for the ceiling. Its curve has the shape of the kernel's, moved and
stretched in ln d, under a ceiling of its own:

    share(x) = k σ(y₀(c + (x - c - a) e^-b)),  x = ln d,

where σ(y₀) is the predicted share and c the ln d at which it is ¾. Shift a, stretch b and ceiling k have a
normal prior whose spread is what linearization missed by on tasks it was calibrated on; a run's score has
Student's noise with a spread along ln d (the lot of subspace and order) and one of the score (the test set).
The posterior is summed on a grid: no fit can fail, and d50, d75 and d90 come from one curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import isotonic_regression

from deltatheory.dimension.criterion import DimensionEstimate

__all__ = ["AS_PREDICTED", "LOGISTIC", "UNKNOWN", "CurvePosterior", "CurvePrior", "CurveShape", "log_grid"]

_Values = np.ndarray | float

_PIVOT = math.log(3.0)  # logit of ¾
_SLOPES = (0.3, 2.0)  # of the logit in ln d where the predicted curve ends, and its least within
_CLIP = 0.02  # shares nearer to 0 and 1 say only that they are there
_DRAWS = 4000
_POINTS = (101, 13, 11)  # of the grid, for shift, stretch and ceiling
_REACH = 3.5  # of the grid, in standard deviations


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


@dataclass(frozen=True, eq=False)
class CurveShape:
    """A share that rises with ln d, as its logit at some knots; straight lines between and beyond them.

    Attributes:
        x: ln d, ascending.
        y: logit of the share, ascending.

    >>> half = CurveShape(np.array([0.0, 2.0]), np.array([-1.0, 1.0]))
    >>> float(half.logit(1.0)), half.crossing(0.5)
    (0.0, 1.0)
    """

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_shares(cls, d: Sequence[int], shares: Sequence[float] | np.ndarray) -> CurveShape:
        """Smooth shares of runs into a shape: monotone, and over a factor of two in d.

        Args:
            d: dimensions, ascending.
            shares: of the gain.
        """
        x = np.log(np.asarray(d, float))
        rising = np.clip(isotonic_regression(np.asarray(shares, float)).x, _CLIP, 1 - _CLIP)
        near = np.exp(-0.5 * ((x[:, None] - x) / math.log(2)) ** 2)
        y = near @ np.log(rising / (1 - rising)) / near.sum(1)
        return cls(x, np.maximum.accumulate(y - _SLOPES[0] * x) + _SLOPES[0] * x)

    def logit(self, x: _Values) -> _Values:
        """Return the logit of the share at ln d."""
        inside = np.interp(x, self.x, self.y)
        first, last = self._ends()
        below, above = np.minimum(x - self.x[0], 0.0), np.maximum(x - self.x[-1], 0.0)
        return inside + first * below + last * above

    def slope(self, x: _Values) -> _Values:
        """Return its derivative, over a small step."""
        return (self.logit(x + 0.35) - self.logit(x - 0.35)) / 0.7

    def inverse(self, y: _Values) -> _Values:
        """Return the ln d at which the logit is y."""
        inside = np.interp(y, self.y, self.x)
        first, last = self._ends()
        below, above = np.minimum(y - self.y[0], 0.0), np.maximum(y - self.y[-1], 0.0)
        return inside + below / first + above / last

    def crossing(self, share: float) -> float:
        """Return the ln d at which a share is reached."""
        return float(self.inverse(math.log(share / (1 - share))))

    def _ends(self) -> tuple[float, float]:
        """Return the slopes of the lines beyond the knots."""
        if len(self.x) == 1:
            return 1.0, 1.0
        rise = np.diff(self.y) / np.diff(self.x)
        return float(np.clip(rise[0], *_SLOPES)), float(np.clip(rise[-1], *_SLOPES))


@dataclass(frozen=True)
class CurvePrior:
    """How far measured curves lie from predicted ones: means and standard deviations.

    Attributes:
        shift: of a, in ln d.
        stretch: of b.
        ceiling: of k.
        lot: standard deviation of one run along ln d.
        freedom: degrees of freedom of Student's noise: with few a run that fell through weighs little.
    """

    shift: tuple[float, float]
    stretch: tuple[float, float]
    ceiling: tuple[float, float]
    lot: float
    freedom: float = 4.0


# Fitted by evidence to 18 measured curves of accuracy, all of the calibration half of the committed rows.
AS_PREDICTED = CurvePrior(shift=(0.0, 1.0), stretch=(0.0, 0.25), ceiling=(0.97, 0.09), lot=0.32)

# Without a kernel: a logit that rises by 1 for each unit of ln d, as recorded curves do, anywhere.
LOGISTIC = CurveShape(np.array([math.log(256)]), np.array([_PIVOT]))
UNKNOWN = CurvePrior(shift=(0.0, 2.0), stretch=(0.0, 0.5), ceiling=(0.97, 0.09), lot=0.32)


@dataclass(eq=False)
class CurvePosterior:
    """What the prior and the runs told so far say of the curve.

    Attributes:
        shape: of the share against ln d.
        prior: of shift, stretch, ceiling and noise.
        noise: standard deviation of a run's share of the gain, beside the lot.
        runs: (d, share).
    """

    shape: CurveShape
    prior: CurvePrior
    noise: float
    runs: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise}: must be above 0.")
        standard = np.meshgrid(*(np.linspace(-_REACH, _REACH, n) for n in _POINTS), indexing="ij")
        normal = (self.prior.shift, self.prior.stretch, self.prior.ceiling)
        self._a, self._b, self._k = (
            mean + deviation * z.ravel() for (mean, deviation), z in zip(normal, standard, strict=True)
        )
        self._step = np.array([2 * _REACH * s / (n - 1) for (_, s), n in zip(normal, _POINTS, strict=True)])
        self._log = -0.5 * np.sum(np.square(standard), axis=0).ravel()
        self._log -= np.logaddexp.reduce(self._log)
        self._pivot = float(self.shape.inverse(_PIVOT))
        runs, self.runs = self.runs, []
        for d, share in runs:
            self.tell(d, share)

    def tell(self, d: int, share: float) -> None:
        """Take a run's share of the gain into account.

        Raises:
            ValueError: for a share that is not a number, or a dimension below 1.
        """
        if d < 1:
            raise ValueError(f"d={d}: must be at least 1; δ = 0, the frozen backbone, is the floor.")
        if not math.isfinite(share):
            raise ValueError(f"share={share} at d={d}: must be a finite number.")
        self.runs.append((d, share))
        expected, spread = self._expected(math.log(d))
        self._log = self._log + _student((share - expected) / spread, self.prior.freedom) - np.log(spread)

    def evidence(self) -> float:
        """Return ln p(runs)."""
        return float(np.logaddexp.reduce(self._log))

    def weights(self) -> np.ndarray:
        """Return the posterior on the grid."""
        weights = np.exp(self._log - self._log.max())
        return weights / weights.sum()

    def share(self, d: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the curve at some dimensions."""
        weights = self.weights()
        curves = np.stack([self._expected(x)[0] for x in np.log(np.asarray(d, float))])
        mean = curves @ weights
        return mean, np.sqrt(np.maximum(curves**2 @ weights - mean**2, 0))

    def crossings(self, share: float, deviation: float = 0.0, seed: int = 0) -> np.ndarray:
        """Return draws of the ln d at which a share of the gain is reached; infinite where it never is.

        Args:
            share: of the gain.
            deviation: its standard deviation, where the level is of few runs itself.
            seed: of the draws.
        """
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self._log), _DRAWS, p=self.weights())
        jitter = rng.uniform(-0.5, 0.5, (3, _DRAWS)) * self._step[:, None]
        a, b, k = (x[chosen] + j for x, j in zip((self._a, self._b, self._k), jitter, strict=True))
        q = (share + deviation * rng.standard_normal(_DRAWS)) / np.maximum(k, 1e-3)
        y = np.log(np.maximum(q, 1e-9)) - np.log(np.maximum(1 - q, 1e-9))
        found = self._pivot + a + np.exp(b) * (self.shape.inverse(y) - self._pivot)
        return np.where(q < 1 - 1e-6, found, np.inf)

    def propose(self, share: float, grid: Sequence[int]) -> int:
        """Return the dimension whose run is expected to say most of where a share is reached.

        It is the one with the largest expected fall of the variance of ln d, to first order
        Cov(f(d), ln d)² / (Var f(d) + noise²).

        Args:
            share: of the gain.
            grid: dimensions to choose from.
        """
        weights = self.weights()
        y = np.clip(share / np.maximum(self._k, 1e-3), 1e-9, 1 - 1e-3)
        target = self._pivot + self._a
        target = target + np.exp(self._b) * (self.shape.inverse(np.log(y / (1 - y))) - self._pivot)
        target = np.clip(target, math.log(grid[0]) - 1, math.log(grid[-1]) + 1)
        target = target - target @ weights
        gains = []
        for d in grid:
            expected, spread = self._expected(math.log(d))
            varies = expected - expected @ weights
            gains.append((weights @ (varies * target)) ** 2 / (weights @ (varies**2 + spread**2)))
        return int(grid[int(np.argmax(gains))])

    def estimate(self, share: float, most: int, deviation: float = 0.0) -> DimensionEstimate:
        """Return the dimension at which a share is reached, and its 90 % interval: whole numbers 1 .. most.

        Args:
            share: of the gain; the frozen model has reached one that is not above 0.
            most: the largest dimension there is.
            deviation: standard deviation of the share.
        """
        if share <= 0:
            return DimensionEstimate(0, 0, 0, "the frozen model reaches it")
        low, middle, high = np.quantile(self.crossings(share, deviation), (0.05, 0.5, 0.95), method="nearest")
        lower = _whole(low, most, math.floor)
        if middle > math.log(most):
            return DimensionEstimate(None, lower, None, f"not reached at d <= {most}")
        upper = None if high > math.log(most) else _whole(high, most, math.ceil)
        status = self._status(share, upper, most)
        return DimensionEstimate(_whole(middle, most, round), lower, upper, status)

    def _status(self, share: float, upper: int | None, most: int) -> str:
        if not self.runs:
            return "predicted"
        if not any(reached >= share for _, reached in self.runs):
            tried = max(d for d, _ in self.runs)
            return f"extrapolated: no run at d <= {tried} has reached the level; try larger d, or more steps"
        return "reached" if upper is not None else f"reached; the interval passes the largest d, {most}"

    def _expected(self, x: float) -> tuple[np.ndarray, np.ndarray]:
        """Return share and noise at ln d for every point of the grid."""
        unit = np.exp(-self._b)
        at = self._pivot + (x - self._pivot - self._a) * unit
        q = 1 / (1 + np.exp(-self.shape.logit(at)))
        along = self._k * q * (1 - q) * self.shape.slope(at) * unit
        return self._k * q, np.sqrt(self.noise**2 + (self.prior.lot * along) ** 2)


def _student(z: np.ndarray, freedom: float) -> np.ndarray:
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    return scale - 0.5 * (freedom + 1) * np.log1p(z**2 / freedom)


def _whole(x: float, most: int, rounded: Callable[[float], int]) -> int:
    """Return e^x as a whole number from 1 to `most`."""
    return most if x > math.log(most) else max(1, rounded(math.exp(x)))
