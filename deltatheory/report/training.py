"""What a training and a trained adapter came to, for people: figures and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.adapters import Explanation
from deltatheory.report.page import COLOURS, count, legend, literal, panels, style, titled, whole
from deltatheory.results import Answer, Section, answered, figure
from deltatheory.training import HeldOutScores, TrainingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["explanation_figure", "training_figure"]

_SHOWN = 20  # classes or modules that a terminal and a figure name
_SMOOTHED = 20  # parts of a run over which the loss is averaged


@figure.register(TrainingResult)
def training_figure(result: TrainingResult, narrow: bool = False) -> Figure:
    """Return the figure: the loss by step, and the score beside what it is compared with."""
    with style():
        drawing, (loss, scores) = panels(9.0, (3.2, 2.2) if narrow else (3.4, 3.4), narrow)
        steps = range(1, len(result.losses) + 1)
        loss.plot(steps, result.losses, color=COLOURS["faint"], lw=0.8, label="each step")
        width = max(1, len(result.losses) // _SMOOTHED)
        ends = range(width, len(result.losses) + 1, width)
        means = [sum(result.losses[end - width : end]) / width for end in ends]
        loss.plot(ends, means, color=COLOURS["predicted"], label=f"mean of {width} steps")
        dev = [(row["step"], row["loss"]) for row in result.dev if row.get("loss") is not None]
        if dev:
            loss.plot(*zip(*dev, strict=True), "o", color=COLOURS["measured"], label="dev split")
        loss.set(xlabel="step", ylabel="loss (nats)")
        _draw_scores(scores, _compared(result))
        legend(drawing, 1 if narrow else 3)
    return drawing


def _compared(result: TrainingResult) -> list[tuple[str, float, float | None, float | None]]:
    """Return what a score is compared with: name, score, and its interval."""
    scores, rows = result.scores, []
    if scores is not None:
        rows.append(("this delta", scores.value, scores.low, scores.high))
        if result.full is not None and result.full.test is not None:
            name = "full fine-tuning" + (", test split" if scores.trainings > 1 else "")
            rows.append((name, result.full.test[scores.metric], None, None))
        rows.append(("frozen model", scores.frozen, None, None))
        if scores.constant is not None:
            rows.append((f"always {scores.answer!r}", scores.constant, None, None))
    return rows


def _draw_scores(axes: Axes, rows: list[tuple[str, float, float | None, float | None]]) -> None:
    for y, (_, value, low, high) in enumerate(rows):
        colour = COLOURS["faint" if y else "measured"]
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], lw=4, alpha=0.35, color=colour, solid_capstyle="butt")
        axes.plot(value, y, "o", color=colour)
    names = [name if len(name) < 24 else name[:22] + "…" for name, *_ in rows]
    axes.set_yticks(range(len(rows)), [*map(literal, names)])
    axes.set(xlabel="test score, 90 % interval (share)", ylim=(max(len(rows), 1) - 0.5, -0.5))


def _doubts(scores: HeldOutScores) -> list[str]:
    """Say where a score is no better than what costs nothing, and which classes are lost."""
    doubts = []
    for name, other in (
        (f"always answering {scores.answer!r}", scores.constant),
        ("the frozen model", scores.frozen),
    ):
        if other is None:
            continue
        said = f"{name} has {other:.3f}, the trained delta {scores.value:.3f}"
        if scores.value <= other:
            doubts.append(f"Does not beat {name}: {said}.")
        elif scores.low is not None and scores.low <= other:
            doubts.append(f"May not beat {name}: {said}, with a 90 % interval from {scores.low:.3f}.")
    lost = [repr(one.name) for one in scores.classes if one.texts and not one.recall]
    if lost:
        doubts.append(f"No text is answered right of {len(lost)} classes: {', '.join(lost[:_SHOWN])}.")
    return doubts


@answered.register(TrainingResult)
def _(result: TrainingResult) -> Answer:
    scores = result.scores
    if result.test is None:
        said = f"Training {result.status}"
    elif scores is None:
        said = "Test " + ", ".join(f"{name} {value:.3f}" for name, value in result.test.items())
    else:
        name = scores.metric.replace("_", " ")
        said = f"Test {name} {scores.value:.3f}"
        if scores.low is not None:
            said += f" (90 % interval {scores.low:.3f}–{scores.high:.3f})"
        held = f", each held out from one of {scores.trainings} trainings" if scores.trainings > 1 else ""
        said += f" on {whole(scores.texts)} texts{held}; the frozen model has {scores.frozen:.3f}"
        if scores.constant is not None:
            said += f", always answering {scores.answer!r} {scores.constant:.3f}"
    doubts = _doubts(scores) if scores is not None else []
    if result.test is None:
        doubts = [f"There is no δ to use: {result.status}."]
    return Answer(
        titled(f"Training of {result.settings['delta']['delta']}", result),
        [("measured", said)],
        Section("Warning", items=doubts),
        bool(doubts),
        _training_sections(result),
        "The loss by step, and the score on the test split beside what it is compared with.",
    )


def _training_sections(result: TrainingResult) -> list[Section]:
    scores, sections = result.scores, []
    if scores is not None:
        rows = []
        for name, value, low, high in _compared(result):
            f1 = "–" if low is None or scores.macro_f1 is None else f"{scores.macro_f1:.3f}"
            rows.append((name, f"{value:.3f}", "–" if low is None else f"{low:.3f}–{high:.3f}", f1))
        head = ("", scores.metric.replace("_", " "), "90 % interval", "macro F1")
        where = "On the test split"
        if scores.trainings > 1:
            where = f"On all texts, each held out from one of {scores.trainings} trainings"
        sections.append(Section(where, columns=head, rows=rows, tones=["measured"], brief=True))
    sections.append(
        Section(
            "What it costs",
            columns=("", "this delta", "full fine-tuning", "ratio"),
            rows=_cost_rows(result),
            remark=f"{count(result.passes)} passes over single examples in {count(result.seconds)} s.",
            brief=True,
        )
    )
    if scores is not None and scores.classes:
        by_class = [
            (x.name, f"{x.precision:.2f}", f"{x.recall:.2f}", f"{x.f1:.2f}", whole(x.texts))
            for x in scores.classes
        ]
        head = ("class", "precision", "recall", "F1", "texts")
        sections.append(Section("By class", columns=head, rows=by_class, brief=len(by_class) <= _SHOWN))
    if result.dev:
        names = [name for name in result.dev[0] if name != "step"]
        evaluations = [(str(row["step"]), *(f"{row[name]:.3f}" for name in names)) for row in result.dev]
        sections.append(Section("Dev split", columns=("step", *names), rows=evaluations, folded=True))
    return sections


def _cost_rows(result: TrainingResult) -> list[tuple[str, str, str, str]]:
    kinds = {
        "tuned parameters": ("tuned_parameters", ",.0f"),
        "optimizer state, bytes": ("optimizer_state_bytes", ",.0f"),
        "seconds a step": ("seconds_per_step", ".2g"),
    }
    if result.settings["device"] != "cpu":  # there a process has one high-water mark for both runs
        kinds["peak memory, bytes"] = ("peak_memory", ",.0f")
    rows: list[tuple[str, str, str, str]] = []
    for label, (name, form) in kinds.items():
        values = [getattr(costs, name, None) for costs in (result, result.full)]
        mine, full = ("–" if value is None else format(value, form) for value in values)
        ratio = f"{values[0] / values[1]:.2g}" if values[0] is not None and values[1] else "–"
        rows.append((label, mine, full, ratio))
    return rows


@figure.register(Explanation)
def explanation_figure(result: Explanation, narrow: bool = False) -> Figure:
    """Return the figure: what truncations keep of the effect, and how far each module moves."""
    rows = list(enumerate(result.modules))
    named = len(rows) <= 2 * _SHOWN
    height = 1.4 + (0.24 * len(rows) if named else 6.0)
    with style():
        drawing, (kept, moved) = panels(9.0, (2.8, height if narrow else max(3.4, height)), narrow)
        if result.curve:
            kept.plot(*zip(*sorted(result.curve), strict=True), "o-", color=COLOURS["predicted"])
        if result.kept_rank is not None and result.effect_kept is not None:
            label = "truncated adapter, test split"
            kept.plot(result.kept_rank, result.effect_kept, "D", color=COLOURS["measured"], label=label)
        kept.set(xlabel="total rank", ylabel="share of the effect, dev split")
        moved.plot(
            [one.movement or 0.0 for one in result.modules],
            [y for y, _ in rows],
            "o",
            ms=4,
            color=COLOURS["predicted"],
        )
        moved.set(xlabel="movement ‖ΔW‖ / ‖W₀‖ (no unit)", ylim=(max(len(rows), 1) - 0.5, -0.5))
        names = [
            one.name if not narrow or len(one.name) < 24 else "…" + one.name[-22:] for one in result.modules
        ]
        if named:
            moved.set_yticks([y for y, _ in rows], [*map(literal, names)])
        else:
            moved.set_yticks([])
        legend(drawing)
    return drawing


@answered.register(Explanation)
def _(result: Explanation) -> Answer:
    if result.total_rank is None:
        moved = "–" if result.movement is None else f"{result.movement:.2g}"
        said = f"The adapter moves its parameters by {moved} of their norm; ranks do not apply to it"
    elif result.effect_kept is not None:
        said = (
            f"Rank {result.kept_rank} of {result.total_rank} keeps {result.effect_kept:.1%} of the effect: "
            f"test "
            f"accuracy {result.truncated:.3f}, the whole adapter {result.full:.3f}, the frozen model "
            f"{result.frozen:.3f}"
        )
    else:
        unverified = "" if result.full is not None else " (not verified: no task was given)"
        said = f"Rank {result.used_rank} of {result.total_rank} is used by the spectra of ΔW{unverified}"
    modules = []
    for one in result.modules:
        ranks = ["–" if n is None else str(n) for n in (one.rank, one.used, one.kept)]
        numbers = ["–" if x is None else f"{x:.2g}" for x in (one.movement, one.effective_rank)]
        modules.append((one.name, numbers[0], *ranks, numbers[1]))
    warned = [s for s in result.findings if s.startswith(("Below", "Accuracy", "Left out", "Idle"))]
    return Answer(
        titled("What the adapter uses", result),
        [("measured", said)],
        Section("What to know", items=result.findings),
        bool(warned),
        [
            Section(
                "By module",
                columns=("module", "movement", "rank", "used", "kept", "effective rank"),
                rows=modules,
                remark="used: the rank that holds the share asked for of the spectrum; kept: in the "
                "truncated adapter.",
                brief=True,
            )
        ],
        "What truncated adapters keep of the effect on the logits, by total rank, and how far each module "
        "moves.",
    )
