"""d90 by training in random subspaces, with few runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.curves import LEARNING_RATES
from deltatheory.dimension.result import CurvePoint
from deltatheory.dimension.search import DimensionSearch, log_grid
from deltatheory.dimension.settings import DimensionSettings
from deltatheory.dimension.trials import OnRun, Trials
from deltatheory.problems import BACKWARD, FORWARD, Setup
from deltatheory.results import ResultLog

__all__ = ["BASELINE_RATES", "MeasuredDimension", "check_budget", "measure"]

BASELINE_RATES = (1e-4, 2e-4)  # of full fine-tuning: the better one makes the baseline
_MAX_DIMENSION = 2**16
_LEAST_TRIALS = 3
# Run-to-run noise of accuracy on one test set, in units of its binomial error: most examples fall the same
# way in every run.
_PAIRED = 0.6


@dataclass(frozen=True)
class MeasuredDimension:
    """What training in subspaces says of d90.

    Attributes:
        d90: the estimate, its interval and status.
        level: the accuracy to reach.
        baseline: accuracy of full fine-tuning (the best learning rate), or the given one.
        frozen: accuracy at δ = 0.
        learning_rate: of δ, the better of `LEARNING_RATES` at the first dimension tried.
        curve: one row a run.
        passes: forward-equivalents.
        full_runs: the same in units of one full fine-tuning run with its evaluation.
        seconds: time taken by the runs, repeated ones not counted twice.
    """

    d90: DimensionEstimate
    level: float
    baseline: float
    frozen: float
    learning_rate: float
    curve: list[CurvePoint]
    passes: float
    full_runs: float
    seconds: float


def check_budget(settings: DimensionSettings, criterion: Criterion) -> None:
    """Refuse a budget that is too small for the baseline and three runs.

    Raises:
        ValueError: for it.
    """
    baselines = 0 if criterion.baseline else len(BASELINE_RATES)
    least = baselines + _LEAST_TRIALS
    if settings.runs < least:
        raise ValueError(
            f"runs={settings.runs}: must be at least {least} training runs: {baselines} for the baseline, "
            f"{_LEAST_TRIALS} for subspaces."
        )


def measure(
    setup: Setup,
    criterion: Criterion,
    settings: DimensionSettings,
    *,
    guess: float | None = None,
    learning_rate: float | None = None,
    log: ResultLog | None = None,
    on_run: OnRun | None = None,
    on_point: Callable[[CurvePoint], None] | None = None,
) -> MeasuredDimension:
    """Search for d90 by training: baseline, learning rate, then the dimensions that decide.

    Every run has the same step budget. The baseline is full fine-tuning at each of `BASELINE_RATES`. The
    first dimension is run at both `LEARNING_RATES`; the better rate is carried to the others, as the isometry
    of P allows. Every dimension tried has a seed of its own for the subspace and the data order.

    Args:
        setup: of a classification task.
        criterion: what counts as solved.
        settings: projection, scope, step budget and when to stop.
        guess: where to start (the prediction).
        learning_rate: of δ, to try first.
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
    trials = Trials(setup, training, log=log, on_run=on_run, on_point=on_point)
    frozen = trials.frozen(problem)
    baseline = criterion.baseline or max(
        trials.score(full, "baseline", setup.seed + i, rate) for i, rate in enumerate(BASELINE_RATES)
    )
    level = criterion.level(baseline, setup.task.chance)
    rates = sorted(LEARNING_RATES, key=lambda r: r != learning_rate)
    if frozen >= level:
        status = f"the frozen model reaches {frozen:.3f} already, the level is {level:.3f}"
        d90, rate = DimensionEstimate(0.0, 0.0, 0.0, status), rates[0]
    else:
        test = len(problem.test)
        search = DimensionSearch(
            log_grid(1, min(full.size, _MAX_DIMENSION), ratio=2**0.125),
            level,
            floor=min(frozen, level - 1e-3),
            ceiling=max(baseline, level + 1e-3),
            noise=_PAIRED * math.sqrt(max(level * (1 - level), 0.01) / test),
            level_noise=0.0 if criterion.baseline else criterion.fraction,
            guess=guess,
        )
        d90, rate = _searched(search, trials, settings, rates)
    run = training.steps * training.batch_size * (FORWARD + BACKWARD) + FORWARD * len(problem.test)
    return MeasuredDimension(
        d90=d90,
        level=level,
        baseline=baseline,
        frozen=frozen,
        learning_rate=rate,
        curve=trials.curve,
        passes=trials.passes,
        full_runs=trials.passes / run,
        seconds=trials.seconds,
    )


def _searched(
    search: DimensionSearch, trials: Trials, settings: DimensionSettings, rates: list[float]
) -> tuple[DimensionEstimate, float]:
    """Return d90 within the budget of runs, and the rate of δ that was better at the first dimension."""

    def score(d: int, rate: float) -> float:
        seed = trials.training.seed + len(search.trials)
        how = {"projection": settings.projection, "scope": settings.scope, "seed": seed}
        return trials.score(trials.setup.delta("subspace", d=d, **how), "measure", seed, rate)

    d = search.propose()
    tried = {rate: score(d, rate) for rate in rates}
    rate = max(tried, key=lambda r: tried[r])
    search.tell(d, tried[rate])
    d90 = search.estimate()
    while trials.count + 1 <= settings.runs:  # every run has the same step budget
        if len(search.trials) >= _LEAST_TRIALS and d90.width <= settings.precision:
            break
        d = search.propose()
        search.tell(d, score(d, rate))
        d90 = search.estimate()
    if d90.value is not None and d90.width > settings.precision:
        unmet = f"±{settings.precision:.0%} not met within {settings.runs:g} full runs: raise `runs`"
        d90 = replace(d90, status=f"{d90.status}; {unmet}")
    return d90, rate
