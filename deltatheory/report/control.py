"""What the control view came to, for people: controllers, steering, diagnoses, and their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.control.design import ControlResult
from deltatheory.control.diagnosis import Diagnosis
from deltatheory.control.feedback.policies import TUNED
from deltatheory.control.feedback.steering import CLEAN, SteeringResult
from deltatheory.control.pontryagin import MaximumPrinciple
from deltatheory.control.reach.actuators import Ranking
from deltatheory.control.reach.gramian import Gramian
from deltatheory.control.solvers.base import Solution
from deltatheory.report.page import (
    COLOURS,
    NARROW,
    count,
    legend,
    literal,
    new_figure,
    page_files,
    plain_svg,
    style,
    titled,
    whole,
)
from deltatheory.results import Answer, Section, answered, drawn, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["control_figure", "diagnosis_figure", "steering_figure"]

_FAR = 0.5  # linearization error above which reachability and Gramian say little


@figure.register(ControlResult)
def control_figure(result: ControlResult, narrow: bool = False) -> Figure:
    """Return the figure: objective against passes, Gramian spectrum; energy, costates, residuals by layer."""
    first, second = COLOURS["predicted"], COLOURS["measured"]
    names = [literal(layer.name.replace("block ", "")) for layer in result.layers]
    places = range(len(names))
    with style():
        drawing = new_figure(NARROW, 10.0) if narrow else new_figure(9.0, 6.0)
        rows, columns = (4, 1) if narrow else (2, 2)
        loss, spectrum, energy, costate = drawing.subplots(rows, columns).flat
        passes = [row["passes"] for row in result.history]
        loss.plot(passes, [row["cost"] or None for row in result.history], color=first)
        loss.set(xlabel="passes over single examples", ylabel="objective (nats)", yscale="log")
        kept = result.spectrum[: result.rank]
        spectrum.plot(range(1, len(kept) + 1), kept, ".-", color=first)
        spectrum.set(xlabel="number of the eigenvalue", ylabel="of the output Gramian", yscale="log")
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
        for axes in (energy, costate):
            axes.set_xticks(places, names, rotation=30 if len(names) < 20 else 90)
        legend(drawing, 3)
    return drawing


@answered.register(ControlResult)
def _(result: ControlResult) -> Answer:
    reach = result.reachability
    unreached, far = reach["status"] != "converged", result.linearization_error > _FAR
    target = f"The least-norm control that brings every linearized margin to {reach['target_margin']:g}"
    least = (
        f"{target} does not exist: {reach['remedy']}"
        if unreached
        else f"{target} has energy {count(reach['energy'])}; the one found has {count(result.energy)}."
    )
    little = ": reachability and Gramian, which are those of the linearized network, say little there"
    error = (
        "At the controller found, the margins differ from the linearized ones by "
        f"{result.linearization_error:.0%} of their change{little if far else ''}."
    )
    layers = []
    for x in result.layers:
        numbers = (x.energy, x.costate, x.residual_at_zero, x.residual)
        layers.append((x.name, whole(x.coordinates), *map(count, numbers), f"{x.gramian_share:.0%}"))
    minimum = [
        (
            x.name,
            count(x.hamiltonian),
            x.no_minimum_condition or f"H within {x.minimum_gap:.2g} of its minimum",
        )
        for x in result.layers
    ]
    costs = [(name, count(n), count(result.seconds[name])) for name, n in result.passes.items()]
    return Answer(
        titled("Control", result),
        [
            (
                "measured",
                f"Test accuracy {result.test['accuracy']:.3f} under control, "
                f"{result.frozen['accuracy']:.3f} frozen",
            ),
            (
                "predicted",
                f"Solver {result.solver}: {result.status}, training loss {result.cost:.3g} after "
                f"{count(result.passes['solver'])} passes",
            ),
        ],
        Section(
            "What to know first",
            items=[*([f"The solver stopped: {result.remedy}"] if result.remedy else []), least, error],
        ),
        bool(result.remedy) or far or unreached,
        [
            Section(
                "Layers",
                columns=(
                    "step",
                    "coordinates",
                    "energy",
                    "costate",
                    "residual at 0",
                    "residual",
                    "Gramian share",
                ),
                rows=layers,
                brief=True,
            ),
            Section(
                "The minimum condition",
                columns=("step", "Hamiltonian", "minimum condition"),
                rows=minimum,
                remark="The residual is zero at every local minimum. That u_t minimizes the Hamiltonian as "
                "well is asked "
                "only where the step is affine and the cost convex in u_t: elsewhere it is false in general.",
            ),
            Section("What it cost", columns=("", "passes", "seconds"), rows=costs),
        ],
        "Loss against passes over single examples; eigenvalues of the output Gramian J Jᵀ of the margins at "
        "δ = 0; "
        "control energy by layer; norms of costates and of the residuals of the maximum principle, ∂H/∂u, "
        "before and "
        "after.",
    )


@figure.register(SteeringResult)
def steering_figure(result: SteeringResult, narrow: bool = False) -> Figure:
    """Return the figure: accuracy by disturbance, a dot for each controller."""
    names = [CLEAN, *result.disturbances]
    colours = [COLOURS[name] for name in ("measured", "predicted", "third", "fourth", "fifth", "faint")]
    with style():
        drawing = new_figure(NARROW if narrow else 9.0, 1.5 + 0.55 * len(names))
        axes = drawing.subplots()
        for i, controller in enumerate(result.settings):
            heights = [k + 0.12 * (i - (len(result.settings) - 1) / 2) for k in range(len(names))]
            accuracies = [result.accuracy(controller, name) for name in names]
            axes.plot(accuracies, heights, "o", color=colours[i % len(colours)], label=literal(controller))
        axes.set_yticks(range(len(names)), [*map(literal, names)])
        axes.set(xlabel="accuracy (share of the test texts)", ylim=(len(names) - 0.5, -0.5))
        legend(drawing, 2 if narrow else 5)
    return drawing


def _energy(result: SteeringResult, controller: str) -> str:
    own = [r.energy for r in result.rows if r.controller == controller and r.disturbance != CLEAN]
    return count(sum(own) / len(own))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


@answered.register(SteeringResult)
def _(result: SteeringResult) -> Answer:
    names, others = list(result.disturbances), [name for name in result.settings if name != TUNED]
    shares = {name: share for name in others if (share := result.recovered(name)) is not None}
    lost = {name: result.accuracy(TUNED) - result.accuracy(TUNED, name) for name in names}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] <= 0:
        fall = f"No disturbance takes accuracy from the tuned model ({result.accuracy(TUNED):.3f})"
    else:
        fall = f"Most is lost to {worst}, {result.accuracy(TUNED):.3f} to {result.accuracy(TUNED, worst):.3f}"
    best = max(shares, key=lambda name: shares[name]) if shares else None
    gives = "" if best is None else f"; {best} gives back most of what all take, {shares[best]:.0%}"
    harmful = [name for name, share in shares.items() if share < 0]
    return Answer(
        titled("Steering", result),
        [("", fall + gives)],
        Section(
            "What to know first",
            items=[f"{name} loses more than it gives back: recovered {shares[name]:.0%}" for name in harmful],
        ),
        bool(harmful),
        [
            Section(
                "Accuracy",
                columns=("controller", CLEAN, *names, "recovered", "energy", "added time"),
                rows=[
                    (
                        name,
                        *(f"{result.accuracy(name, one):.3f}" for one in (CLEAN, *names)),
                        "–" if name == TUNED else _share(result.recovered(name)),
                        _energy(result, name),
                        f"{result.latency[name]['added']:+.0%}",
                    )
                    for name in result.settings
                ]
                + [("chance", *[f"{result.chance:.3f}"] * (1 + len(names)), "–", "–", "–")],
                remark="recovered: of the accuracy that the disturbances take from the tuned model, the "
                "share that a "
                "controller gives back; below 0 it makes things worse. probe: what a linear classifier of "
                "the states tells, without control. energy: of a text, in the mean over disturbances. "
                "added time: of a batch, beside the tuned model.",
                brief=True,
            )
        ],
        "Accuracy of each controller without a disturbance (clean) and under each.",
    )


@drawn.register(SteeringResult)
def _(result: SteeringResult) -> dict[str, str]:
    drawing = plain_svg(steering_figure(result))
    return {"table.md": result.table() + "\n", "figure.svg": drawing, **page_files(result)}


@figure.register(Diagnosis)
def diagnosis_figure(result: Diagnosis, narrow: bool = False) -> Figure:
    """Return the figure: each number in units of its limit; right of the line is a fault."""
    rows = [x for x in result.findings if x.number is not None and x.limit]
    with style():
        drawing = new_figure(NARROW if narrow else 8.0, 1.2 + 0.35 * max(len(rows), 1))
        axes = drawing.subplots()
        for y, one in enumerate(rows):
            ratio = max((one.number or 0.0) / (one.limit or 1.0), 1e-3)
            axes.plot(ratio, y, "o", color=COLOURS["measured" if one.verdict == "found" else "predicted"])
        axes.axvline(1.0, color=COLOURS["faint"], lw=1, ls=":")
        axes.set(xscale="log", xlabel="times its limit (no unit)", ylim=(max(len(rows), 1) - 0.5, -0.5))
        faults = [one.fault.replace(" off", "\noff") if narrow else one.fault for one in rows]
        axes.set_yticks(range(len(rows)), [*map(literal, faults)])
    return drawing


@answered.register(Diagnosis)
def _(result: Diagnosis) -> Answer:
    found = result.found
    return Answer(
        titled("Diagnosis", result),
        [("measured" if found else "", result.verdict)],
        Section("What to do", items=[f"{one.fault}: {one.remedy}" for one in found]),
        bool(found),
        [
            Section(
                "What was tried",
                columns=("first steps of the run", "steps", "loss before", "loss after"),
                rows=[
                    (
                        f"with {one.change}" if one.change else "as it is",
                        str(one.steps),
                        f"{one.before:.3g}",
                        "not finite" if one.after is None else f"{one.after:.3g}",
                    )
                    for one in result.attempts
                ],
                remark="Mean cross-entropy of the training texts looked at, in nats.",
                brief=True,
            ),
            Section(
                "What was looked for",
                columns=("possible fault", "verdict", "what shows it"),
                rows=[(one.fault, one.verdict, one.says) for one in result.findings],
                tones=["measured" if one.verdict == "found" else "" for one in result.findings],
                remark="The most fundamental first: a later one means little where an earlier one was found.",
                brief=True,
            ),
        ],
        "The number that shows each fault, in units of its limit: right of the dotted line the fault is "
        "there.",
    )


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


@figure.register(Ranking)
def ranking_figure(ranking: Ranking) -> Figure:
    """Return the figure: predicted score and log-det gain of every place."""
    names = [literal(place.name) for place in ranking.places]
    with style():
        drawing = new_figure(8.0, 0.3 * len(names) + 1.2)
        left, right = drawing.subplots(1, 2)
        left.barh(names, [place.score for place in ranking.places])
        left.axvline(ranking.frozen, color=COLOURS["faint"], lw=1)
        left.set(xlabel="predicted score (line: frozen)")
        right.barh(names, [place.gain for place in ranking.places])
        right.set(xlabel="log det(I + W/ε)", yticks=[])
        for side in (left, right):
            side.invert_yaxis()
    return drawing
