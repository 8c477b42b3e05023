"""What theorems come to on a model, for people: how tight they are, in a figure and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.report.page import COLOURS, NARROW, legend, literal, new_figure, style, titled
from deltatheory.results import Answer, Section, answered, figure
from deltatheory.testing.on_models import ModelCheck, ModelChecks
from deltatheory.theorems import get_theorem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["checks_figure"]

_LEFTMOST = 1e-6  # smaller tightness is drawn here
_STATED = 5  # theorems whose statements a terminal shows
_SIGN = {"upper": "≤", "tight": "≤", "lower": "≥", "identity": "="}


@figure.register(ModelChecks)
def checks_figure(result: ModelChecks, narrow: bool = False) -> Figure:
    """Return the figure: tightness of every theorem that was measured, the tightest on top, 1 is attained."""
    rows = sorted((row for row in result.rows if row.holds is not None), key=lambda row: row.ratio)
    with style():
        drawing = new_figure(NARROW if narrow else 8.0, 1.4 + 0.26 * len(rows))
        axes = drawing.subplots()
        for name, colour, vacuous in (("says something", "predicted", False), ("vacuous", "faint", True)):
            part = [(max(row.ratio, _LEFTMOST), y) for y, row in enumerate(rows) if row.vacuous is vacuous]
            if part:
                axes.plot(*zip(*part, strict=True), "o", color=COLOURS[colour], label=name)
        axes.axvline(1.0, color=COLOURS["faint"], lw=1, ls=":")
        axes.set(xlabel="tightness: the smaller side over the larger (no unit)", xscale="log")
        axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
        labels = [row.id if narrow else f"{row.id} {row.name}" for row in rows]
        axes.set_yticks(range(len(rows)), [*map(literal, labels)])
        legend(drawing)
    return drawing


def _verdict(row: ModelCheck) -> str:
    if row.holds is None:
        return "not measured"
    if not row.holds:
        return "VIOLATED"
    return "vacuous" if row.vacuous else "holds"


def _sentence(rows: list[ModelCheck]) -> str:
    """Count the verdicts; of one theorem say it whole."""
    if len(rows) == 1 and rows[0].holds is not None:
        (row,) = rows
        verdict = {"holds": "holds on this model", "vacuous": "holds on this model, and says nothing there"}
        said = verdict.get(_verdict(row), "is VIOLATED on this model")
        sides = f"{row.left:.3g} {_SIGN[row.kind]} {row.right:.3g}"
        return f"{row.id} ({row.name}) {said}: {sides}, tightness {row.ratio:.2g}"
    kinds = {
        "VIOLATED": "VIOLATED",
        "holds": "true and telling",
        "vacuous": "true but vacuous",
        "not measured": "not measured",
    }
    parts = []
    for verdict, said in kinds.items():
        ids = [row.id for row in rows if _verdict(row) == verdict]
        if ids:
            parts.append(f"{', '.join(ids) if len(rows) <= _STATED else len(ids)} {said}")
    return f"Of {len(rows)} theorems on this model: {'; '.join(parts)}"


@answered.register(ModelChecks)
def _(result: ModelChecks) -> Answer:
    rows = list(result.rows)
    violated = [row.id for row in rows if row.holds is False]
    checked, statements = [], []
    for row in rows:
        theorem = get_theorem(row.id)
        sides = ["–" if value != value else f"{value:.3g}" for value in (row.left, row.right, row.ratio)]
        relation = f"{sides[0]} {_SIGN[row.kind]} {sides[1]}" if row.holds is not None else "–"
        checked.append((f"{row.id} {row.name}", relation, sides[2], _verdict(row), row.hypotheses))
        symbols = f"In symbols, left {_SIGN[row.kind]} right: {theorem.latex}"
        statements.append(f"{row.id}: {theorem.words}. {symbols}. How it was checked: {row.status}")
    return Answer(
        titled("Theorems on a model", result),
        [("", _sentence(rows))],
        Section(
            "Violated beyond rounding" if violated else "What to know",
            items=[
                *([", ".join(violated)] if violated else []),
                "Left and right are the two sides of the statement, both measured on this model at δ = 0; "
                "tightness is "
                "the smaller side over the larger: 1 is attained, below 0.01 the bound is vacuous",
            ],
        ),
        bool(violated),
        [
            Section(
                "Both sides",
                columns=("theorem", "left and right", "tightness", "verdict", "hypotheses here"),
                rows=checked,
                brief=True,
            ),
            Section("What was checked, and how it was proved", items=statements, brief=len(rows) <= _STATED),
        ],
        "How near the two sides of each statement come on this model. At the dotted line they meet.",
    )
