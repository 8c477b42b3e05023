"""What an intrinsic-dimension run came to, for people: one figure and one self-contained page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.report.page import (
    COLOURS,
    command_line,
    count,
    flat,
    new_figure,
    render,
    sentences,
    style,
    svg,
)
from deltatheory.results import PAGE, drawn, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dimension_figure", "dimension_page", "estimate", "sharpest", "span"]

_VERBS = {"predicted": "predict", "measured": "measure"}
_TITLES = {"predicted": "predicted before training", "measured": "measured by training"}
_BAND = (0.05, 0.95)
_BREAK = 0.035  # where the axis is broken, from each end; all data lie further in


def estimate(interval: DimensionEstimate) -> str:
    """Write the value of an interval, or why there is none."""
    if interval.value is not None:
        return count(interval.value)
    return "unknown" if interval.low is None else "not reached"


def span(interval: DimensionEstimate) -> str:
    """Write a 90 % interval: "90–400", or "above 90" where it has no upper end."""
    if interval.low is None and interval.high is None:
        return "–"
    if interval.high is None:
        return f"above {count(interval.low)}"
    if interval.low is None:
        return f"below {count(interval.high)}"
    return f"{count(interval.low)}–{count(interval.high)}"


def sharpest(fractions: Mapping[str, DimensionEstimate]) -> str | None:
    """Return which of d50, d75 and d90 has the narrowest interval; `None` where all are open.

    >>> sharpest({"d50": DimensionEstimate(10, 5, 20, ""), "d90": DimensionEstimate(100, 90, 110, "")})
    'd90'
    """
    closed = {name: x.width for name, x in fractions.items() if x.width < float("inf")}
    return min(closed, key=lambda name: closed[name]) if closed else None


@figure.register(DimensionResult)
def dimension_figure(result: DimensionResult) -> Figure:
    """Return the figure: the score against d, predicted and measured, and below it both d90 on that axis."""
    intervals = _intervals(result)
    with style():
        drawing = new_figure(9.0, 5.6)
        curve, bars = drawing.subplots(
            2, 1, sharex=True, height_ratios=[4.2, 0.45 + 0.45 * max(1, len(intervals))]
        )
        left, right = _ends(result, intervals)
        _draw_curves(curve, result, left, right)
        _draw_intervals(bars, intervals, result, left, right)
        _draw_axes(curve, bars, result, left, right)
    return drawing


@drawn.register(DimensionResult)
def _(result: DimensionResult) -> dict[str, str]:
    return {PAGE: dimension_page(result)}


def dimension_page(result: DimensionResult) -> str:
    """Return the page: headline, what missed, figure, tables and how to get the numbers again."""
    from markupsafe import Markup

    diagnostics = {
        key: value
        for key, value in result.diagnostics.items()
        if key not in ("missed", "checked", "assumptions")
    }
    intervals = _intervals(result)
    return render(
        "dimension.html",
        result=result,
        title=_title(result),
        symbol=_symbol(result),
        headline=list(_headline(result)),
        figure=Markup(svg(dimension_figure(result), "The score against the dimension of the subspace")),
        metric=_metric(result),
        fractions=_fraction_rows(result),
        missed=sentences(result.diagnostics.get("missed")),
        checked=sentences(result.diagnostics.get("checked")),
        intervals=intervals,
        titles=_TITLES,
        ratio=_quotient(*(getattr(intervals.get(name), "value", None) for name in ("predicted", "measured"))),
        costs=_cost_rows(result),
        saved={
            "passes": _quotient(result.passes.get("measure"), result.passes.get("predict")),
            "seconds": _quotient(result.seconds.get("measure"), result.seconds.get("predict")),
        },
        criterion=result.settings.get("criterion", {}),
        steps=result.settings.get("training", result.settings).get("steps"),
        assumptions=sentences(result.diagnostics.get("assumptions")),
        trials=[point for point in result.curve if point.method != "predict"],
        predictions=[
            {"d": d, "runs": len(scores), "mean": np.mean(scores), "band": np.quantile(scores, _BAND)}
            for d, scores in _scores(result, "predict").items()
        ],
        details={
            "Diagnostics": [(name.replace("_", " "), value) for name, value in flat(diagnostics)],
            "Settings": list(flat(result.settings)),
            "Provenance": [row for row in flat(result.provenance) if row[0] != "command"],
        },
        command=command_line(result.provenance.get("command")),
        estimate=estimate,
        span=span,
    )


# ------------------------------------------------------------------------------------------------- the figure


def _intervals(result: DimensionResult) -> dict[str, DimensionEstimate]:
    named = {"predicted": result.predicted, "measured": result.measured}
    return {name: interval for name, interval in named.items() if interval is not None}


def _metric(result: DimensionResult) -> str:
    return result.settings.get("criterion", {}).get("metric", "accuracy")


def _score(result: DimensionResult, point: CurvePoint) -> float | None:
    """Return the accuracy or the loss of a run, as the criterion asks."""
    return point.test_metric if _metric(result) == "accuracy" else point.test_loss


def _scores(result: DimensionResult, method: str) -> dict[int, list[float]]:
    """Return accuracies or losses by d, ascending, of the runs that have one."""
    scores: dict[int, list[float]] = defaultdict(list)
    for point in result.curve:
        if point.method == method and (score := _score(result, point)) is not None:
            scores[point.d].append(score)
    return dict(sorted(scores.items()))


def _ends(result: DimensionResult, intervals: dict[str, DimensionEstimate]) -> tuple[float, float]:
    """Where on the axis d = 0 and d = D are drawn: a little outside all that lies between."""
    inner = [point.d for point in result.curve if point.method in ("predict", "measure") and point.d > 0]
    for interval in intervals.values():
        inner += [x for x in (interval.low, interval.value, interval.high) if x]
    low, high = (min(inner), max(inner)) if inner else (1, 100)
    # Room for the two ends beside the data, and at least a decade in all.
    gap = max((high / low) ** 0.09, 1.5)
    return low / gap, high * gap


def _draw_curves(axes: Axes, result: DimensionResult, left: float, right: float) -> None:
    predicted, measured, faint = (COLOURS[name] for name in ("predicted", "measured", "faint"))
    curve = _scores(result, "predict")
    if curve:
        d = list(curve)
        means = [np.mean(scores) for scores in curve.values()]
        low, high = np.array([np.quantile(scores, _BAND) for scores in curve.values()]).T
        axes.fill_between(d, low, high, color=predicted, alpha=0.18, linewidth=0)
        axes.plot(d, means, color=predicted, linewidth=2, label="predicted: mean, and 5–95 % of its runs")
    trials = [(d, score) for d, scores in _scores(result, "measure").items() for score in scores]
    if trials:
        axes.plot(*zip(*trials, strict=True), "o", color=measured, markersize=6, alpha=0.85, zorder=3)
        axes.plot([], [], "o", color=measured, markersize=6, label="measured: one dot a training run")
    full = [score for scores in _scores(result, "baseline").values() for score in scores]
    if full:
        axes.plot([right] * len(full), full, "s", color=measured, markersize=5.5, zorder=3, clip_on=False)
    axes.plot([left], [result.frozen], "D", color=faint, markersize=6.5, zorder=3, clip_on=False)
    for name in _intervals(result):
        for heights, dashes in ((result.baseline, "-"), (result.level, (0, (5, 3)))):
            if heights.get(name):
                axes.axhline(heights[name], color=COLOURS[name], linewidth=1.1, linestyle=dashes, alpha=0.8)
    axes.plot([], [], color=faint, linewidth=1.1, label="baseline: all dimensions")
    axes.plot([], [], color=faint, linewidth=1.1, linestyle=(0, (5, 3)), label=f"level of {_symbol(result)}")
    axes.set_ylabel(f"held-out {_metric(result)}")
    axes.figure.legend(loc="outside upper left", ncols=2, columnspacing=2.5)


def _draw_intervals(
    axes: Axes, intervals: dict[str, DimensionEstimate], result: DimensionResult, left: float, right: float
) -> None:
    middle = (left * right) ** 0.5
    for row, (name, interval) in enumerate(intervals.items()):
        colour = COLOURS[name]
        low = (
            left if not interval.low else interval.low
        )  # 0 is at the left edge, an end that is open at its side
        high = right if interval.high is None else max(interval.high, low)
        if interval.value is None and interval.low is None:
            low = high = middle  # nothing to draw but the words
        else:
            axes.plot([low, high], [row, row], color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt")
        if interval.high is None and low < high:
            axes.plot([right], [row], ">", color=colour, markersize=9, clip_on=False)
        if interval.value is not None:
            axes.plot([interval.value or left], [row], "o", color=colour, markersize=8, clip_on=False)
        words = estimate(interval) + ("" if interval.low is None else f"  ({span(interval)})")
        # On the side of the bar that has more room.
        after = right / high >= low / left
        axes.annotate(
            words,
            (high if after else low, row),
            xytext=(9 if after else -9, 0),
            textcoords="offset points",
            ha="left" if after else "right",
            va="center",
            color=colour,
        )
    axes.set_yticks(range(len(intervals)), [f"{name}" for name in intervals])
    for label, name in zip(axes.get_yticklabels(), intervals, strict=True):
        label.set_color(COLOURS[name])
    axes.set_ylim(max(len(intervals), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.grid(axis="y", visible=False)


def _draw_axes(curve: Axes, bars: Axes, result: DimensionResult, left: float, right: float) -> None:
    """One logarithmic axis with two ends that are not on it: the frozen model and full fine-tuning."""
    from matplotlib.ticker import FixedLocator, NullLocator

    curve.set_xscale("log")
    curve.set_xlim(left, right)
    decades = [10.0**k for k in range(-1, 12)]
    ticks = [x for x in decades if left * 1.25 < x < right / 1.25]
    if len(ticks) < 3:
        ticks = [m * x for x in decades for m in (1, 2, 5) if left * 1.25 < m * x < right / 1.25]
    labels = ["0\n(frozen)", *map(count, ticks), f"{count(result.size)}\n(all)"]
    bars.xaxis.set_major_locator(FixedLocator([left, *ticks, right]))
    bars.xaxis.set_minor_locator(NullLocator())
    bars.set_xticks([left, *ticks, right], labels)
    bars.set_xlabel("dimension d of the random subspace")
    curve.tick_params(axis="x", length=0, labelbottom=False)
    for axes in (curve, bars):  # the axis is broken beside each end
        axes.plot(
            [_BREAK, 1 - _BREAK],
            [0, 0],
            linestyle="none",
            marker=[(-1, -2), (1, 2)],
            markersize=9,
            color=COLOURS["faint"],
            transform=axes.transAxes,
            clip_on=False,
        )
    for name, interval in _intervals(result).items():
        if interval.value is not None:
            for axes in (curve, bars):
                axes.axvline(
                    interval.value or left,
                    color=COLOURS[name],
                    linewidth=1,
                    linestyle=":",
                    alpha=0.8,
                    zorder=1,
                )
    heights = [score for point in result.curve if (score := _score(result, point)) is not None]
    heights += [result.frozen, *filter(None, (*result.baseline.values(), *result.level.values()))]
    margin = 0.06 * (max(heights) - min(heights)) or 0.05
    top = 1.005 if _metric(result) == "accuracy" else np.inf
    curve.set_ylim(max(min(heights) - margin, 0), min(max(heights) + margin, top))


# -------------------------------------------------------------------------------------------------- the words


def _title(result: DimensionResult) -> str:
    named = [result.provenance.get(key) for key in ("task", "model")]
    names = [x.get("name") if isinstance(x, Mapping) else x for x in named]
    known = [str(name) for name in names if name]
    return "Intrinsic dimension" + (f": {' with '.join(known)}" if known else "")


def _symbol(result: DimensionResult) -> str:
    """d90, or what the criterion's fraction makes of it."""
    return f"d{100 * result.settings.get('criterion', {}).get('fraction', 0.9):g}"


def _headline(result: DimensionResult) -> Iterator[tuple[str, str, str]]:
    """Yield (name, what was done, what came out)."""
    for name, interval in _intervals(result).items():
        found = ("" if interval.value is None else "= ") + estimate(interval)
        if interval.low is not None:
            found += f" (90\N{NO-BREAK SPACE}% interval {span(interval)})"
        if interval.status.startswith("refused"):
            found = f"is not predicted, {interval.status}"
        yield name, _TITLES[name].capitalize(), f"{_symbol(result)} {found}"


def _fraction_rows(result: DimensionResult) -> list[dict[str, Any]]:
    """Return d50, d75 and d90 of each curve; the narrowest interval above 0 is the sharp one."""
    rows = []
    for name, found in result.fractions.items():
        sharp = sharpest(found)
        rows += [{"name": name, "symbol": s, "interval": x, "sharp": s == sharp} for s, x in found.items()]
    return rows


def _cost_rows(result: DimensionResult) -> list[dict[str, Any]]:
    rows = []
    measured = result.passes.get("measure")
    unit = measured / result.full_runs if measured and result.full_runs else None
    for name in _intervals(result):
        passes = result.passes.get(_VERBS[name])
        full_runs = passes / unit if unit and passes is not None else None
        rows.append(
            {
                "name": name,
                "title": _TITLES[name],
                "passes": passes,
                "full_runs": full_runs,
                "seconds": result.seconds.get(_VERBS[name]),
            }
        )
    return rows


def _quotient(top: int | float | None, bottom: int | float | None) -> float | None:
    return top / bottom if top is not None and bottom else None
