"""What advice came to, for people: one figure of the ladder, and one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.advice.result import Advice, Estimate
from deltatheory.report.page import COLOURS, command_line, flat, literal, new_figure, render, style, svg
from deltatheory.results import PAGE, drawn, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["advice_figure", "advice_page", "ladder"]

_OUTSIDE = 0.35  # how much is seen of what is outside the budget


def ladder(advice: Advice) -> list[Estimate]:
    """Return the candidates by size, the smallest first."""
    return sorted(advice.ranked, key=lambda one: (one.parameters, one.score))


@figure.register(Advice)
def advice_figure(advice: Advice) -> Figure:
    """Return the figure: expected scores against parameters, and what each gains over the one to take."""
    rows = ladder(advice)
    with style():
        drawing = new_figure(9.0, 4.0 + 0.26 * len(rows))
        scores, gains = drawing.subplots(2, 1, height_ratios=[3.0, 0.6 + 0.26 * len(rows)])
        _draw_scores(scores, advice, rows)
        _draw_gains(gains, advice, rows)
    return drawing


def _colour(advice: Advice, one: Estimate) -> str:
    return COLOURS["measured" if one.label == advice.winner else "predicted"]


def _draw_scores(axes: Axes, advice: Advice, rows: list[Estimate]) -> None:
    """Draw scores with intervals against parameters, and runs as crosses."""
    for one in rows:
        alpha, colour = 1.0 if one.within_budget else _OUTSIDE, _colour(advice, one)
        axes.plot([one.parameters] * 2, [one.low, one.high], lw=2, alpha=0.4 * alpha, color=colour)
        axes.plot(one.parameters, one.score, "o", ms=5, alpha=alpha, color=colour)
        if one.label == advice.winner:
            axes.annotate(
                literal(one.label),
                (one.parameters, one.score),
                xytext=(6, -12),
                textcoords="offset points",
                color=colour,
            )
    sizes = {one.label: one.parameters for one in rows}
    for number, run in enumerate(advice.runs):
        axes.plot(sizes[run.label], run.score, "x", color=COLOURS["ink"], label=None if number else "trained")
    axes.axhline(advice.frozen, color=COLOURS["faint"], lw=1, ls=":", label="frozen model")
    axes.set(xscale="log", xlabel="parameters", ylabel="accuracy, 90 % interval")
    axes.legend(loc="lower right")


def _draw_gains(axes: Axes, advice: Advice, rows: list[Estimate]) -> None:
    """Draw what each candidate gains over the one to take, the smallest on top."""
    for y, one in enumerate(reversed(rows)):
        if one.difference is None:
            continue
        alpha, colour = 1.0 if one.within_budget else _OUTSIDE, _colour(advice, one)
        ends = [100 * one.difference.low, 100 * one.difference.high]
        axes.plot(ends, [y, y], lw=3, alpha=0.4 * alpha, color=colour, solid_capstyle="butt")
        axes.plot(100 * one.difference.value, y, "o", ms=4, alpha=alpha, color=colour)
    axes.axvline(1.0, color=COLOURS["faint"], lw=1, ls=":")
    axes.set_yticks(
        range(len(rows)), [literal(f"{one.label} ({one.parameters:,})") for one in reversed(rows)]
    )
    axes.set(xlabel="points gained over the one to take, 90 % interval; dotted: one point")


@drawn.register(Advice)
def _(advice: Advice) -> dict[str, str]:
    return {PAGE: advice_page(advice)}


def advice_page(advice: Advice) -> str:
    """Return the page: the sentence, what to know, the ladder as a figure and a table."""
    from markupsafe import Markup

    about = advice.provenance
    names = [(about.get(key) or {}).get("name") for key in ("task", "model")]
    settings = about.get("settings", {})
    return render(
        "advice.html",
        advice=advice,
        title="The smallest delta that suffices"
        + (f": {' with '.join(map(str, names))}" if all(names) else ""),
        rows=ladder(advice),
        figure=Markup(svg(advice_figure(advice), "Expected scores of the candidates against their size")),
        details={
            "Settings": list(flat(settings)),
            "Provenance": list(flat({k: v for k, v in about.items() if k not in ("settings", "command")})),
        },
        command=command_line(about.get("command")),
    )
