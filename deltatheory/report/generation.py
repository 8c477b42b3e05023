"""What policies of hidden states make of generated text, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatheory.control.generation.comparison import (
    BASELINES,
    INSTRUCTION,
    MORE,
    NONE,
    VARIED,
    GeneratedRow,
    GenerationSteering,
)
from deltatheory.report.page import COLOURS, NARROW, count, legend, literal, new_figure, style, titled
from deltatheory.results import Answer, Section, answered, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["generation_figure"]

_LONGEST = 60  # characters of an example


@figure.register(GenerationSteering)
def generation_figure(result: GenerationSteering, narrow: bool = False) -> Figure:
    """Return the figure: share on target against perplexity, the strengths of a policy joined."""
    colours = [COLOURS[name] for name in ("measured", "predicted", "third", "fourth", "fifth", "faint")]
    names = list(dict.fromkeys(row.policy for row in result.rows))
    with style():
        drawing = new_figure(NARROW if narrow else 8.0, 4.2)
        axes = drawing.subplots()
        for i, name in enumerate(names):
            own = [row for row in result.rows if row.policy == name]
            mark = "*" if name in BASELINES else "o-" if i % 2 else "s--"
            spots = [row.perplexity for row in own], [row.share for row in own]
            axes.plot(*spots, mark, color=colours[i % len(colours)], label=literal(name), ms=5)
        axes.axvline(MORE * result.row(NONE).perplexity, color=COLOURS["faint"], lw=1, ls=":")
        axes.set(
            xlabel="perplexity of the text under the frozen model",
            ylabel=f"share on target of {result.prompts}",
            xscale="log",
            ylim=(-0.02, 1.02),
        )
        legend(drawing, 2 if narrow else 5)
    return drawing


def _called(row: GeneratedRow) -> str:
    return row.policy if row.strength is None else f"{row.policy} at {row.strength:g}"


@answered.register(GenerationSteering)
def _(result: GenerationSteering) -> Answer:
    free, told, best = result.row(NONE), result.row(INSTRUCTION), result.best()
    headline = [
        (
            "measured",
            f"{_called(best)}: {best.share:.0%} of {result.prompts} texts on target {result.target!r}, "
            f"{free.share:.0%} without control, {told.share:.0%} by an instruction",
        ),
        (
            "",
            f"Perplexity {count(best.perplexity)} ({count(free.perplexity)} without), time a token "
            f"{result.added(best):+.0%}",
        ),
    ]
    drawn = max((r.share for r in result.rows if r.policy == "random-direction"), default=None)
    idle = best.policy in BASELINES
    notes = [
        f"The judge, a bag of words of {result.judge['texts']:.0f} other texts, is right on "
        f"{result.judge['accuracy']:.0%} of the test texts; the probes on up to {max(result.accuracy):.0%} "
        f"of {result.held_out} held-out texts.",
    ]
    if idle:
        notes.insert(0, "No policy beats the baselines where the text stays near that without control.")
    if drawn is not None:
        notes.append(f"Random directions of the same length bring up to {drawn:.0%} on target.")
    rows = [
        (
            r.policy,
            "–" if r.strength is None else f"{r.strength:g}",
            f"{r.share:.0%}",
            count(r.perplexity),
            f"{r.distinct:.0%}",
            count(r.energy) if r.energy else "–",
            f"{1000 * r.seconds:.1f}",
            f"{result.added(r):+.0%}",
        )
        for r in result.rows
    ]
    probes = [(str(t), f"{share:.0%}") for t, share in zip(result.layers, result.accuracy, strict=True)]
    said = [(_called(r), " ".join(r.texts[0].split())[:_LONGEST]) for r in result.rows]
    return Answer(
        titled("Steering of generated text", result),
        headline,
        Section("What to know first", items=notes),
        idle,
        [
            Section(
                "Policies",
                columns=(
                    "policy",
                    "strength",
                    "on target",
                    "perplexity",
                    "distinct",
                    "energy",
                    "ms",
                    "added",
                ),
                rows=rows,
                tones=["measured" if r is best else "" for r in result.rows],
                remark="strength: in gaps between the means of the two kinds of text. perplexity: of the "
                "continuations under the frozen model. distinct: different among pairs of words in a text. "
                "energy: |u|² a token. ms, added: processor time a token, beside no control. The answer is "
                f"the best share with at most {MORE:g} times the perplexity and {VARIED:.0%} of the distinct "
                "pairs without control.",
                brief=True,
            ),
            Section("First continuations", columns=("policy", "text"), rows=said),
            Section("Probes", columns=("block", "right on held-out texts"), rows=probes, folded=True),
        ],
        "Share of continuations on target, by a judge that knows nothing of the model, against their "
        "perplexity; the dotted line is the limit of the answer.",
    )
