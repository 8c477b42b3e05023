"""What a run came to, for people: one figure and one self-contained page."""

from __future__ import annotations

import io
import json
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deltatheory.advice import Advice
    from deltatheory.dimension.criterion import Interval
    from deltatheory.dimension.result import DimensionResult

__all__ = ["advice_figure", "count", "dimension_figure", "dimension_page", "estimate", "span", "whole"]

# The page swaps each of these for its own colour of that name, so that one drawing is read on white and on
# black. They occur nowhere else in the drawing, and do as they are for a figure on white.
_COLOURS = {
    "predicted": "#2563eb",
    "measured": "#c2410c",
    "ink": "#26272b",
    "faint": "#6f7179",
    "grid": "#e4e5e9",
}
_VERBS = {"predicted": "predict", "measured": "measure"}
_TITLES = {"predicted": "predicted before training", "measured": "measured by training"}
_BAND = (0.05, 0.95)
_BREAK = 0.035  # where the axis is broken, from each end; all data lie further in
_LISTED = 12  # entries of a list that the page shows


def count(value: float | int | None) -> str:
    """Write a dimension or a number of passes so that it is read at a glance: 190, 12 400, 10.6 M."""
    if value is None:
        return "–"
    value = float(f"{value:.3g}" if abs(value) >= 10 else f"{value:.2g}")
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return whole(round(value)) if abs(value) >= 10 else f"{value:g}"


def whole(number: int) -> str:
    """Write a whole number in full, in groups of three: 10 646 784."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def estimate(interval: Interval) -> str:
    """Write the value of an interval, or why there is none."""
    if interval.value is not None:
        return count(interval.value)
    return "unknown" if interval.low is None else "not reached"


def span(interval: Interval) -> str:
    """Write a 90 % interval: "90–400", or "above 90" where it has no upper end."""
    if interval.low is None and interval.high is None:
        return "–"
    if interval.high is None:
        return f"above {count(interval.low)}"
    if interval.low is None:
        return f"below {count(interval.high)}"
    return f"{count(interval.low)}–{count(interval.high)}"


def dimension_figure(result: DimensionResult) -> Figure:
    """Return the figure: accuracy against d, predicted and measured, and below it both d90 on that axis."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(9.0, 5.6), layout="constrained")
        # Without pyplot there is no state to leave behind.
        intervals = _intervals(result)
        curve, bars = figure.subplots(
            2, 1, sharex=True, height_ratios=[4.2, 0.45 + 0.45 * max(1, len(intervals))]
        )
        left, right = _ends(result, intervals)
        _draw_curves(curve, result, left, right)
        _draw_intervals(bars, intervals, result, left, right)
        _draw_axes(curve, bars, result, left, right)
    return figure


def advice_figure(advice: Advice) -> Figure:
    """Return the figure: predicted score of every candidate with its interval, the most promising on top."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(8.0, 1.2 + 0.34 * len(advice.ranked)), layout="constrained")
        axes = figure.subplots()
        rows = list(enumerate(reversed(advice.ranked)))
        for y, one in rows:
            alpha = 1.0 if one.within_budget else 0.35
            axes.plot(
                [one.low, one.high],
                [y, y],
                lw=3,
                alpha=0.4 * alpha,
                color=_COLOURS["predicted"],
                solid_capstyle="butt",
            )
            axes.plot(one.score, y, "o", alpha=alpha, color=_COLOURS["predicted"])
        axes.axvline(advice.frozen, color="0.5", lw=1, ls=":", label="frozen model")
        axes.set(xlabel="predicted accuracy, with 90 % interval")
        axes.set_yticks([y for y, _ in rows], [f"{one.label} ({one.parameters:,})" for _, one in rows])
        axes.legend(loc="lower right")
    return figure


def dimension_page(result: DimensionResult) -> str:
    """Return the page: headline, what missed, figure, tables and how to get the numbers again."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("deltatheory"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    diagnostics = {
        key: value
        for key, value in result.diagnostics.items()
        if key not in ("missed", "checked", "assumptions")
    }
    intervals = _intervals(result)
    return environment.get_template("dimension.html").render(
        result=result,
        title=_title(result),
        symbol=_symbol(result),
        headline=list(_headline(result)),
        colours=_COLOURS,
        figure=Markup(_svg(dimension_figure(result))),
        missed=_sentences(result.diagnostics.get("missed")),
        checked=_sentences(result.diagnostics.get("checked")),
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
        assumptions=_sentences(result.diagnostics.get("assumptions")),
        trials=[point for point in result.curve if point.method != "predict"],
        predictions=[
            {"d": d, "runs": len(scores), "mean": np.mean(scores), "band": np.quantile(scores, _BAND)}
            for d, scores in _scores(result, "predict").items()
        ],
        details={
            "Diagnostics": [(name.replace("_", " "), value) for name, value in _flat(diagnostics)],
            "Settings": list(_flat(result.settings)),
            "Provenance": [row for row in _flat(result.provenance) if row[0] != "command"],
        },
        command=_command(result.provenance.get("command")),
        count=count,
        estimate=estimate,
        whole=whole,
        span=span,
    )


# ------------------------------------------------------------------------------------------------- the figure


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    ink, faint = _COLOURS["ink"], _COLOURS["faint"]
    with matplotlib.rc_context(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "font.family": "DejaVu Sans",  # the one that comes with matplotlib
            "font.size": 10,
            "text.color": ink,
            "axes.labelcolor": ink,
            "axes.edgecolor": faint,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": _COLOURS["grid"],
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "xtick.color": faint,
            "xtick.labelcolor": ink,
            "ytick.color": faint,
            "ytick.labelcolor": ink,
            "legend.frameon": False,
            "svg.fonttype": "path",
            "svg.hashsalt": "deltatheory",  # the same drawing, the same bytes
        }
    ):
        yield


def _intervals(result: DimensionResult) -> dict[str, Interval]:
    named = {"predicted": result.predicted, "measured": result.measured}
    return {name: interval for name, interval in named.items() if interval is not None}


def _scores(result: DimensionResult, method: str) -> dict[int, list[float]]:
    """Return accuracies by d, ascending, of the runs that have one."""
    scores: dict[int, list[float]] = defaultdict(list)
    for point in result.curve:
        if point.method == method and point.test_metric is not None:
            scores[point.d].append(point.test_metric)
    return dict(sorted(scores.items()))


def _ends(result: DimensionResult, intervals: dict[str, Interval]) -> tuple[float, float]:
    """Where on the axis d = 0 and d = D are drawn: a little outside all that lies between."""
    inner = [point.d for point in result.curve if point.method in ("predict", "measure") and point.d > 0]
    for interval in intervals.values():
        inner += [x for x in (interval.low, interval.value, interval.high) if x]
    low, high = (min(inner), max(inner)) if inner else (1, 100)
    # Room for the two ends beside the data, and at least a decade in all.
    gap = max((high / low) ** 0.09, 1.5)
    return low / gap, high * gap


def _draw_curves(axes: Axes, result: DimensionResult, left: float, right: float) -> None:
    predicted, measured, faint = (_COLOURS[name] for name in ("predicted", "measured", "faint"))
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
        for heights, style in ((result.baseline, "-"), (result.level, (0, (5, 3)))):
            if heights.get(name):
                axes.axhline(heights[name], color=_COLOURS[name], linewidth=1.1, linestyle=style, alpha=0.8)
    axes.plot([], [], color=faint, linewidth=1.1, label="baseline: all dimensions")
    axes.plot([], [], color=faint, linewidth=1.1, linestyle=(0, (5, 3)), label=f"level of {_symbol(result)}")
    axes.set_ylabel("held-out accuracy")
    axes.figure.legend(loc="outside upper left", ncols=2, columnspacing=2.5)


def _draw_intervals(
    axes: Axes, intervals: dict[str, Interval], result: DimensionResult, left: float, right: float
) -> None:
    middle = (left * right) ** 0.5
    for row, (name, interval) in enumerate(intervals.items()):
        colour = _COLOURS[name]
        low, high = interval.low or left, interval.high or right
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
        label.set_color(_COLOURS[name])
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
            color=_COLOURS["faint"],
            transform=axes.transAxes,
            clip_on=False,
        )
    for name, interval in _intervals(result).items():
        if interval.value is not None:
            for axes in (curve, bars):
                axes.axvline(
                    interval.value or left,
                    color=_COLOURS[name],
                    linewidth=1,
                    linestyle=":",
                    alpha=0.8,
                    zorder=1,
                )
    heights = [point.test_metric for point in result.curve if point.test_metric is not None]
    heights += [result.frozen, *filter(None, (*result.baseline.values(), *result.level.values()))]
    margin = 0.06 * (max(heights) - min(heights)) or 0.05
    curve.set_ylim(max(min(heights) - margin, 0), min(max(heights) + margin, 1.005))


def _svg(figure: Figure) -> str:
    """Return the drawing alone, with the colours of the page and a width that follows the window."""
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    head, rest = text.split(">", 1)
    kept = [part for part in head.split('" ') if not part.startswith(("width=", "height="))]
    return '" '.join(kept) + ' role="img" aria-label="Accuracy against the dimension of the subspace">' + rest


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
        yield name, _TITLES[name].capitalize(), f"{_symbol(result)} {found}"


def _sentences(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or []]


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


def _quotient(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for every leaf of nested settings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return
    if isinstance(value, list | tuple):
        shown = ", ".join(_leaf(item) for item in value[:_LISTED])
        rest = f", ... ({len(value)} values; all are in result.json)" if len(value) > _LISTED else ""
        yield prefix, shown + rest
    else:
        yield prefix, _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _command(command: Any) -> str:
    return command if isinstance(command, str) else shlex.join(command or [])
