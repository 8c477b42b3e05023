"""What training will give of all candidates at once, one Gaussian: kernels are its prior, runs sharpen it.

l_i is the logit of the accuracy of candidate i after training at a good rate. The prior mean is the level of
what the kernels promise, moved by what training usually adds, a part of the differences between them, a
trend in the logarithm of the size, and what a method is usually ahead. The
covariance is that of l under resampling of the held-out examples, the same for all candidates, and what
training leaves open beside: of all candidates together, of a method, and of each. A run observes its l_i.
Differences are then known far better than levels, in which all that is common cancels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from deltatheory._shapes import Bool, Float

__all__ = ["POINT", "SPREAD", "TrainedScores"]

POINT = 0.01  # of accuracy: what another delta must gain to be worth taking instead
_RESAMPLED = 500
_DRAWS = 2000
# Set on tasks of the calibration half alone: advice and trainings of experiments/results/chosen, and the
# sweeps of the study `learning_rate`; the page of the study `smallest` says what they come to there.
_GAIN = 1.0  # that training adds to the kernels' level
_SHARE = 0.25  # of the kernels' differences that training shows
_GROWTH = 0.1  # for every unit of ln(parameters): the larger, the further features move
# What a method is ahead beside that: means over nine tasks, shrunk by 1/(1 + variance of the mean/.3²).
_AHEAD = {
    "adapter": 0.08,
    "bitfit": -0.31,
    "full": 0.12,
    "ia3": 0.30,
    "layernorm": -0.06,
    "lora": 0.12,
    "prefix": -0.28,
}
_COMMON, _METHOD, _OWN = 1.0, 0.3, 0.15  # spread of l: of all together, of a method, of a candidate
SPREAD = float(np.sqrt(_COMMON**2 + _METHOD**2 + _OWN**2))
_RUN = 0.25  # of l between a run at the predicted rate and one at the best: rms on the calibration half
_LEVEL = 0.5  # the chance that something else is more than a point better, up to which a candidate suffices
_OUTCOMES = (-1.5, -0.75, 0.0, 0.75, 1.5)  # of a run that is thought of, in standard deviations


@dataclass(frozen=True, eq=False)
class TrainedScores:
    """The distribution of l.

    Attributes:
        mean: E l.
        covariance: of l.
    """

    mean: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]

    @classmethod
    def predicted(
        cls,
        solved: Sequence[Bool[np.ndarray, "r n"]],
        sizes: Sequence[int],
        methods: Sequence[str],
        rng: np.random.Generator,
    ) -> TrainedScores:
        """Return the prior.

        Args:
            solved: of each candidate, whether the fit with each ridge solves each example that it has not
                seen; the examples are the same for all.
            sizes: of the candidates, in parameters.
            methods: of the candidates.
            rng: of the resampling.
        """
        count = solved[0].shape[1]
        weights = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLED) / count
        drawn = _logit(np.stack([(one @ weights.T).max(0) for one in solved]), count)
        found = _logit(np.array([one.mean(1).max() for one in solved]), count)
        # S l = m + s(l - m) with m the mean over candidates
        shrink = _SHARE * np.eye(len(solved)) + (1 - _SHARE) / len(solved)
        same = np.equal.outer(np.array(methods), np.array(methods))
        own = _COMMON**2 + _METHOD**2 * same + _OWN**2 * np.eye(len(solved))
        logs = np.log(sizes)
        mean = _GAIN + shrink @ found + _GROWTH * (logs - logs.mean())
        mean += [_AHEAD.get(method, 0.0) for method in methods]
        return cls(mean, shrink @ np.atleast_2d(np.cov(drawn)) @ shrink + own)

    def observed(self, runs: Mapping[int, Bool[np.ndarray, " n"]]) -> TrainedScores:
        """Return the posterior after runs: candidate ↦ whether each example, the same for all, is solved."""
        if not runs:
            return self
        at, solved = list(runs), np.stack(list(runs.values())).astype(float)
        count = solved.shape[1]
        score = np.clip(solved.mean(1), 0.5 / count, 1 - 0.5 / count)
        slope = 1 / (score * (1 - score))
        noise = np.outer(slope, slope) * np.atleast_2d(np.cov(solved)) / count
        # a run that solves all, or none, is no more certain than one that is wrong once
        noise += np.diag(_RUN**2 + (solved.std(1) == 0) * slope**2 * score * (1 - score) / count)
        return self._given(at, _logit(solved.mean(1), count), noise)

    def _given(self, at: list[int], values: np.ndarray, noise: np.ndarray) -> TrainedScores:
        gain = np.linalg.solve(self.covariance[np.ix_(at, at)] + noise, self.covariance[at]).T
        return TrainedScores(
            self.mean + gain @ (values - self.mean[at]), self.covariance - gain @ self.covariance[at]
        )

    def draws(self) -> Float[np.ndarray, "draws k"]:
        """Return draws of the trained accuracies, by the same numbers at every call."""
        return _accuracy(self.mean + self._deviations())

    def _deviations(self) -> Float[np.ndarray, "draws k"]:
        """Return draws of l - E l."""
        values, vectors = np.linalg.eigh(self.covariance)
        return _standard(len(self.mean)) @ (vectors * np.sqrt(values.clip(min=0))).T

    def smallest(self, ladder: Sequence[int]) -> tuple[int, float]:
        """Return the first candidate that nothing is likely to beat by more than a point.

        Where each is likelier beaten than not, it is the one for which that is least likely.

        Args:
            ladder: candidates, the smallest first.

        Returns:
            It, and the chance that another of the ladder is more than a point better.
        """
        return _smallest(self.draws(), ladder)

    def most_decisive(self, ladder: Sequence[int], run: Collection[int], examples: int) -> int | None:
        """Return the candidate whose run is likeliest to change what is taken; `None` where none would.

        Args:
            ladder: candidates, the smallest first.
            run: those that have been run.
            examples: that a run is judged on.
        """
        taken, _ = self.smallest(ladder)
        chances = {i: self._change(i, taken, ladder, examples) for i in ladder if i not in run}
        best = max(chances, key=lambda i: chances[i], default=taken)
        return best if chances.get(best) else None

    def _change(self, one: int, taken: int, ladder: Sequence[int], examples: int) -> float:
        """Return for how much of what its run may show another candidate is taken."""
        score = float(_accuracy(self.mean)[one])
        noise = _RUN**2 + 1 / (examples * score * (1 - score))
        spread = np.sqrt(self.covariance[one, one] + noise)
        # whatever it shows, the covariance after it is the same
        deviations = self._given([one], self.mean[[one]], np.array([[noise]]))._deviations()
        gain = self.covariance[one] / spread
        changed = [
            _smallest(_accuracy(self.mean + z * gain + deviations), ladder)[0] != taken for z in _OUTCOMES
        ]
        weights = np.exp(-0.5 * np.square(_OUTCOMES))
        return float(weights @ changed / weights.sum())


def _smallest(draws: Float[np.ndarray, "draws k"], ladder: Sequence[int]) -> tuple[int, float]:
    draws = draws[:, ladder]
    chances = (draws.max(1, keepdims=True) - draws > POINT).mean(0)
    suffice = np.flatnonzero(chances <= _LEVEL)
    place = int(suffice[0] if len(suffice) else chances.argmin())
    return ladder[place], float(chances[place])


@cache
def _standard(count: int) -> Float[np.ndarray, "draws k"]:
    return np.random.default_rng(0).standard_normal((_DRAWS, count))


def _accuracy(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def _logit(score: np.ndarray, count: int) -> np.ndarray:
    score = np.clip(score, 0.5 / count, 1 - 0.5 / count)
    return np.log(score / (1 - score))
