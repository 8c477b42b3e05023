"""What the control view came to, for people: figures, and the self-contained page of a controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.control.design import ControlResult
from deltatheory.control.feedback.steering import CLEAN, SteeringResult
from deltatheory.control.pontryagin import MaximumPrinciple
from deltatheory.control.reach.actuators import Ranking
from deltatheory.control.reach.gramian import Gramian
from deltatheory.control.reach.prompts import PromptReachability
from deltatheory.control.solvers.base import Solution
from deltatheory.report.page import (
    COLOURS,
    command_line,
    flat,
    literal,
    new_figure,
    plain_svg,
    render,
    style,
    svg,
)
from deltatheory.results import PAGE, drawn, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["control_figure", "control_page"]


@figure.register(ControlResult)
def control_figure(result: ControlResult) -> Figure:
    """Return the figure: objective against passes, Gramian spectrum; energy, costates, residuals by layer."""
    first, second = COLOURS["predicted"], COLOURS["measured"]
    names = [literal(layer.name.replace("block ", "")) for layer in result.layers]
    places = range(len(names))
    with style():
        drawing = new_figure(9.0, 6.0)
        loss, spectrum, energy, costate = drawing.subplots(2, 2).flat
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
    return drawing


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


@drawn.register(ControlResult)
def _(result: ControlResult) -> dict[str, str]:
    return {PAGE: control_page(result)}


@figure.register(SteeringResult)
def steering_figure(result: SteeringResult) -> Figure:
    """Return the figure: accuracy by disturbance, a bar for each controller."""
    names = [CLEAN, *result.disturbances]
    width = 0.8 / len(result.settings)
    with style():
        drawing = new_figure(7.0, 3.2)
        axes = drawing.subplots()
        for i, controller in enumerate(result.settings):
            places = [k + (i - (len(result.settings) - 1) / 2) * width for k in range(len(names))]
            axes.bar(
                places, [result.accuracy(controller, n) for n in names], width, label=literal(controller)
            )
        axes.set(xticks=range(len(names)), xticklabels=[*map(literal, names)], ylabel="accuracy", ylim=(0, 1))
        axes.legend(fontsize="small", ncols=len(result.settings), loc="lower center")
    return drawing


@drawn.register(SteeringResult)
def _(result: SteeringResult) -> dict[str, str]:
    return {"table.md": result.table() + "\n", "figure.svg": plain_svg(steering_figure(result))}


@figure.register(Solution)
def solution_figure(solution: Solution) -> Figure:
    """Return the figure: the cost against passes, or against iterations without a network."""
    over = "passes" if solution.passes else "iteration"
    with style():
        drawing = new_figure(5.0, 3.2)
        axes = drawing.subplots()
        axes.plot([row[over] for row in solution.history], [row["cost"] for row in solution.history], lw=1.5)
        axes.set(xlabel=over, ylabel="cost", title=str(solution.status))
        if all(row["cost"] > 0 for row in solution.history):
            axes.set_yscale("log")
    return drawing


@figure.register(MaximumPrinciple)
def maximum_principle_figure(principle: MaximumPrinciple) -> Figure:
    """Return the figure: residuals and costate norms by step."""
    with style():
        drawing = new_figure(5.0, 3.2)
        axes = drawing.subplots()
        for label, form, values in (
            ("costate ‖p_t‖", "o-", principle.costate_norm),
            ("residual ‖∂H/∂u_t‖", "s-", principle.residual),
        ):
            axes.plot(range(len(values)), values, form, label=label)
        axes.set(xlabel="step t", yscale="log")
        axes.legend()
    return drawing


@figure.register(Gramian)
def gramian_figure(gramian: Gramian) -> Figure:
    """Return the figure: the spectrum, and the trace by part."""
    rank, shares = gramian.rank(), gramian.shares()
    with style():
        drawing = new_figure(8.0, 3.0)
        left, right = drawing.subplots(1, 2)
        left.semilogy(range(1, rank + 1), gramian.eigenvalues[:rank].cpu(), ".-")
        left.set(xlabel="eigenvalue", title="Gramian spectrum")
        right.barh([*map(literal, shares)], list(shares.values()))
        right.set(xlabel="share of the trace")
        right.invert_yaxis()
    return drawing


@figure.register(PromptReachability)
def prompts_figure(found: PromptReachability) -> Figure:
    """Return the figure: the share reached against the number of tokens."""
    shares = [found.share(k) for k in found.lengths]
    edges = [found.interval(k) for k in found.lengths]
    below = [share - low for share, (low, _) in zip(shares, edges, strict=True)]
    above = [high - share for share, (_, high) in zip(shares, edges, strict=True)]
    with style():
        drawing = new_figure(5.0, 3.2)
        axes = drawing.subplots()
        axes.errorbar(found.lengths, shares, yerr=[below, above], fmt="o-", capsize=3)
        axes.set(xlabel=f"tokens of the {found.kind}", ylabel="share reached (at least)", ylim=(0, 1.02))
    return drawing


@figure.register(Ranking)
def ranking_figure(ranking: Ranking) -> Figure:
    """Return the figure: predicted score and log-det gain of every place."""
    names = [literal(place.name) for place in ranking.places]
    with style():
        drawing = new_figure(8.0, 0.3 * len(names) + 1.2)
        left, right = drawing.subplots(1, 2)
        left.barh(names, [place.score for place in ranking.places])
        left.axvline(ranking.frozen, color="0.5", lw=1)
        left.set(xlabel="predicted score (line: frozen)")
        right.barh(names, [place.gain for place in ranking.places])
        right.set(xlabel="log det(I + W/ε)", yticks=[])
        for side in (left, right):
            side.invert_yaxis()
    return drawing
