"""What advice came to, for people: one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.report.page import COLOURS, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deltatheory.advice.ranking import Advice

__all__ = ["advice_figure"]


def advice_figure(advice: Advice) -> Figure:
    """Return the figure: predicted score of every candidate with its interval, the most promising on top."""
    from matplotlib.figure import Figure

    with style():
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
                color=COLOURS["predicted"],
                solid_capstyle="butt",
            )
            axes.plot(one.score, y, "o", alpha=alpha, color=COLOURS["predicted"])
        axes.axvline(advice.frozen, color="0.5", lw=1, ls=":", label="frozen model")
        axes.set(xlabel="predicted accuracy, with 90 % interval")
        axes.set_yticks([y for y, _ in rows], [f"{one.label} ({one.parameters:,})" for _, one in rows])
        axes.legend(loc="lower right")
    return figure
