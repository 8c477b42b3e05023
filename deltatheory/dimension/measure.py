"""d90 by training in random subspaces, with few runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from deltatheory.deltas import Delta
from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.curves import LEARNING_RATES
from deltatheory.dimension.posterior import LOGISTIC, UNKNOWN, CurvePosterior, log_grid
from deltatheory.dimension.predict import Prediction
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.settings import DimensionSettings
from deltatheory.dimension.trials import OnRun, PredictedRate, Trials
from deltatheory.problems import BACKWARD, FORWARD, Setup
from deltatheory.results import ResultLog

__all__ = ["BASELINE_RATES", "MeasuredDimension", "check_budget", "measure"]

# Of full fine-tuning: the better one makes the baseline. A predicted rate spares none of these two, but it
# does spare one of a subspace's (experiments/studies/dimension_rates.py).
BASELINE_RATES = (1e-4, 2e-4)
# Of these many dimensions are the rates of a subspace; beyond it they fall as 1/√d.
_RATED_DIMENSION = 185
_MAX_DIMENSION = 2**16
_NO_GAIN = (
    "full fine-tuning is no better than the frozen model, and chance is above both; take more steps, or a "
    "level that is not counted from chance"
)
# Run-to-run noise of accuracy on one test set, in units of its binomial error: most examples fall the same
# way in every run.
_PAIRED = 0.6
_LOSS_NOISE = 0.03  # of the share of the fall of a loss, beside the lot of subspace and order: assumed


@dataclass(frozen=True)
class MeasuredDimension:
    """What training in subspaces says of d90.

    Attributes:
        d90: the estimate, its interval and status.
        fractions: the same for other fractions of the same curve, as "d50".
        level: the accuracy or loss to reach.
        baseline: that of full fine-tuning (the best learning rate), or the given one.
        frozen: that at δ = 0.
        learning_rate: of δ in few dimensions, the better of those tried; `None` where none was trained.
        curve: one row a run.
        passes: forward-equivalents.
        full_runs: the same in units of one full fine-tuning run with its evaluation.
        seconds: time taken by the runs, repeated ones not counted twice.
    """

    d90: DimensionEstimate
    fractions: dict[str, DimensionEstimate]
    level: float
    baseline: float
    frozen: float
    learning_rate: float | None
    curve: list[CurvePoint]
    passes: float
    full_runs: float
    seconds: float


def check_budget(settings: DimensionSettings, criterion: Criterion) -> None:
    """Refuse a budget that is too small for the baseline and one dimension.

    Raises:
        ValueError: for it.
    """
    baselines = 0 if criterion.baseline else len(BASELINE_RATES)
    if settings.runs < baselines + 1:
        raise ValueError(
            f"runs={settings.runs}: must be at least {baselines + 1} training run(s): {baselines} for the "
            "baseline, 1 for a subspace; 0 takes the prediction alone."
        )


def measure(
    setup: Setup,
    criterion: Criterion,
    settings: DimensionSettings,
    *,
    prediction: Prediction | None = None,
    log: ResultLog | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> MeasuredDimension:
    """Sharpen the curve by training: the baseline, then the dimensions that say most.

    Every run has the same step budget. The baseline is full fine-tuning at each of `BASELINE_RATES`. The rate
    η of subspaces is the one of `LEARNING_RATES` that is nearest to what `predict_learning_rate` says for 185
    dimensions, or what it says, where that one is not within its interval. At the first dimension the next
    nearest is tried, too, where η gains nothing there, and both are, where no rate was found or something is
    known against it, as on a deep backbone. Up to 185 dimensions all take η, as the isometry of P allows,
    beyond it η √(185/d), which keeps the length of Adam's steps in θ. Every dimension tried has a seed of its
    own for the subspace and the data order. The posterior of the curve begins at the prediction, where there
    is one, and says which dimension comes next.

    Args:
        setup: of a classification task.
        criterion: what counts as solved.
        settings: projection, scope, step budget and when to stop.
        prediction: of the curve.
        log: where finished runs are, and go.
        on_run: called before a run with its title, it returns the run's `on_step`.
        on_point: called with each point of the curve.

    Raises:
        ValueError: as `check_budget`.
    """
    check_budget(settings, criterion)
    training = settings.training(setup.seed)
    full = setup.delta("full", scope=settings.scope)
    # δ of full fine-tuning would be as long as the model.
    problem = setup.classification(setup.delta("subspace", d=1, scope=settings.scope), check=False)
    trials = Trials(setup, training, criterion, log=log, on_run=on_run, on_point=on_point)
    frozen, chance = trials.frozen(problem), setup.task.chance
    baseline = criterion.baseline or max(
        trials.score(full, "baseline", setup.seed + i, rate) for i, rate in enumerate(BASELINE_RATES)
    )
    level = criterion.level(baseline, chance=chance, frozen=frozen)
    fractions, rate = {}, None
    if frozen >= level:
        reached = f"the frozen model reaches {criterion.shown(frozen):.3f} already"
        d90 = DimensionEstimate(0, 0, 0, f"{reached}, the level is {criterion.shown(level):.3f}")
    elif baseline <= frozen:
        d90 = DimensionEstimate(None, None, None, f"no gain: {_NO_GAIN}")
    else:
        search = _Search(trials, settings, frozen=frozen, baseline=baseline, prediction=prediction)
        rate = search.run()
        fractions = search.fractions()
        d90 = search.d90()
    run = training.steps * training.batch_size * (FORWARD + BACKWARD) + FORWARD * len(problem.test)
    return MeasuredDimension(
        d90=d90,
        fractions=fractions,
        level=criterion.shown(level),
        baseline=criterion.shown(baseline),
        frozen=criterion.shown(frozen),
        learning_rate=rate,
        curve=trials.curve,
        passes=trials.passes,
        full_runs=trials.passes / run,
        seconds=trials.seconds,
    )


class _Search:
    """Runs the dimensions that a posterior asks for, within a budget.

    Args:
        trials: where they are run.
        settings: how, and when to stop.
        frozen: the score that is no share of the gain.
        baseline: the score that is all of it.
        prediction: where the posterior begins.
    """

    def __init__(
        self,
        trials: Trials,
        settings: DimensionSettings,
        *,
        frozen: float,
        baseline: float,
        prediction: Prediction | None,
    ) -> None:
        setup, criterion = trials.setup, trials.criterion
        self.trials, self.settings = trials, settings
        self.frozen, self.gain = frozen, baseline - frozen
        chance = setup.task.chance
        self.level = criterion.level(baseline, chance=chance, frozen=frozen)
        self.shares = criterion.shares(baseline, chance=chance, frozen=frozen)
        noise = _LOSS_NOISE
        if criterion.metric == "accuracy":
            level = self.level
            noise = _PAIRED * math.sqrt(max(level * (1 - level), 0.01) / len(setup.task.test)) / self.gain
        known = prediction and prediction.posterior(noise)
        self.posterior = known or CurvePosterior(LOGISTIC, UNKNOWN, noise)
        # Of a run that gives all examples one class.
        self.nothing = max(0.0, (chance - frozen) / self.gain) if criterion.metric == "accuracy" else 0.0
        self.deviation = 0.0 if criterion.baseline else noise  # of the baseline itself
        self.most = min(setup.delta("full", scope=settings.scope).size, _MAX_DIMENSION)

    def run(self) -> float:
        """Run until the interval is narrow or the budget spent, and return the rate η."""
        grid = log_grid(1, self.most)
        share = self.shares[self.trials.criterion.name]
        first = self.posterior.propose(share, grid)
        most = int(self.settings.runs) - self.trials.count
        said = self.trials.predicted_rate(self._delta(min(_RATED_DIMENSION, self.most)), self._seed)
        tried: dict[float, float] = {}
        for rate in _rates(said)[:most]:
            tried[rate] = self._share(first, rate)
            if said.sure and tried[rate] > self.nothing:
                break
        rate = max(tried, key=lambda r: tried[r])
        self.posterior.tell(first, tried[rate])
        # Every run has the same step budget.
        while self.trials.count + 1 <= self.settings.runs and self.d90().width > self.settings.precision:
            d = self.posterior.propose(share, grid)
            self.posterior.tell(d, self._share(d, rate))
        return rate

    @property
    def _seed(self) -> int:
        """That of the next run: of its subspace and the order of its data."""
        return self.trials.training.seed + len(self.posterior.runs)

    def _delta(self, d: int) -> Delta:
        how = {"projection": self.settings.projection, "scope": self.settings.scope, "seed": self._seed}
        return self.trials.setup.delta("subspace", d=d, **how)

    def _share(self, d: int, rate: float) -> float:
        """Return the share of the gain that one run reaches at a rate η."""
        rate *= min(1.0, math.sqrt(_RATED_DIMENSION / d))
        score = self.trials.score(self._delta(d), "measure", self._seed, rate)
        return (score - self.frozen) / self.gain

    def fractions(self) -> dict[str, DimensionEstimate]:
        """Return d50, d75 and d90, and the own fraction, of the one curve."""
        return {
            name: self.posterior.estimate(share, self.most, self.deviation * max(share, 0.0))
            for name, share in self.shares.items()
        }

    def d90(self) -> DimensionEstimate:
        """Return the own fraction's, with what it lacks in its status."""
        criterion, settings = self.trials.criterion, self.settings
        found = self.fractions()[criterion.name]
        if found.value is None:
            level = f"the level {criterion.shown(self.level):.4g} is not reached at d <= {self.most}"
            return replace(found, status=f"{level}: try larger d, or more steps")
        if found.width > settings.precision and self.trials.count + 1 > settings.runs:
            unmet = f"±{settings.precision:.0%} not met within {settings.runs:g} full runs: raise `runs`"
            return replace(found, status=f"{found.status}; {unmet}")
        return found


def _rates(said: PredictedRate) -> list[float]:
    """Return the rates η in the order in which they are tried."""
    known = sorted(LEARNING_RATES, key=lambda rate: abs(math.log(rate / said.rate)))
    near = said.low <= known[0] <= said.high
    return known if near or not said.sure else [said.rate, *known]
