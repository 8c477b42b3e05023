"""Would shortcuts make the measured search for d90 cheaper, and would d90 stay what it is?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from deltatheory.report.page import COLOURS
from experiments.page import Findings, Table, drawing
from experiments.scope import Scope
from experiments.studies.methods import data
from experiments.trial import Known, Trial

CLAIM = (
    "To stop a run that has reached the level, to begin at 2d from the solution at d, and to vmap several "
    "runs, each saves a tenth of the search for d90 and leaves it what it is"
)
SOURCE = "deltatheory"
ABOUT = "None of the three is in the search."
DIMENSIONS, SEEDS = (128, 256, 512), 2
STEPS, BATCH_SIZE, EVERY, PART = 120, 32, 10, 100
# How a run at 2d is warm: from which step of the run at d, and with how many more.
WARM = {"half + half": (STEPS // 2, STEPS // 2), "whole + half": (STEPS, STEPS // 2)}
TIMED = tuple(product((8, 32), (1, 2, 4)))  # size of a batch, runs together
_FORWARD, _BACKWARD = 1.0, 2.0  # passes of an example
_LEVEL = 0.9
_WORTHWHILE = 0.1  # of the passes: less is not worth a change


def _trial(scope: Scope, model: str, kind: str, delta: str, seed: int, **settings: Any) -> Trial:
    task = scope.tasks[0]
    limits = {"test": 1000, "max_length": 64}
    return Trial(kind, model, task.name, delta, {}, seed, {**data(model, task), **limits, **settings})


def baseline(scope: Scope, model: str) -> Trial:
    """Return the run of full fine-tuning that sets the level."""
    budget = {"steps": STEPS, "batch_size": BATCH_SIZE, "learning_rate": 1e-4}
    return _trial(scope, model, "train", "full", scope.seeds[0], **budget)


def cold(scope: Scope, model: str, d: int, seed: int) -> Trial:
    """Return a run from zero that is looked at on its way."""
    budget = {"steps": STEPS, "batch_size": BATCH_SIZE, "learning_rate": 1.0}
    return _trial(scope, model, "looks", f"subspace:{d}", seed, **budget, every=EVERY, part=PART)


def warm(scope: Scope, model: str, kind: str, d: int, seed: int) -> Trial:
    """Return a run at d from the solution at d/2."""
    budget = {"steps": STEPS, "batch_size": BATCH_SIZE, "learning_rate": 1.0}
    after, more = WARM[kind]
    return _trial(scope, model, "warm_start", f"subspace:{d}", seed, **budget, after=after, more=more)


def timed(scope: Scope, model: str, size: int, together: int) -> Trial:
    """Return the timing of several runs at once."""
    of = {"batch_size": size, "length": 16, "together": together, "repetitions": 5}
    return _trial(scope, model, "vmapped", "subspace:256", scope.seeds[0], **of)


def trials(scope: Scope, known: Known) -> Iterator[Trial]:
    """Yield all runs on the first task."""
    for model in scope.models:
        yield baseline(scope, model)
        for seed in scope.seeds[:SEEDS]:
            yield from (cold(scope, model, d, seed) for d in DIMENSIONS)
            yield from (warm(scope, model, kind, d, seed) for kind in WARM for d in DIMENSIONS[1:])
        yield from (timed(scope, model, *of) for of in TIMED)


def findings(scope: Scope, known: Known) -> Findings:
    """What each shortcut saves, and what it does to a run's end."""
    found, numbers, tables, figures, worth = [], {}, [], {}, []
    for model in scope.models:
        full = known.get(baseline(scope, model))
        runs = {
            (d, seed): run
            for d, seed in product(DIMENSIONS, scope.seeds[:SEEDS])
            if (run := known.get(cold(scope, model, d, seed)))
        }
        times = {of: run for of in TIMED if (run := known.get(timed(scope, model, *of)))}
        if (
            not full
            or not full["test"]
            or len(runs) < len(DIMENSIONS) * len(scope.seeds[:SEEDS])
            or not times
        ):
            found.append(f"{model}: not run.")
            continue
        level = _LEVEL * full["test"]
        early = [_early(d, seed, run, level) for (d, seed), run in runs.items()]
        pairs = _pairs(scope, model, runs, known)
        said, kept = zip(_early_said(early), _warm_said(pairs, runs), _vmap_said(times), strict=True)
        found += [f"{model}: {sentence}" for sentence in said]
        worth.append(all(kept))
        numbers[model] = {"baseline": full["test"], "level": level, "early": early, "warm": pairs}
        tables += _tables(model, early, pairs, times)
        figures[f"{model}: accuracy on the test split by step, and the level"] = _figure(runs, level)
    ran = (
        f"{scope.tasks[0].name}, hashed subspaces of all blocks, {STEPS} steps of {BATCH_SIZE}; the level is "
        f"{_LEVEL} of full fine-tuning in the same steps. Early success looks at {PART} test examples every "
        f"{EVERY} steps and, where these are at the level, at the whole split, where that is too it stops; "
        "the passes saved count these looks. A stop is false where the whole run ends below the level. A "
        f"warm run has {STEPS // 2} steps from where half the dimension was after half of its steps, or at "
        "their end. Seconds are medians of interleaved repetitions, for one gradient of each of k runs: in "
        "turn and in place as the package does it, and by one vmap over stacked parameters."
    )
    verdict = "undecided" if not worth else "agrees" if all(worth) else "disagrees"
    return Findings(verdict, ran, found, numbers, tables, figures)


def _early(d: int, seed: int, run: dict, level: float) -> dict[str, Any]:
    """Return what stopping at the level would have done to one run."""
    looks, test = run["looks"], run["examples"]
    above = [look["test"] >= level for look in looks]
    step_passes = BATCH_SIZE * (_FORWARD + _BACKWARD)
    whole = STEPS * step_passes + _FORWARD * test
    passes, stop = 0.0, looks[-1]
    for look in looks[:-1]:
        passes += EVERY * step_passes + _FORWARD * min(PART, test)
        if look["part"] >= level:
            passes += _FORWARD * max(test - PART, 0)
            if look["test"] >= level:
                stop = look
                break
    else:
        passes += EVERY * step_passes + _FORWARD * test
    first = next((look["step"] for look in looks if look["test"] >= level), None)
    return {
        "d": d,
        "seed": seed,
        "end": looks[-1]["test"],
        "first_reached": first,
        "stays_from": next((look["step"] for i, look in enumerate(looks) if all(above[i:])), None),
        "stopped": stop["step"] if stop is not looks[-1] else None,
        "at_stop": stop["test"],
        "saved": 1 - passes / whole,
        "solved": above[-1],
    }


def _pairs(scope: Scope, model: str, runs: dict[tuple[int, int], dict], known: Known) -> list[dict[str, Any]]:
    """Return pairs of runs at 2d, warm and from zero, of the same subspace."""
    pairs = []
    for kind, d, seed in product(WARM, DIMENSIONS[1:], scope.seeds[:SEEDS]):
        if run := known.get(warm(scope, model, kind, d, seed)):
            of = {"small": runs[d // 2, seed]["test"], "warm": run["test"], "zero": runs[d, seed]["test"]}
            pairs.append({"kind": kind, "d": d, "seed": seed, **of, "difference": of["warm"] - of["zero"]})
    return pairs


def _early_said(early: list[dict]) -> tuple[str, bool]:
    stopped = [row for row in early if row["stopped"]]
    reached = [row for row in early if row["first_reached"]]
    saved = mean(row["saved"] for row in early)
    low, high = (f(row["saved"] for row in early) for f in (min, max))
    false = sum(not row["solved"] for row in stopped)
    ended_below = sum(not row["solved"] for row in reached)
    text = (
        f"early success would stop {len(stopped)} of {len(early)} runs and save {saved:.0%} of all passes, "
        f"looks included ({low:.0%} to {high:.0%} a run); {len(reached)} runs were at the level at some "
        f"look, of which {ended_below} ended below it; {false} stops were false."
    )
    if stopped:
        gaps = [row["end"] - row["at_stop"] for row in stopped]
        text += (
            f" Accuracy went on from the stop by {mean(gaps):+.3f} on average ({min(gaps):+.3f} to "
            f"{max(gaps):+.3f})."
        )
    return text, saved > _WORTHWHILE and not false


def _warm_said(pairs: list[dict], runs: dict[tuple[int, int], dict]) -> tuple[str, bool]:
    parts, same = [], True
    for kind in WARM:
        values = [pair["difference"] for pair in pairs if pair["kind"] == kind]
        if len(values) > 1:
            half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
            parts.append(f"{kind} {mean(values):+.3f} ± {half:.3f} ({len(values)} pairs)")
            same &= abs(mean(values)) <= half
    of = {d: [run["test"] for (x, _), run in runs.items() if x == d] for d in DIMENSIONS}
    means = [mean(values) for values in of.values()]
    spreads = [stdev(values) for values in of.values() if len(values) > 1]
    text = (
        f"a warm run at 2d ends higher than one from zero by {'; '.join(parts) or '–'} (95 % interval); "
        f"doubling d from zero brings {(means[-1] - means[0]) / (len(means) - 1):+.3f}, and seeds differ by "
        f"{mean(spreads) if spreads else math.nan:.3f} (standard deviation)."
    )
    return text, same and bool(parts)


def _vmap_said(times: dict[tuple[int, int], dict]) -> tuple[str, bool]:
    most = max(k for _, k in times)
    ratios = {size: run["in turn"] / run["vmap"] for (size, k), run in times.items() if k == most}
    said = " and ".join(f"{ratio:.2f} (batches of {size})" for size, ratio in ratios.items())
    text = (
        f"on {next(iter(times.values()))['threads']} thread(s) {most} steps in turn take {said} times as "
        f"long as one vmapped step of {most} runs."
    )
    return text, min(ratios.values()) > 1 / (1 - _WORTHWHILE)


def _tables(model: str, early: list[dict], pairs: list[dict], times: dict) -> list[Table]:
    keys = ("d", "seed", "end", "first_reached", "stays_from", "stopped", "at_stop")
    columns = ["d", "seed", "accuracy at the end", "first at the level", "for good from", "stops at"]
    columns += ["accuracy there", "passes saved", "false"]
    cells = [
        [
            *(row[key] for key in keys),
            f"{row['saved']:.0%}",
            "yes" if row["stopped"] and not row["solved"] else "no",
        ]
        for row in early
    ]
    warm_keys = ("kind", "d", "seed", "small", "warm", "zero")
    return [
        Table(f"{model}: early success", columns, cells),
        Table(
            f"{model}: warm start",
            ["kind", "2d", "seed", "at d", "warm", "from zero", "difference"],
            [[*(row[key] for key in warm_keys), f"{row['difference']:+.3f}"] for row in pairs],
        ),
        Table(
            f"{model}: several runs at once",
            ["batch", "k", "in turn s", "vmap s", "in turn / vmap", "difference of the gradients"],
            [
                [size, k, run["in turn"], run["vmap"], run["in turn"] / run["vmap"], run["gradient_error"]]
                for (size, k), run in times.items()
            ],
        ),
    ]


def _figure(runs: dict[tuple[int, int], dict], level: float) -> Any:
    with drawing(6, 3.5) as (figure, axes):
        for (d, seed), run in runs.items():
            steps, scores = ([look[key] for look in run["looks"]] for key in ("step", "test"))
            look = {"color": f"C{DIMENSIONS.index(d)}", "ls": ("-", "--")[seed % 2]}
            axes.plot(steps, scores, marker="o", ms=3, label=f"d = {d}, seed {seed}", **look)
        axes.axhline(level, color=COLOURS["faint"], lw=1)
        axes.set(xlabel="step", ylabel="accuracy on the test split")
        axes.legend(fontsize=7)
    return figure
