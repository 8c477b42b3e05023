"""What advice came to, for people: one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.advice.result import Advice
from deltatheory.report.page import COLOURS, literal, new_figure, plain_svg, style
from deltatheory.results import drawn, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["advice_figure"]


@figure.register(Advice)
def advice_figure(advice: Advice) -> Figure:
    """Return the figure: predicted score of every candidate with its interval, the most promising on top."""
    with style():
        drawing = new_figure(8.0, 1.2 + 0.34 * len(advice.ranked))
        axes = drawing.subplots()
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
        axes.set_yticks(
            [y for y, _ in rows], [literal(f"{one.label} ({one.parameters:,})") for _, one in rows]
        )
        axes.legend(loc="lower right")
    return drawing


@drawn.register(Advice)
def _(advice: Advice) -> dict[str, str]:
    return {"advice.svg": plain_svg(advice_figure(advice))}
