"""What advice came to, for people: the ladder as a figure and in words."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from deltatheory.advice.result import Advice, Estimate
from deltatheory.report.page import COLOURS, NARROW, count, legend, literal, new_figure, style, titled, whole
from deltatheory.results import Answer, Section, answered, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["advice_figure"]

_OUTSIDE = 0.35  # how much is seen of what is outside the budget


def _ladder(advice: Advice) -> list[Estimate]:
    """Return the candidates by size, the smallest first."""
    return sorted(advice.ranked, key=lambda one: (one.parameters, one.score))


@figure.register(Advice)
def advice_figure(advice: Advice, narrow: bool = False) -> Figure:
    """Return the figure: expected scores against parameters, and what each gains over the one to take."""
    rows = _ladder(advice)
    with style():
        drawing = new_figure(NARROW if narrow else 9.0, 4.0 + 0.26 * len(rows))
        scores, gains = drawing.subplots(2, 1, height_ratios=[3.0, 0.6 + 0.26 * len(rows)])
        _draw_scores(scores, advice, rows)
        _draw_gains(gains, advice, rows, narrow)
        legend(drawing)
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
    axes.set(xscale="log", xlabel="tuned parameters", ylabel="accuracy, 90 % interval")


def _draw_gains(axes: Axes, advice: Advice, rows: list[Estimate], narrow: bool) -> None:
    """Draw what each candidate gains over the one to take, the smallest on top."""
    for y, one in enumerate(reversed(rows)):
        if one.difference is None:
            continue
        alpha, colour = 1.0 if one.within_budget else _OUTSIDE, _colour(advice, one)
        ends = [100 * one.difference.low, 100 * one.difference.high]
        axes.plot(ends, [y, y], lw=3, alpha=0.4 * alpha, color=colour, solid_capstyle="butt")
        axes.plot(100 * one.difference.value, y, "o", ms=4, alpha=alpha, color=colour)
    axes.axvline(1.0, color=COLOURS["faint"], lw=1, ls=":")
    labels = [one.label if narrow else f"{one.label} ({one.parameters:,})" for one in reversed(rows)]
    axes.set_yticks(
        range(len(rows)), [fill(literal(label), 18) if narrow else literal(label) for label in labels]
    )
    if narrow:
        axes.tick_params(axis="y", labelsize="x-small")
    axes.set(xlabel="accuracy points over it, 90 % interval")


@answered.register(Advice)
def _(advice: Advice) -> Answer:
    rows = _ladder(advice)
    tones = ["measured" if one.label == advice.winner else "" for one in rows]
    ladder, costs = [], []
    for one in rows:
        gain = None if one.label == advice.winner else one.difference
        points = gain and f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        rate = "–" if one.learning_rate is None else f"{one.learning_rate:.2g}"
        budget = "" if one.within_budget else "outside"
        scores = (f"{one.score:.3f}", f"{one.low:.3f}–{one.high:.3f}")
        ladder.append((one.label, f"{one.parameters:,}", *scores, points or "–", rate, budget))
        memory = f"{one.optimizer_bytes / 1e6:.3g}"
        chance = f"{gain.chance:.2f}" if gain else "–"
        costs.append((one.label, chance, memory, f"{one.seconds_per_step:.2g}"))
    spent = f"{count(advice.passes)} passes over single examples in {count(advice.seconds)} s"
    sections = [
        Section(
            "The ladder",
            columns=("candidate", "parameters", "score", "90 % interval", "points gained", "rate", "budget"),
            rows=ladder,
            tones=tones,
            remark=f"The frozen model has {advice.frozen:.3f}. {spent}; a backward pass counts 2.",
            brief=True,
        ),
        Section(
            "Trained",
            columns=("candidate", "accuracy", "unseen examples"),
            rows=[(run.label, f"{run.score:.3f}", whole(run.examples)) for run in advice.runs],
            brief=True,
        ),
        Section(
            "What each costs",
            columns=("candidate", "gains more than a point, with probability", "optimizer MB", "s/step"),
            rows=costs,
            tones=tones,
        ),
    ]
    nothing = "No candidate keeps to the budget: add smaller ones, or raise it"
    return Answer(
        titled("The smallest delta that suffices", advice),
        [("", str(advice.decision or nothing))],
        Section("What to know", items=advice.findings),
        advice.decision is None,
        sections,
        "Expected accuracy after training against the number of tuned parameters, with 90 % intervals, and "
        "what each "
        "candidate gains over the one to take (in the other colour): all are judged on the same examples, so "
        "differences are known better than scores. Dotted: one point. Faint: outside the budget. Crosses: "
        "trained.",
    )
