"""What prompts of k tokens reach, for people."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from deltatheory.control.reach.controllability import RANKS, SEARCHES, ReachResult
from deltatheory.report.page import COLOURS, count, legend, literal, panels, style, titled, whole
from deltatheory.results import Answer, Section, answered, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["reach_figure"]

_COLOURS = {
    "continuous": "predicted",
    "discrete": "measured",
    "prefix": "third",
    "random": "fourth",
    "repeat": "fifth",
}
_EXAMPLES = 12


@figure.register(ReachResult)
def reach_figure(result: ReachResult, narrow: bool = False) -> Figure:
    """Return the figure: the share that comes first against k, and against the rank without control."""
    ks, groups = [0, *result.lengths], _groups(result)
    with style():
        drawing, (curve, ranked) = panels(9.0, [3.4, 3.4], narrow)
        for i, way in enumerate(result.ways):
            colour, name = COLOURS[_COLOURS[way.name]], literal(way.name)
            shares = [result.share(way.name, k) for k in ks]
            low, high = zip(*(result.interval(way.name, k) for k in ks), strict=True)
            curve.plot(ks, shares, "o-", color=colour, label=name, ms=4)
            curve.fill_between(ks, low, high, color=colour, alpha=0.1, lw=0)
            reached = [result.reached(way.name, ks[-1], group) / n for group, n in groups]
            places = [j + 0.12 * (i - (len(result.ways) - 1) / 2) for j in range(len(groups))]
            ranked.plot(places, reached, "o", color=colour)
        curve.set(xlabel="tokens k", ylabel="share of targets that come first", ylim=(-0.02, 1.02))
        curve.set_xticks(ks)
        ranked.set(xlabel="rank without control", ylabel=f"share with k ≤ {ks[-1]}", ylim=(-0.02, 1.02))
        ranked.set_xticks(range(len(groups)), [_of_ranks(group) for group, _ in groups])
        legend(drawing, 3 if narrow else 5)
    return drawing


def _groups(result: ReachResult) -> list[tuple[tuple[float, float], int]]:
    """Return the first and last rank of each group that has targets, and how many."""
    ends = [(low + 1, high) for low, high in pairwise((0, *RANKS, inf))]
    counted = [((a, b), sum(a <= rank <= b for rank in result.ranks)) for a, b in ends]
    return [(group, n) for group, n in counted if n]


def _of_ranks(group: tuple[float, float]) -> str:
    low, high = group
    return f"> {low - 1:.0f}" if high == inf else f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def _share(result: ReachResult, way: str, k: int) -> str:
    low, high = result.interval(way, k)
    return f"{result.share(way, k):.0%} ({100 * low:.0f}–{100 * high:.0f})"


@answered.register(ReachResult)
def _(result: ReachResult) -> Answer:
    names, most = [way.name for way in result.ways], result.lengths[-1]
    first = next(name for name in SEARCHES if name in names)
    low, high = result.interval(first, most)
    tokens = "token" if most == 1 else "tokens"
    headline = [
        (
            "measured",
            f"With {most} {tokens} {result.share(first, most):.0%} ({low:.0%}–{high:.0%}) of "
            f"{len(result.ranks)} targets rank first ({first})",
        ),
        (
            "",
            ", ".join(
                [
                    *(f"{name} {_share(result, name, most)}" for name in names if name != first),
                    f"no control {result.share(first, 0):.0%}",
                ]
            ),
        ),
    ]
    idle = [
        f"{name} reaches no more than {other} at any k, and that searches nothing."
        for name in names
        for other in names
        if name in SEARCHES and other not in SEARCHES
        if all(result.reached(other, k) >= result.reached(name, k) for k in result.lengths)
        if result.reached(name, 0) < len(result.ranks)
    ]
    note = Section(
        "What to know first",
        items=[
            *idle,
            "A search gives a lower bound: what was not reached may be reachable.",
            *result.remarks,
        ],
    )
    return Answer(
        titled("Reachability", result),
        headline,
        note,
        bool(idle),
        [_curve(result, names), _by_rank(result, names), *_bound(result), _examples(result), _costs(result)],
        "Left: share of targets that come first with at most k tokens, with 95 % intervals. Right: the same "
        f"at k = {most}, by the rank of the target without control.",
    )


def _curve(result: ReachResult, names: list[str]) -> Section:
    shares = {bound.length: bound.share for bound in result.bounds}
    beside = ("T39",) if shares else ()

    def row(k: int) -> tuple[str, ...]:
        least, _, largest = shares.get(k, (0.0, 0.0, 0.0))
        bound = (f"{100 * least:.0f}–{100 * largest:.0f}%" if k else "–",) if shares else ()
        return (str(k), *(_share(result, name, k) for name in names), *bound)

    said = (
        "Share in % of targets that come first with at most k tokens before the text, and its 95 % interval "
        "(Wilson). continuous: vectors in the place of word embeddings; discrete: words; prefix: keys and "
        "values in every attention; random: words by lot, as many draws as the search for words made passes; "
        "repeat: the target itself, again and again."
    )
    of_bound = " T39: what a prefix can take at most of the attention of a head of the first block."
    return Section(
        "Reached by k tokens",
        columns=("k", *names, *beside),
        rows=[row(k) for k in (0, *result.lengths)],
        remark=said + (of_bound if shares else ""),
        brief=True,
    )


def _by_rank(result: ReachResult, names: list[str]) -> Section:
    most, rows = result.lengths[-1], []
    for group, n in _groups(result):
        shares = [f"{result.reached(name, most, group) / n:.0%}" for name in names]
        rows.append((_of_ranks(group), str(n), *shares))
    return Section(
        f"By rank without control, at k ≤ {most}",
        columns=("rank", "targets", *names),
        rows=rows,
        remark=f"Ranks are among the {result.among}.",
        brief=True,
    )


def _bound(result: ReachResult) -> list[Section]:
    if not result.bounds:
        return []
    rows = [
        (str(b.length), *(f"{x:.0%}" for x in b.share), *(count(x) for x in b.radius)) for b in result.bounds
    ]
    return [
        Section(
            "What no prefix can do in the first block (T39)",
            columns=("k", "share: least", "median", "most", "moved: least", "median", "most"),
            rows=rows,
            remark="Over heads and texts, for the query of a text's last token, and keys and values as long "
            "as the search may make them: the share of attention that a prefix can take, and how far it can "
            "move a head's output across its direction, in lengths of that output. The bound does not pass "
            "through residual connections, normalizations and further blocks: it is no bound of what is "
            "reached.",
            folded=True,
        )
    ]


def _examples(result: ReachResult) -> Section:
    found = next((way for way in result.ways if way.name == "discrete"), None)
    chosen = [
        (result.ranks[i], result.targets[i], found.words[i] or "", result.texts[i])
        for i in sorted(range(len(result.ranks)), key=lambda i: -result.ranks[i])
        if found and found.shortest[i] not in (None, 0)
    ][:_EXAMPLES]
    return Section(
        "Words that were found",
        columns=("rank before", "target", "words", "text"),
        rows=[(whole(rank), *map(repr, texts)) for rank, *texts in chosen],
        remark="Read again from this writing a tokenizer may cut words otherwise.",
        folded=True,
    )


def _costs(result: ReachResult) -> Section:
    texts = len(result.ranks)
    return Section(
        "What it cost",
        columns=("", "passes", "a text", "seconds"),
        rows=[
            (name, count(n), count(n / texts), count(result.seconds[name]))
            for name, n in result.passes.items()
        ],
    )
