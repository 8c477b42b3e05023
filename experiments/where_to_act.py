"""Where a small delta should act: the place that the Gramian picks beside every place trained out.

    python -m experiments.where_to_act run TASK... --out FOLDER    # resumes; one folder a task
    python -m experiments.where_to_act table --out FOLDER          # table.md, table.json, figure.png

The delta is a LoRA of rank 4 in one place: the query and value projections of one layer ("layer"), or one
kind of projection in all layers ("module"). A TASK is what `deltatheory advise --task` takes. All places
of a task share one learning rate, the better one by dev accuracy of the LoRA on all layers; the score of a
place is the mean test accuracy of three seeds.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]

RANK = 4
RATES = (3e-3, 1e-2)
SEEDS = (0, 1, 2)
KINDS = ("attention.self.query", "attention.self.value", "attention.output.dense", "intermediate.dense")
CHOICES = ("layer", "module")
# What picks a place, and whether more of it is better.
RULES = {"loss": False, "score": True, "gain": True, "energy": True}


@app.command()
def run(
    tasks: list[str],
    out: Out,
    threads: int = 1,
    steps: int = 60,
    batch_size: int = 16,
    max_length: int = 32,
    examples: int = 448,
    device: str = "cpu",
) -> None:
    """Rank the places of each task, then train them out."""
    import torch

    from deltatheory.backbones import load_backbone
    from deltatheory.control.reach.actuators import rank_actuators
    from deltatheory.control.reach.gramian import coordinate_groups
    from deltatheory.deltas import make_delta
    from deltatheory.problems import ClassificationProblem
    from deltatheory.problems.heads import make_head
    from deltatheory.results import ResultLog, write_json
    from deltatheory.tasks import load_task
    from deltatheory.training.trainer import Training, train

    torch.set_num_threads(threads)
    backbone = load_backbone(device=device)
    layers = range(len(backbone.layers))
    names = {(t, kind): f"encoder.layer.{t}.{kind}" for t in layers for kind in KINDS}
    places = {
        "layer": {f"block {t}": [names[t, kind] for kind in KINDS[:2]] for t in layers},
        "module": {kind: [names[t, kind] for t in layers] for kind in KINDS},
    }
    for choice, task_name in itertools.product(places, tasks):
        folder = out / Path(task_name).name.split(".")[0]
        if (folder / f"{choice}.json").exists():
            continue
        whole = load_task(task_name)
        task = whole.limited(min(512, len(whole.train)), min(500, len(whole.test)), 0)
        if len(task.dev) > 300:
            task = replace(task, dev=task.dev.subset(range(300)))
        log = ResultLog(folder / "trials.jsonl")
        head = make_head("label-words", backbone, task, max_length=max_length)

        def problem_of(targets: list[str], seed: int, task=task, head=head) -> ClassificationProblem:  # type: ignore
            delta = make_delta("lora", backbone, r=RANK, targets=targets, seed=seed)
            return ClassificationProblem(backbone, task, delta, head, max_length=max_length, check=False)

        def trained(targets: list[str], rate: float, seed: int, task=task, log=log) -> dict:  # type: ignore
            training = Training(steps=steps, batch_size=batch_size, learning_rate=rate, seed=seed)
            config = {
                "task": task.provenance,
                "targets": targets,
                "rank": RANK,
                "max_length": max_length,
                "training": training.to_dict(),
            }
            if row := log.find(config):
                return row["result"]
            problem = problem_of(targets, seed)
            outcome = train(problem, training)
            dev = len(targets) == 2 * len(layers)  # on all layers: decides between the rates
            result = {
                "test": outcome.test["accuracy"] if outcome.test else 0.0,
                "dev": problem.evaluate(outcome.delta, problem.dev)["accuracy"] if dev else None,
                "passes": outcome.passes,
                "seconds": outcome.seconds,
            }
            log.append(config, result)
            return result

        everywhere = [name for targets in places["layer"].values() for name in targets]
        first = {rate: trained(everywhere, rate, SEEDS[0]) for rate in RATES}
        rate = max(first, key=lambda r: first[r]["dev"])
        runs = {
            place: [trained(targets, rate, seed) for seed in SEEDS]
            for place, targets in places[choice].items()
        }
        problem = problem_of([name for targets in places[choice].values() for name in targets], SEEDS[0])
        modules = coordinate_groups(problem, "module")
        groups = {p: torch.cat([modules[n] for n in targets]) for p, targets in places[choice].items()}
        ranking = rank_actuators(problem, groups, examples=examples)
        write_json(
            folder / f"{choice}.json",
            {
                "frozen": problem.evaluate(problem.delta.initial(), problem.test)["accuracy"],
                "everywhere": first[rate]["test"],
                "learning_rate": rate,
                "places": [asdict(place) for place in ranking.places],
                "greedy": ranking.selection.chosen,
                "ranking_passes": ranking.passes,
                "ranking_seconds": ranking.seconds,
                "trained": {place: [r["test"] for r in rows] for place, rows in runs.items()},
                "trained_passes": sum(r["passes"] for rows in runs.values() for r in rows),
            },
        )
        typer.echo(f"{folder.name}: {choice} {ranking.chosen}")


@app.command()
def table(out: Out) -> None:
    """Make the tables and the figure of all tasks that are finished."""
    import matplotlib
    from scipy.stats import spearmanr

    from deltatheory.results import provenance, write_atomically, write_json

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines, found = [], {}
    figure, axes = plt.subplots(1, len(CHOICES), figsize=(8, 3.5), layout="constrained")
    for choice, side in zip(CHOICES, axes, strict=True):
        rows = []
        for path in sorted(out.glob(f"*/{choice}.json")):
            result = json.loads(path.read_text())
            scores = {place: mean(values) for place, values in result["trained"].items()}
            places = {place["name"]: place for place in result["places"]}
            names = list(scores)
            best = max(scores, key=lambda place: scores[place])
            picks = {
                rule: (max if more else min)(names, key=lambda n, rule=rule: places[n][rule])
                for rule, more in RULES.items()
            }
            rows.append(
                {
                    "task": path.parent.name,
                    "frozen": result["frozen"],
                    "everywhere": result["everywhere"],
                    "learning_rate": result["learning_rate"],
                    "best": best,
                    "best_score": scores[best],
                    "spread": scores[best] - min(scores.values()),
                    "seeds": mean(max(v) - min(v) for v in result["trained"].values()),
                    "picks": picks,
                    "short": {rule: scores[best] - scores[pick] for rule, pick in picks.items()},
                    "short_last": scores[best] - scores[names[-1]],
                    "short_mean": scores[best] - mean(scores.values()),
                    "spearman": float(
                        spearmanr([-places[n]["loss"] for n in names], [scores[n] for n in names])[0]
                    ),
                    "passes_ratio": result["trained_passes"] / result["ranking_passes"],
                }
            )
            side.plot([places[n]["score"] for n in names], [scores[n] for n in names], "o-", ms=3, lw=0.5)
        if not rows:
            continue
        side.set(xlabel="predicted score", ylabel="trained score", title=choice)
        summary = {
            "tasks": len(rows),
            **{f"{rule}_within_1_point": sum(r["short"][rule] <= 0.01 for r in rows) for rule in RULES},
            **{f"{rule}_mean_short": mean(r["short"][rule] for r in rows) for rule in RULES},
            "last_within_1_point": sum(r["short_last"] <= 0.01 for r in rows),
            "last_mean_short": mean(r["short_last"] for r in rows),
            "mean_of_places_short": mean(r["short_mean"] for r in rows),
        }
        found[choice] = {"summary": summary, "rows": rows}
        lines += [
            f"## {choice}",
            "",
            "| task | frozen | everywhere | best place trained | best to worst "
            "| short of the best, picked by held-out loss | by held-out score | by log det "
            "| by gradient energy | last place | mean place | rank correlation | passes trained / ranking |",
            "|" + "---|" * 13,
        ]
        for r in rows:
            picks = " | ".join(f"{r['picks'][rule]}: {r['short'][rule]:.3f}" for rule in RULES)
            lines.append(
                f"| {r['task']} | {r['frozen']:.3f} | {r['everywhere']:.3f} | {r['best']} "
                f"({r['best_score']:.3f}) | {r['spread']:.3f} | {picks} | {r['short_last']:.3f} "
                f"| {r['short_mean']:.3f} | {r['spearman']:.2f} | {r['passes_ratio']:.0f} |"
            )
        lines += ["", "Summary: " + json.dumps({k: round(v, 4) for k, v in summary.items()}), ""]
    write_json(out / "table.json", {**found, "provenance": provenance()})
    write_atomically(out / "table.md", "\n".join(lines))
    typer.echo("\n".join(lines))
    figure.savefig(out / "figure.png", dpi=120)


if __name__ == "__main__":
    app()
