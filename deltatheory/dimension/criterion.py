"""What counts as solved: the level of the score whose smallest dimension is d90."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from deltatheory._numbers import check_number

__all__ = ["Criterion", "DimensionEstimate"]


@dataclass(frozen=True)
class Criterion:
    """level = fraction · baseline, or chance + fraction · (baseline - chance).

    The definition moves d90 more than noise does: Li et al. (2018) report 750 for an MNIST network against
    a baseline of 1.0, and 525 to 575 come out against the same network's own 0.976. It is part of a result.

    Attributes:
        fraction: 0.9 for d90.
        baseline: a given score; `None` for the model's own full fine-tuning with the same step budget.
        corrected: count the score from chance (the test split's majority rate), not from 0.
    """

    fraction: float = 0.9
    baseline: float | None = None
    corrected: bool = False

    def __post_init__(self) -> None:
        check_number("fraction", self.fraction, above=0, most=1)
        if self.baseline is not None:
            check_number("baseline", self.baseline, above=0, most=1)

    def level(self, baseline: float, chance: float) -> float:
        """Return the score to reach.

        Args:
            baseline: the score that counts as all there is to gain.
            chance: the score of a guess.

        >>> Criterion(fraction=0.5).level(0.75, chance=0.5)
        0.375
        >>> Criterion(fraction=0.5, corrected=True).level(0.75, chance=0.5)
        0.625
        """
        origin = chance if self.corrected else 0.0
        return origin + self.fraction * (baseline - origin)

    def to_dict(self) -> dict:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class DimensionEstimate:
    """A dimension with its 90 % interval.

    Attributes:
        value: the estimate; `None` where the level is not reached.
        low: 5 % quantile.
        high: 95 % quantile; `None` where it lies above every dimension tried.
        status: what was found, or why not and what to do about it.
    """

    value: float | None
    low: float | None
    high: float | None
    status: str

    @property
    def width(self) -> float:
        """Return the larger of high/value - 1 and 1 - low/value: ±25 % is 0.25.

        >>> DimensionEstimate(100.0, 50.0, 125.0, "").width
        0.5
        """
        if not self.value or self.low is None or self.high is None:
            return float("inf")
        return max(self.high / self.value - 1, 1 - self.low / self.value)

    def to_dict(self) -> dict:
        """Return plain values."""
        return asdict(self)
