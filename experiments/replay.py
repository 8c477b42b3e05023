"""Does the search for d90 find, in at most five runs, what a full grid of recorded runs shows?

    python -m experiments.replay CURVES.json --out experiments/results/replay

CURVES.json holds name -> list of [d, accuracy], one entry a run; d = 0 is direct training, the baseline.
Where a curve has none, the mean at its largest d is taken instead. A replay draws one recorded run for every
dimension that the search asks for.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from deltatheory.dimension.search import DimensionSearch
from deltatheory.results import provenance, write_atomically, write_json

FRACTION, FLOOR, NOISE = 0.9, 0.1, 0.003  # the curves are of ten classes
PROBES, REPLAYS = 5, 50


def replay(runs: list[list[float]], seed: int) -> dict:
    """Compare what the full grid says with what replays of the search find on one curve."""
    scores: dict[int, list[float]] = defaultdict(list)
    for d, score in runs:
        scores[int(d)].append(score)
    direct = scores.pop(0, None)
    grid = sorted(scores)
    baseline = float(np.mean(direct or scores[grid[-1]]))
    level = FRACTION * baseline
    answer = next((d for d in grid if np.mean(scores[d]) >= level), None)
    rng = np.random.default_rng(seed)
    found: list[int | None] = []
    probes: list[int] = []
    for _ in range(REPLAYS):
        search = DimensionSearch(grid, level, floor=FLOOR, ceiling=baseline, noise=NOISE)
        while len(search.trials) < PROBES and not search.bracketed():
            d = search.propose()
            search.tell(d, float(rng.choice(scores[d])))
        found.append(search.smallest())
        probes.append(len(search.trials))

    def position(d: int | None) -> int:
        return len(grid) if d is None else grid.index(d)

    errors = [abs(position(d) - position(answer)) for d in found]
    return {
        "baseline": baseline,
        "baseline_of": "direct training" if direct else f"the largest d, {grid[-1]}",
        "level": level,
        "grid": len(grid),
        "grid_runs": sum(map(len, scores.values())),
        "answer": answer,
        "found": {str(d): found.count(d) for d in sorted(set(found), key=position)},
        "within_one_step": float(np.mean(np.array(errors) <= 1)),
        "worst_error_steps": max(errors),
        "mean_probes": float(np.mean(probes)),
        "most_probes": max(probes),
    }


def table(curves: dict[str, dict]) -> str:
    """Lay the comparison out in Markdown."""
    lines = [
        f"d90 by search, at most {PROBES} runs, replayed {REPLAYS} times on recorded curves. The level is",
        f"{FRACTION} of the baseline; the full grid's answer is the smallest d whose mean reaches it;",
        "errors are in steps of its grid. Where a curve has one run for each d, all its replays are alike.",
        "",
        "    python -m experiments.replay CURVES.json --out experiments/results/replay",
        "",
        "| curve | baseline | level | full grid | found (times) | worst error | runs: search | runs: grid |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, c in curves.items():
        found = ", ".join(f"{'none' if d == 'None' else d} ({n})" for d, n in c["found"].items())
        answer = c["answer"] if c["answer"] is not None else "never reached"
        mark = "" if c["baseline_of"] == "direct training" else "\\*"
        lines.append(
            f"| {name} | {c['baseline']:.4f}{mark} | {c['level']:.4f} | {answer} | {found} "
            f"| {c['worst_error_steps']} | {c['mean_probes']:.1f} | {c['grid_runs']} |"
        )
    if any(c["baseline_of"] != "direct training" for c in curves.values()):
        lines += ["", "\\* No direct training was recorded: the mean at the largest d stands for it."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    recorded = json.loads(options.curves.read_text())
    curves = {name: replay(runs, options.seed) for name, runs in recorded.items()}
    origin = provenance()
    origin["command"] = [x.replace(str(options.curves), "CURVES.json") for x in origin["command"]]
    settings = {"fraction": FRACTION, "floor": FLOOR, "noise": NOISE, "probes": PROBES, "replays": REPLAYS}
    settings["seed"] = options.seed
    write_json(options.out / "result.json", {"settings": settings, "curves": curves, "provenance": origin})
    write_atomically(options.out / "table.md", table(curves))
    print(table(curves))


if __name__ == "__main__":
    main()
