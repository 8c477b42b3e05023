"""What a controller came to, for people: one figure and one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.report.page import COLOURS, command_line, flat, render, style, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deltatheory.control.design import ControlResult

__all__ = ["control_figure", "control_page"]


def control_figure(result: ControlResult) -> Figure:
    """Return the figure: objective against passes, Gramian spectrum; energy, costates, residuals by layer."""
    from matplotlib.figure import Figure

    first, second = COLOURS["predicted"], COLOURS["measured"]
    names = [layer.name.replace("block ", "") for layer in result.layers]
    places = range(len(names))
    with style():
        figure = Figure(figsize=(9.0, 6.0), layout="constrained")
        loss, spectrum, energy, costate = figure.subplots(2, 2).flat
        passes = [row["passes"] for row in result.history]
        loss.plot(passes, [row["cost"] or None for row in result.history], color=first)
        loss.set(xlabel="passes", ylabel="objective (loss and energy)", yscale="log")
        kept = result.spectrum[: result.rank]
        spectrum.plot(range(1, len(kept) + 1), kept, ".-", color=first)
        spectrum.set(xlabel="eigenvalue of the output Gramian", yscale="log")
        energy.bar(places, [layer.energy for layer in result.layers], color=first)
        energy.set(ylabel="control energy |u_t|²", xlabel="layer")
        costate.plot(
            places, [x.costate for x in result.layers], "o-", color=COLOURS["faint"], label="costate"
        )
        for label, style_, values in (
            ("residual at δ = 0", "--", [layer.residual_at_zero or None for layer in result.layers]),
            ("residual", "-", [layer.residual or None for layer in result.layers]),
        ):
            costate.plot(places, values, "s" + style_, color=second, label=label)
        costate.set(ylabel="norm", xlabel="layer", yscale="log")
        costate.legend()
        for axes in (energy, costate):
            axes.set_xticks(places, names, rotation=30 if len(names) < 20 else 90)
    return figure


def control_page(result: ControlResult) -> str:
    """Return the page: what came out, figure, layers, reachability and how to get the numbers again."""
    from markupsafe import Markup

    return render(
        "control.html",
        result=result,
        title=f"Control: {result.provenance['task']['name']} with {result.provenance['model']['name']}",
        figure=Markup(svg(control_figure(result), "Loss, spectrum, energy and costates by layer")),
        details={
            "Settings": list(flat(result.settings)),
            "Provenance": [row for row in flat(result.provenance) if row[0] != "command"],
        },
        command=command_line(result.provenance.get("command")),
    )
