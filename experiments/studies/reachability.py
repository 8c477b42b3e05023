"""What share of targets do prompts of k tokens bring to the first place? k-ε controllability."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from statistics import median
from typing import Any

from deltatheory.control.reach.controllability import BASELINES, SEARCHES
from deltatheory.results import wilson
from experiments.page import Findings, Table, Verdict, drawing
from experiments.scope import Scope, TaskInfo
from experiments.studies.methods import joint
from experiments.trial import Known, Trial

CLAIM = "Of the 75 most likely next tokens at least 85 % come first behind a prompt of at most 10 words"
SOURCE = "Bhargava et al. 2023 (arXiv 2310.04444), abstract; on Falcon-7b, Llama-7b and Falcon-40b"
ABOUT = (
    "The paper searches words by greedy back-generation over the whole vocabulary and by GCG with larger "
    "batches (from memory: 768 swaps a round, 34 rounds), two orders of magnitude more passes than here: a "
    "share below its own bounds what these passes find, not what the model can be brought to. Its abstract "
    "also says that the correct next token is reached in 97 % of texts."
)
TARGETS = {"top:75": 0.85, "next": 0.97}  # the share that the abstract reports of each
LENGTHS = (1, 4, 10)
WORDS = "discrete"
WAYS = (*SEARCHES, *BASELINES)
SEARCH = {"steps": 30, "restarts": 1, "rounds": 6, "candidates": 24, "pool": 64, "chunk": 10}
_GROUPS = ((1, 1), (2, 10), (11, 75), (76, inf))


def trial(scope: Scope, model: str, task: TaskInfo, target: str) -> Trial:
    """Return the trial that asks for one kind of target on a task."""
    asked = {"goal": target, "k": list(LENGTHS), "search": SEARCH}
    settings = {"own_draw": True, "train": 16, "test": 10, "max_length": 12, **asked}
    return Trial("reachability", model, task.name, seed=scope.seeds[0], settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield the two kinds of targets on each task."""
    for model in scope.models:
        for task in scope.tasks:
            yield from (trial(scope, model, task, target) for target in TARGETS)


def findings(scope: Scope, known: Known) -> Findings:
    """Shares against k and against the rank without control, with all ways side by side."""
    verdicts: list[Verdict] = []
    found, numbers, tables, figures = [], {}, [], {}
    for model in scope.models:
        curves = {}
        for target, reported in TARGETS.items():
            asked = [trial(scope, model, task, target) for task in scope.tasks]
            runs = [run for one in asked if (run := known.get(one))]
            if not runs:
                found.append(f"{model}, {target}: no task has run.")
                continue
            ranks, least = _pooled(runs)
            curves[target] = _curve(least)
            at = {way: curves[target][way][-1] for way in WAYS}
            if target == "top:75":
                _, low, high = at[WORDS]
                short: Verdict = "undecided" if high >= reported else "disagrees"
                verdicts.append("agrees" if low >= reported else short)
            passes = {way: _passes(runs, way) for way in WAYS}
            numbers[f"{model}, {target}"] = {
                "targets": len(ranks),
                "tasks": len(runs),
                "at_10": {way: value for way, (value, *_) in at.items()},
                "passes_a_target": passes,
                "median_rank": median(ranks),
            }
            said = ", ".join(f"{way} {_said(cell)}" for way, cell in at.items())
            found.append(
                f"{model}, {target}, {len(ranks)} targets of {len(runs)} tasks, of median rank "
                f"{median(ranks):.0f}, with at most {LENGTHS[-1]} tokens: {said}; without control "
                f"{_said(curves[target][WORDS][0])}; the paper reports {reported:.0%} with words."
            )
            tables += [
                Table(
                    f"{model}, {target}: % that come first with at most k tokens (95 % interval)",
                    ["k", *WAYS, "T39: attention a prefix can take, a median head"],
                    [
                        [k, *(_said(curves[target][way][j]) for way in WAYS), _bound(runs, k)]
                        for j, k in enumerate((0, *LENGTHS))
                    ],
                ),
                Table(
                    f"{model}, {target}: % at k ≤ {LENGTHS[-1]} by rank without control",
                    ["rank", "targets", *WAYS],
                    _by_rank(ranks, least),
                ),
                Table(
                    f"{model}, {target}: passes over single texts, a target",
                    list(WAYS),
                    [[passes[way] for way in WAYS]],
                ),
            ]
        if curves:
            figures[f"{model}: share that comes first, a panel a kind of target"] = _figure(curves)
    ran = (
        f"Ten test texts of each task, cut at 12 tokens, each with a search of its own for "
        f"k = {', '.join(map(str, LENGTHS))}; a target that came first is left alone from there on. top:75: "
        "one of the 75 tokens that are most likely without control, by lot; next: the text's own last token, "
        "held back. continuous: vectors before the text; discrete: words; prefix: keys and values in every "
        "attention; random: words by lot, as many as the search for words made passes; repeat: the target "
        "itself. Nothing was tuned on these texts. The claim is taken to hold where the 95 % interval of the "
        "share that words reach of top:75, all tasks together, lies above 85 %, and to fail where it lies "
        "below."
    )
    return Findings(joint(verdicts) if verdicts else "undecided", ran, found, numbers, tables, figures)


def _pooled(runs: list[dict[str, Any]]) -> tuple[list[int], dict[str, list[int | None]]]:
    """Return the ranks of the targets of all tasks, and the least k that reached each, by way."""
    ranks = [rank for run in runs for rank in run["ranks"]]
    return ranks, {
        way: [k for run in runs for one in run["ways"] if one["name"] == way for k in one["shortest"]]
        for way in WAYS
    }


def _cell(reached: int, targets: int) -> tuple[float, float, float]:
    return reached / targets, *wilson(reached, targets)


def _curve(least: dict[str, list[int | None]]) -> dict[str, list[tuple[float, float, float]]]:
    """Return share, low and high for each way at k = 0 and all lengths."""
    return {
        way: [_cell(sum(k is not None and k <= most for k in found), len(found)) for most in (0, *LENGTHS)]
        for way, found in least.items()
    }


def _said(cell: tuple[float, float, float]) -> str:
    share, low, high = (round(100 * x) for x in cell)
    return f"{share}% ({low} to {high})"


def _by_rank(ranks: list[int], least: dict[str, list[int | None]]) -> list[list[Any]]:
    rows = []
    for low, high in _GROUPS:
        of = [i for i, rank in enumerate(ranks) if low <= rank <= high]
        if of:
            name = f"{low}" if low == high else f"{low} to {high}" if high < inf else f"{low} and more"
            shares = [f"{sum(least[way][i] is not None for i in of) / len(of):.0%}" for way in WAYS]
            rows.append([name, len(of), *shares])
    return rows


def _bound(runs: list[dict[str, Any]], k: int) -> str | None:
    """Return the median over tasks of the median share over heads."""
    shares = [bound["share"][1] for run in runs for bound in run["bounds"] if bound["length"] == k]
    return f"{median(shares):.0%}" if shares else None


def _passes(runs: list[dict[str, Any]], way: str) -> float:
    return sum(run["passes"][way] for run in runs) / sum(len(run["ranks"]) for run in runs)


def _figure(curves: dict[str, dict[str, list[tuple[float, float, float]]]]) -> Any:
    with drawing(4.6 * len(curves), 3.4, 1, len(curves)) as (figure, panels):
        every = [panels] if len(curves) == 1 else list(panels)
        for axes, (target, ways) in zip(every, curves.items(), strict=True):
            for way, cells in ways.items():
                shares, low, high = zip(*cells, strict=True)
                axes.plot((0, *LENGTHS), shares, "o-", ms=4, label=way)
                axes.fill_between((0, *LENGTHS), low, high, alpha=0.1, lw=0)
            axes.set(title=target, xlabel="tokens k", ylabel="share that comes first", ylim=(-0.02, 1.02))
            axes.axhline(TARGETS[target], color="0.5", lw=1, ls=":")
        every[0].legend(fontsize="x-small")
    return figure
