"""What an intrinsic-dimension run came to, for people: one figure and one self-contained page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.report.page import COLOURS, NARROW, count, flat, new_figure, sentences, style, titled, whole
from deltatheory.results import Answer, Section, answered, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dimension_figure", "estimate", "sharpest", "span"]

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
def dimension_figure(result: DimensionResult, narrow: bool = False) -> Figure:
    """Return the figure: the score against d, predicted and measured, and below it both d90 on that axis."""
    intervals = _intervals(result)
    with style():
        drawing = new_figure(NARROW if narrow else 9.0, 5.6)
        curve, bars = drawing.subplots(
            2, 1, sharex=True, height_ratios=[4.2, 0.45 + 0.45 * max(1, len(intervals))]
        )
        left, right = _ends(result, intervals)
        _draw_curves(curve, result, left, right)
        _draw_intervals(bars, intervals, result, left, right)
        _draw_axes(curve, bars, result, left, right, narrow)
        drawing.legend(loc="outside upper left", ncols=1 if narrow else 2, columnspacing=2.5)
    return drawing


@answered.register(DimensionResult)
def _(result: DimensionResult) -> Answer:
    missed = sentences(result.diagnostics.get("missed"))
    return Answer(
        titled("Intrinsic dimension", result),
        list(_headline(result)),
        _note(result, missed),
        bool(missed),
        list(_sections(result)),
        f"Held-out {_metric(result)} against the dimension of the random subspace that training may move "
        f"in. At the "
        "left edge is the frozen model, at the right edge full fine-tuning (squares: training runs). Below, "
        f"{_symbol(result)} with its 90 % interval; an arrow means that its upper end lies above every "
        f"dimension tried.",
    )


def _note(result: DimensionResult, missed: list[str]) -> Section:
    if missed:
        return Section("What missed", items=missed)
    if checked := sentences(result.diagnostics.get("checked")):
        return Section("What missed", "Nothing. Checked and passed:", checked)
    values = ", ".join(f"{name} ({value})" for name, value in _diagnostics(result))
    return Section(
        "What missed", f"Nothing. Checked and within bounds: {values}." if values else "Nothing was checked."
    )


def _diagnostics(result: DimensionResult) -> list[tuple[str, str]]:
    told = ("missed", "checked", "assumptions")
    rest = {key: value for key, value in result.diagnostics.items() if key not in told}
    return [(name.replace("_", " "), value) for name, value in flat(rest)]


def _sections(result: DimensionResult) -> Iterator[Section]:
    """Yield the tables and what the words in them mean."""
    intervals, symbol, metric = _intervals(result), _symbol(result), _metric(result)
    rows = []
    for name, interval in intervals.items():
        heights = [f"{x[name]:.3f}" if name in x else "–" for x in (result.level, result.baseline)]
        rows.append((_TITLES[name], estimate(interval), span(interval), *heights, interval.status))
    values = [getattr(intervals.get(name), "value", None) for name in ("predicted", "measured")]
    if (ratio := _quotient(*values)) is not None:
        rows.append(("predicted / measured", count(ratio), "", "", "", ""))
    columns = ("", symbol, "90 % interval", "level", "baseline", "status")
    yield Section(symbol, columns=columns, rows=rows, tones=list(intervals), brief=True)
    found = _fraction_rows(result)
    if found:
        yield Section(
            "Other fractions of the same curve",
            columns=("", "", "d", "90 % interval", ""),
            rows=[row for _, row in found],
            tones=[name for name, _ in found],
            brief=True,
        )
    yield Section(
        "What it cost",
        columns=("", "passes", "full fine-tuning runs", "seconds"),
        rows=_cost_rows(result),
        tones=list(intervals),
        remark="A pass is one example through the network forward; a backward pass counts 2 of them.",
        brief=True,
    )
    yield Section(f"What {symbol} means here", _meaning(result))
    if assumptions := sentences(result.diagnostics.get("assumptions")):
        yield Section("Assumptions", items=assumptions)
    if runs := _runs(result):
        yield runs
    curve = []
    for d, scores in _scores(result, "predict").items():
        low, high = np.quantile(scores, _BAND)
        curve.append((whole(d), str(len(scores)), f"{np.mean(scores):.3f}", f"{low:.3f}–{high:.3f}"))
    if curve:
        head = ("d", "runs", f"mean {metric}", "5–95 % of runs")
        yield Section("Predicted curve", columns=head, rows=curve, folded=True)
    if diagnostics := _diagnostics(result):
        yield Section("Diagnostics", columns=("", ""), rows=diagnostics, folded=True)


def _runs(result: DimensionResult) -> Section | None:
    """Return the table of training runs, without columns in which nothing stands."""
    trials = [point for point in result.curve if point.method != "predict"]
    heads = {
        "training loss": "train_loss",
        "training accuracy": "train_metric",
        "held-out accuracy": "test_metric",
        "held-out loss": "test_loss",
    }
    values = {head: [getattr(point, name) for point in trials] for head, name in heads.items()}
    kept = {head: cells for head, cells in values.items() if any(x is not None for x in cells)}
    rows = [
        (
            point.method,
            whole(point.d),
            str(point.seed),
            *("–" if cells[i] is None else f"{cells[i]:.3f}" for cells in kept.values()),
        )
        for i, point in enumerate(trials)
    ]
    return Section("Runs", columns=("method", "d", "seed", *kept), rows=rows) if rows else None


def _meaning(result: DimensionResult) -> str:
    """Say what is counted, and from where."""
    criterion, metric = result.settings.get("criterion", {}), _metric(result)
    fraction = criterion.get("fraction", 0.9)
    steps = result.settings.get("training", result.settings).get("steps")
    if metric == "loss":
        level = f"{100 * fraction:g} % of the fall of the loss from the frozen model to the baseline"
    elif criterion.get("of") == "gain":
        level = f"frozen + {fraction:g} · (baseline − frozen)"
    elif criterion.get("corrected"):
        level = f"chance + {fraction:g} · (baseline − chance)"
    else:
        level = f"{100 * fraction:g} % of the baseline"
    at_best = " (at the best scale of the logits)" if metric == "loss" else ""
    budget = f", with a budget of {steps} steps for every run" if steps else ""
    baseline = (
        f"the accuracy given, {criterion['baseline']:g}"
        if criterion.get("baseline")
        else "the model's own full fine-tuning with the same budget; for the prediction, its linearized "
        "counterpart "
        "without a limit on d"
    )
    constant = f"; always answering with the commonest class has {result.chance:.3f}"
    return (
        f"{_symbol(result)} is the smallest dimension d of a random subspace of the D = "
        f"{whole(result.size)} parameters "
        f"in which training reaches {level} in held-out {metric}{at_best}{budget}. The baseline is "
        f"{baseline}. The "
        f"frozen model has {metric} {result.frozen:.3f}{constant if metric == 'accuracy' else ''}. Another "
        f"definition "
        "or budget gives another number."
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


def _draw_axes(
    curve: Axes, bars: Axes, result: DimensionResult, left: float, right: float, narrow: bool
) -> None:
    """One logarithmic axis with two ends that are not on it: the frozen model and full fine-tuning."""
    from matplotlib.ticker import FixedLocator, NullLocator

    curve.set_xscale("log")
    curve.set_xlim(left, right)
    decades = [10.0**k for k in range(-1, 12)]
    ticks = [x for x in decades if left * 1.25 < x < right / 1.25]
    if len(ticks) < 3:
        ticks = [m * x for x in decades for m in (1, 2, 5) if left * 1.25 < m * x < right / 1.25]
    if narrow:
        ticks = ticks[:: -(-len(ticks) // 3)]
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


def _symbol(result: DimensionResult) -> str:
    """d90, or what the criterion's fraction makes of it."""
    return f"d{100 * result.settings.get('criterion', {}).get('fraction', 0.9):g}"


def _headline(result: DimensionResult) -> Iterator[tuple[str, str]]:
    """Yield name and what came out, of what was done."""
    for name, interval in _intervals(result).items():
        found = ("" if interval.value is None else "= ") + estimate(interval)
        if interval.low is not None:
            found += f" (90\N{NO-BREAK SPACE}% interval {span(interval)})"
        if interval.status.startswith("refused"):
            found = f"is not predicted, {interval.status}"
        yield name, f"{_TITLES[name].capitalize()}: {_symbol(result)} {found}"


def _fraction_rows(result: DimensionResult) -> list[tuple[str, tuple[str, ...]]]:
    """Return d50, d75 and d90 of each curve; the narrowest interval above 0 is the sharp one."""
    rows = []
    for name, found in result.fractions.items():
        sharp = sharpest(found) if len(found) > 1 else None
        for symbol, x in found.items():
            told = "the sharpest" if symbol == sharp else ""
            rows.append((name, (_TITLES[name], symbol, estimate(x), span(x), told)))
    return rows


def _cost_rows(result: DimensionResult) -> list[tuple[str, str, str, str]]:
    rows = []
    measured = result.passes.get("measure")
    unit = measured / result.full_runs if measured and result.full_runs else None
    for name in _intervals(result):
        passes, seconds = (costs.get(_VERBS[name]) for costs in (result.passes, result.seconds))
        full_runs = passes / unit if unit and passes is not None else None
        rows.append((_TITLES[name], count(passes), count(full_runs), count(seconds)))
    saved = [_quotient(x.get("measure"), x.get("predict")) for x in (result.passes, result.seconds)]
    if saved[0] is not None:
        rows.append(("measured / predicted", count(saved[0]), "", count(saved[1])))
    return rows


def _quotient(top: int | float | None, bottom: int | float | None) -> float | None:
    return top / bottom if top is not None and bottom else None
