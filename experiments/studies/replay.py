"""Runs that are there, told one by one to a posterior that asks for them: how it covers and narrows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deltatheory.dimension.posterior import LOGISTIC, UNKNOWN, CurvePosterior, CurvePrior, CurveShape
from experiments.page import Table

COUNTS = (0, 1, 2, 4, 6, 12)
MOST = 2**16


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """The runs of one task.

    Attributes:
        task: name.
        half: of its family.
        shape: predicted; `None` where linearized training gains too little.
        noise: standard deviation of a run's share of the gain, beside that along ln d.
        runs: (d, share of the gain).
        share: at which d90 is.
        unknown: the prior without a prediction.
    """

    task: str
    half: str
    shape: CurveShape | None
    noise: float
    runs: list[tuple[int, float]]
    share: float
    unknown: CurvePrior = UNKNOWN

    def posterior(self, prior: CurvePrior) -> CurvePosterior:
        """Return the prediction; where there is none, of a curve that may lie anywhere."""
        return CurvePosterior(self.shape, prior, self.noise) if self.shape else self.unpredicted([])

    def unpredicted(self, runs: Iterable[tuple[int, float]]) -> CurvePosterior:
        """Return what some runs say without a prediction."""
        return CurvePosterior(LOGISTIC, self.unknown, self.noise, list(runs))


@dataclass(frozen=True)
class Ends:
    """A 90 % interval of ln d with its middle; where it is open it ends at the largest d there is."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, posterior: CurvePosterior, share: float) -> Ends:
        """Return those of the d at which a share is reached."""
        found = np.minimum(posterior.crossings(share), math.log(MOST))
        return cls(*(float(x) for x in np.quantile(found, (0.05, 0.5, 0.95))))

    @property
    def width(self) -> float:
        """Return high - low."""
        return self.high - self.low

    def holds(self, x: float) -> bool:
        """Whether x lies within."""
        return self.low <= x <= self.high


@dataclass(frozen=True)
class Replay:
    """What one task's posterior said after some runs.

    Attributes:
        runs: told so far.
        said: of d90.
        all: of the reference from all runs, without the prediction.
        rest: of the one from the runs that were not told; `None` where they are fewer than six.
    """

    runs: int
    said: Ends
    all: Ends
    rest: Ends | None


@dataclass(frozen=True, eq=False)
class Replays:
    """The replays of one task by number of runs, and its curve."""

    curve: MeasuredCurve
    found: list[Replay] = field(default_factory=list)


def replayed(curve: MeasuredCurve, prior: CurvePrior, counts: Sequence[int] = COUNTS) -> Replays:
    """Tell a task's runs to the posterior: each time the one that is nearest to the d it asks for.

    Args:
        curve: the runs.
        prior: of the posterior.
        counts: after which numbers of runs it is asked.
    """
    posterior, left = curve.posterior(prior), list(curve.runs)
    reference = Ends.of(curve.unpredicted(curve.runs), curve.share)
    replays = Replays(curve)
    for told in range(max(counts) + 1):
        if told in counts:
            rest = Ends.of(curve.unpredicted(left), curve.share) if len(left) >= 6 else None
            replays.found.append(Replay(told, Ends.of(posterior, curve.share), reference, rest))
        if not left:
            break
        d = posterior.propose(curve.share, sorted({d for d, _ in left}))
        at = next(i for i, (there, _) in enumerate(left) if there == d)
        posterior.tell(*left.pop(at))
    return replays


def summary(replays: Sequence[Replays], half: str) -> list[dict[str, float]]:
    """Return coverage, nearness and median width by number of runs, over the tasks of a half."""
    rows = []
    for told in COUNTS:
        found = [r for one in replays if one.curve.half == half for r in one.found if r.runs == told]
        if not found:
            continue
        unseen = [r for r in found if r.rest is not None]
        rows.append(
            {
                "runs": told,
                "tasks": len(found),
                "holds": float(np.mean([r.said.holds(r.all.middle) for r in found])),
                "near": float(np.mean([abs(r.said.middle - r.all.middle) <= math.log(2) for r in found])),
                "width": float(np.median([r.said.width for r in found])),
                "unseen": len(unseen),
                "holds_unseen": _mean([r.said.holds(r.rest.middle) for r in unseen if r.rest]),
                "overlaps_unseen": _mean(
                    [r.said.low <= r.rest.high and r.rest.low <= r.said.high for r in unseen if r.rest]
                ),
            }
        )
    return rows


def table(title: str, rows: Sequence[dict[str, float]]) -> Table:
    """Return a summary as a table."""
    heads = {
        "runs": "runs",
        "tasks": "tasks",
        "holds": "interval holds the reference",
        "near": "within a factor of two",
        "width": "median width, ln d",
        "unseen": "with six runs left",
        "holds_unseen": "holds that of the runs left",
        "overlaps_unseen": "overlaps its interval",
    }
    return Table(title, list(heads.values()), [[row[key] for key in heads] for row in rows])


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else math.nan
