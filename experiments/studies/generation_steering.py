"""What policies of hidden states make of generated text: share on target against perplexity and time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deltatheory.control.generation.comparison import MORE, VARIED
from deltatheory.report.page import literal
from deltatheory.results import wilson
from experiments.page import Findings, Table, Verdict, drawing
from experiments.scope import Scope, TaskInfo
from experiments.trial import Known, Trial

CLAIM = (
    "Feedback on hidden states brings more generated texts on target than any fixed direction and than an "
    "instruction, on every contrast, where perplexity stays within half more than without control"
)
SOURCE = "deltatheory; after LiSeCo (arXiv 2405.15454), PID steering (2510.04309) and A-LQR (2604.19018)"
ABOUT = (
    "A language model of 135 M parameters, greedy; the judge is a bag of words, trained on texts that no "
    "policy has seen. Perplexity is of the continuations, under the frozen model, behind the prompts alone. "
    "The verdict hangs on the limit: on persona the mean difference at 2 has .88 on target at perplexity "
    "5.26, where 5.22 is allowed, and the barrier .87 at 5.19. With 24 prompts a contrast the claim failed."
)
BASELINES = ("none", "instruction")
FIXED = ("random-direction", "mean-difference")
FEEDBACK = ("liseco", "barrier", "pid", "lqr")
STRENGTHS = [2.0, 4.0, 8.0]
# What the habit says before a prompt.
INSTRUCTIONS = {
    "classics/mr": "A very positive review of a movie that I loved:",
    "more_tasks/persona_extraversion": "Said by an outgoing and sociable person who loves company:",
}
_SETTINGS = {
    "train": 4000,
    "dev": 400,
    "test": 400,
    "contrast_texts": 160,
    "prompts": 100,
    "words": 8,
    "max_new_tokens": 12,
    "batch_size": 32,
}
_GROUPS = {"feedback": FEEDBACK, "fixed": FIXED, "instruction": ("instruction",)}


def steering(scope: Scope, model: str, task: TaskInfo, policy: str) -> Trial:
    """Return the trial of a policy at all strengths, or of a baseline."""
    settings = {**_SETTINGS, "policy": policy}
    if policy not in BASELINES:
        settings["strengths"] = STRENGTHS
    elif policy == "instruction" and task.name in INSTRUCTIONS:
        settings["instruction"] = INSTRUCTIONS[task.name]
    return Trial("generation_steering", model, task.name, seed=scope.seeds[0], settings=settings)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield baselines, fixed directions and feedback on each contrast."""
    for model in scope.models:
        for task in scope.tasks:
            for policy in (*BASELINES, *FIXED, *FEEDBACK):
                yield steering(scope, model, task, policy)


def findings(scope: Scope, known: Known) -> Findings:
    """Share on target, perplexity and time of every policy and strength, and the trade-off as a figure."""
    found, numbers, tables, won = [], {}, [], []
    drawn: dict[str, list[dict[str, Any]]] = {}
    for model in scope.models:
        for task in scope.tasks:
            runs = [
                run
                for policy in (*BASELINES, *FIXED, *FEEDBACK)
                if (run := known.get(steering(scope, model, task, policy)))
            ]
            if len(runs) < len(BASELINES) + len(FIXED) + len(FEEDBACK):
                found.append(f"{model}, {task.name}: not complete.")
                continue
            rows, about = [row for run in runs for row in run["rows"]], runs[0]
            free = rows[0]
            best = {
                name: max(
                    (r for r in rows if r["policy"] in group and _fair(r, free)),
                    key=lambda r: r["share"],
                    default=None,
                )
                for name, group in _GROUPS.items()
            }
            shares = {name: r["share"] if r else 0.0 for name, r in best.items()}
            won.append(shares["feedback"] > max(shares["fixed"], shares["instruction"]))
            count = about["prompts"]
            said = ", ".join(
                f"{name} {r['share']:.2f} ({_called(r)}, {_between(r['share'], count)})"
                if r
                else f"{name} none so near"
                for name, r in best.items()
            )
            held = max(about["accuracy"])
            found.append(
                f"{model}, {task.name}: on target without control {free['share']:.2f}; within the limits "
                f"{said}. The probes tell up to {held:.2f} of {about['held_out']} held-out texts right, the "
                f"judge {about['judge']['accuracy']:.2f} of the test texts."
            )
            key = f"{model}, {task.name}"
            numbers[key] = {"rows": rows, "best": best, "judge": about["judge"], "probes": about["accuracy"]}
            tables.append(_table(key, rows, count))
            drawn[key] = rows
    verdict: Verdict = "undecided"
    if won and any(won) == all(won):
        verdict = "agrees" if won[0] else "disagrees"
    ran = (
        "Half-spaces, setpoints and directions come from 160 training texts of each contrast; strengths are "
        "in gaps between its means, and policies act on each last token, behind those of the third of the "
        "blocks that begins half way whose probes separate. First words of test texts that are not of the "
        f"target are gone on with. The limits: at most {MORE} times the perplexity without control, and at "
        f"least {VARIED} of its share of different pairs of words, since a text that goes round in circles "
        "is likely. The claim is taken to hold where the best feedback within them beats the best of the "
        "others on every contrast. Intervals are Wilson's, 95 %, over prompts. Time is of one thread of a "
        "processor that did other work."
    )
    figures = {"Share on target against perplexity, strengths joined": _figure(drawn)} if drawn else {}
    return Findings(verdict, ran, found, numbers, tables, figures)


def _fair(row: dict[str, Any], free: dict[str, Any]) -> bool:
    near = row["perplexity"] <= MORE * free["perplexity"]
    return near and row["distinct"] >= VARIED * free["distinct"]


def _called(row: dict[str, Any]) -> str:
    return row["policy"] if row["strength"] is None else f"{row['policy']} at {row['strength']:g}"


def _between(share: float, count: int) -> str:
    low, high = wilson(round(share * count), count)
    return f"{low:.2f} to {high:.2f}"


def _table(title: str, rows: list[dict[str, Any]], count: int) -> Table:
    columns = ["policy", "strength", "on target", "interval", "perplexity", "distinct pairs", "energy"]
    columns += ["ms a token", "added", "an answer"]
    free = rows[0]
    cells = [
        [
            r["policy"],
            r["strength"],
            r["share"],
            _between(r["share"], count),
            r["perplexity"],
            r["distinct"],
            r["energy"] or None,
            1000 * r["seconds"],
            f"{r['seconds'] / free['seconds'] - 1:+.0%}",
            " ".join(r["texts"][0].split()),
        ]
        for r in rows
    ]
    return Table(f"{title}: {count} prompts", columns, cells)


def _figure(of: dict[str, list[dict[str, Any]]]) -> Any:
    with drawing(5.2 * len(of), 3.6, 1, len(of)) as (figure, panels):
        panels = np.atleast_1d(panels)
        for axes, (title, rows) in zip(panels, of.items(), strict=True):
            for i, name in enumerate(dict.fromkeys(r["policy"] for r in rows)):
                own = [r for r in rows if r["policy"] == name]
                mark = "*" if name in BASELINES else "s--" if name in FIXED else "o-"
                axes.plot(
                    [r["perplexity"] for r in own], [r["share"] for r in own], mark, color=f"C{i}", label=name
                )
            axes.axvline(MORE * rows[0]["perplexity"], color="0.6", lw=1, ls=":")
            axes.set(title=literal(title), xlabel="perplexity (frozen model)", xscale="log", ylim=(0, 1.02))
        panels[0].set(ylabel="share on target")
        panels[0].legend(fontsize="x-small", ncols=2)
    return figure
