"""What theorems come to on a model, for people: one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.report.page import COLOURS, literal, new_figure, style
from deltatheory.results import figure
from deltatheory.testing.on_models import ModelChecks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["checks_figure"]

_LEFTMOST = 1e-6  # smaller tightness is drawn here


@figure.register(ModelChecks)
def checks_figure(result: ModelChecks) -> Figure:
    """Return the figure: tightness of every theorem that was measured, the tightest on top, 1 is attained."""
    rows = sorted((row for row in result.rows if row.holds is not None), key=lambda row: row.ratio)
    with style():
        drawing = new_figure(8.0, 1.2 + 0.26 * len(rows))
        axes = drawing.subplots()
        for name, colour, vacuous in (("says something", "predicted", False), ("vacuous", "faint", True)):
            part = [(max(row.ratio, _LEFTMOST), y) for y, row in enumerate(rows) if row.vacuous is vacuous]
            if part:
                axes.plot(*zip(*part, strict=True), "o", color=COLOURS[colour], label=name)
        axes.axvline(1.0, color="0.5", lw=1, ls=":")
        axes.set(xlabel="tightness: the smaller side over the larger", xscale="log")
        axes.set_yticks(range(len(rows)), [literal(f"{row.id} {row.name}") for row in rows])
        axes.legend(loc="lower right")
    return drawing
