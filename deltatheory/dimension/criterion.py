"""What counts as solved: the level of the score whose smallest dimension is d90."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from deltatheory._numbers import check_number

__all__ = ["METRICS", "ORIGINS", "Criterion", "DimensionEstimate"]

METRICS = ("accuracy", "loss")
ORIGINS = ("baseline", "gain")
_FRACTIONS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Criterion:
    """level = origin + fraction · (baseline - origin), of scores that are larger the better.

    The origin is 0, or chance, or the score of the frozen model, which then never is at the level by
    accident. Scores are held-out accuracies, or losses with their sign turned: those at the best scale of the
    logits (`Loss.best_scale`), which do not rise where training goes on and the logits only grow. The fall of
    a loss can only be counted from the frozen model.

    The definition moves d90 more than noise does: Li et al. (2018) report 750 for an MNIST network against
    a baseline of 1.0, and 525 to 575 come out against the same network's own 0.976. It is part of a result.

    Attributes:
        fraction: 0.9 for d90.
        baseline: a given score; `None` for the model's own full fine-tuning with the same step budget.
        corrected: count the score from chance (the test split's majority rate), not from 0.
        metric: "accuracy", or "loss": sharper with the same runs, for it has no steps.
        of: "baseline" counts accuracy from 0, "gain" from the frozen model.

    Raises:
        ValueError: for a number out of range, an unknown metric, two origins, or a given baseline of a loss.
    """

    fraction: float = 0.9
    baseline: float | None = None
    corrected: bool = False
    metric: str = "accuracy"
    of: str = "baseline"

    def __post_init__(self) -> None:
        check_number("fraction", self.fraction, above=0, most=1)
        if self.baseline is not None:
            check_number("baseline", self.baseline, above=0, most=1)
        for name, allowed in (("metric", METRICS), ("of", ORIGINS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r}: allowed are {' and '.join(map(repr, allowed))}.")
        if self.corrected and self.of_gain:
            raise ValueError(
                f"corrected=True: with metric={self.metric!r} and of={self.of!r} scores count from the "
                "frozen model, not from chance; take one of the two."
            )
        if self.baseline is not None and self.metric == "loss":
            raise ValueError(f"baseline={self.baseline}: is an accuracy; metric='loss' has its own baseline.")

    @property
    def of_gain(self) -> bool:
        """Whether scores count from the frozen model."""
        return self.of == "gain" or self.metric == "loss"

    def score(self, accuracy: float, loss: float) -> float:
        """Return what counts of a run, larger the better.

        Args:
            accuracy: held out.
            loss: held out, at the best scale of the logits.
        """
        return accuracy if self.metric == "accuracy" else -loss

    def shown(self, score: float) -> float:
        """Return a score in the units of its metric: a loss with its sign."""
        return score if self.metric == "accuracy" else -score

    def level(self, baseline: float, *, chance: float, frozen: float) -> float:
        """Return the score to reach.

        Args:
            baseline: the score that counts as all there is to gain.
            chance: the score of a guess.
            frozen: the score of the frozen model.

        >>> Criterion(fraction=0.5).level(0.75, chance=0.5, frozen=0.25)
        0.375
        >>> Criterion(fraction=0.5, corrected=True).level(0.75, chance=0.5, frozen=0.25)
        0.625
        >>> Criterion(fraction=0.5, of="gain").level(0.75, chance=0.5, frozen=0.25)
        0.5
        """
        origin = chance if self.corrected else frozen if self.of_gain else 0.0
        return origin + self.fraction * (baseline - origin)

    @property
    def name(self) -> str:
        """Return d90, or what the fraction makes of it."""
        return f"d{100 * self.fraction:g}"

    def shares(self, baseline: float, *, chance: float, frozen: float) -> dict[str, float]:
        """Return which shares of the gain baseline - frozen d50, d75, d90 and the own fraction are of.

        >>> Criterion().shares(0.75, chance=0.5, frozen=0.5)["d75"]  # 0.5625, of 0.5 to 0.75
        0.25
        """
        several = [replace(self, fraction=f) for f in sorted({*_FRACTIONS, self.fraction})]
        levels = {one.name: one.level(baseline, chance=chance, frozen=frozen) for one in several}
        return {name: (level - frozen) / (baseline - frozen) for name, level in levels.items()}

    def to_dict(self) -> dict:
        """Return plain values, for configuration hashes; newer settings only where they were changed."""
        return {name: x for name, x in asdict(self).items() if name not in _NEWER or x != _NEWER[name]}


_NEWER = {"metric": "accuracy", "of": "baseline"}


@dataclass(frozen=True)
class DimensionEstimate:
    """A dimension with its 90 % interval.

    Attributes:
        value: the estimate, a whole number from 1 to D, or 0 for the frozen model; `None` where the level is
            not reached.
        low: 5 % quantile.
        high: 95 % quantile; `None` where it lies above every dimension tried.
        status: what was found, or why not and what to do about it.
    """

    value: int | float | None
    low: int | float | None
    high: int | float | None
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
