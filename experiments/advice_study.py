"""Advice before training against what training gives: every candidate is also trained.

    python -m experiments.advice_study draw DATA CHOSEN...         # six more tasks, by lot
    python -m experiments.advice_study run TASK... --out FOLDER    # resumes; one folder a task
    python -m experiments.advice_study table --out FOLDER          # table.md, table.json, figure.png

A TASK is what `deltatheory advise --task` takes. Every candidate climbs over the same learning rates, by dev
accuracy with seed 0: downwards as long as that rises, or else upwards. Then come two more seeds; the score is
the mean test accuracy of the three.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]

RATES = (3e-4, 1e-3, 1e-2, 3e-2)
FIRST = 2  # where the climb over the rates begins
SEEDS = (0, 1, 2)
# Candidates of `advise` that are not trained as well: neighbours of others, and six runs each.
LEFT_OUT = ("prefix length=4 gate=values", "adapter bottleneck=8")
_SPREADS = 1.645  # of a normal distribution to either side of its mean: 90 %
# The two rules that advice has to beat.
LARGEST = "full"
ALWAYS = "lora r=8"


@app.command()
def draw(data: Path, chosen: list[str], seed: int = 2026, count: int = 6) -> None:
    """Draw classification tasks by lot from the collections in a folder, without those chosen."""
    rest = {}
    for index in data.glob("*/index.json"):
        for entry in json.loads(index.read_text()).get("tasks", ()):
            if entry.get("labels") and entry["id"] not in chosen:
                rest[entry["id"]] = index.parent / entry["file"]
    for name in random.Random(seed).sample(sorted(rest), count):
        typer.echo(rest[name])


@app.command()
def run(
    tasks: list[str],
    out: Out,
    threads: int = 1,
    steps: int = 60,
    batch_size: int = 16,
    device: str = "cpu",
) -> None:
    """Advise on and train tasks one after the other."""
    import torch

    from deltatheory.advice import CANDIDATES, advise
    from deltatheory.backbones import load_backbone
    from deltatheory.deltas import make_delta
    from deltatheory.problems import ClassificationProblem, Setup
    from deltatheory.problems.heads import make_head
    from deltatheory.results import ResultLog, write_json
    from deltatheory.tasks import load_task
    from deltatheory.training.trainer import Training, train

    torch.set_num_threads(threads)
    backbone = load_backbone(device=device)
    for name in tasks:
        folder = out / Path(name).name.split(".")[0]
        if (folder / "result.json").exists():
            continue
        whole = load_task(name)
        task = whole.limited(min(512, len(whole.train)), min(500, len(whole.test)), 0)
        if len(task.dev) > 300:
            task = replace(task, dev=task.dev.subset(range(300)))
        if not (folder / "advice.json").exists():
            advise(Setup(backbone, task), steps=steps, batch_size=batch_size).save(folder)
        log = ResultLog(folder / "trials.jsonl")
        head = make_head("label-words", backbone, task, max_length=64)

        def score(candidate, rate: float, seed: int, task=task, head=head, log=log) -> dict:  # type: ignore
            training = Training(steps=steps, batch_size=batch_size, learning_rate=rate, seed=seed)
            config = {
                "task": task.provenance,
                "candidate": candidate.label,
                "training": training.to_dict(),
            }
            row = log.find(config)
            if row:
                return row["result"]
            options = dict(candidate.options)
            if candidate.method not in ("layernorm", "bitfit", "ia3", "full"):
                options["seed"] = seed
            delta = make_delta(candidate.method, backbone, **options)
            problem = ClassificationProblem(backbone, task, delta, head, check=False)
            outcome = train(problem, training)
            dev = problem.evaluate(outcome.delta, problem.dev)["accuracy"] if outcome.test else 0.0
            problem.restore()
            result = {
                "dev": dev,
                "test": outcome.test["accuracy"] if outcome.test else 0.0,
                "passes": outcome.passes,
                "seconds": outcome.seconds,
            }
            log.append(config, result)
            return result

        trained = {}
        for candidate in CANDIDATES:
            if candidate.label in LEFT_OUT:
                continue
            first = {}

            def dev(i: int, candidate=candidate, first=first) -> float:  # type: ignore
                first.setdefault(RATES[i], score(candidate, RATES[i], SEEDS[0]))
                return first[RATES[i]]["dev"]

            at = FIRST
            for step in (-1, 1):
                while 0 <= at + step < len(RATES) and dev(at + step) > dev(at):
                    at += step
            rate = RATES[at]
            runs = [first[rate], *(score(candidate, rate, seed) for seed in SEEDS[1:])]
            trained[candidate.label] = {
                "learning_rate": rate,
                "scores": [r["test"] for r in runs],
                "passes": sum(r["passes"] for r in [*first.values(), *runs[1:]]),
            }
        advice = json.loads((folder / "advice.json").read_text())
        write_json(folder / "result.json", {"advice": advice, "trained": trained})
        typer.echo(f"{folder.name}: advice {advice['winner']}")


@app.command()
def table(out: Out) -> None:
    """Make the table and the figure of all tasks that are finished."""
    import matplotlib
    from scipy.stats import spearmanr

    from deltatheory.results import provenance, write_atomically, write_json

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, points, parts = [], [], []
    for path in sorted(out.glob("*/result.json")):
        result = json.loads(path.read_text())
        trained = {
            label: mean(r["scores"]) for label, r in result["trained"].items() if label not in LEFT_OUT
        }
        estimates = {_label(e): e for e in result["advice"]["ranked"]}
        advised = next(label for label in estimates if label in trained)
        labels = list(trained)
        best = max(trained, key=lambda label: trained[label])
        rho = spearmanr([estimates[x]["score"] for x in labels], [trained[x] for x in labels])[0]
        covered = [estimates[x]["low"] <= trained[x] <= estimates[x]["high"] for x in labels]
        points += [(estimates[x]["score"], trained[x]) for x in labels]
        model = result["advice"]["provenance"]["settings"]["model_spread"]
        parts.append([_standing(estimates[x], trained[x], model) for x in labels])
        rows.append(
            {
                "task": path.parent.name,
                "frozen": result["advice"]["frozen"],
                "best": best,
                "best_score": trained[best],
                "advice": advised,
                "loss_advice": trained[best] - trained[advised],
                "loss_largest": trained[best] - trained[LARGEST],
                "loss_always": trained[best] - trained[ALWAYS],
                "spearman": None if math.isnan(rho) else float(rho),
                "covered": sum(covered),
                "candidates": len(labels),
                "passes_ratio": sum(r["passes"] for r in result["trained"].values())
                / result["advice"]["passes"],
            }
        )
    count = len(rows)
    held_out = [
        abs(residual)
        <= _SPREADS * math.hypot(sampling, _spread([x for q in parts if q is not part for x in q]))
        for part in parts
        for residual, sampling in part
    ]
    residuals = [_logit(t) - _logit(p) for p, t in points]
    summary = {
        "tasks": count,
        "pairs": len(points),
        "advice_within_1_point": sum(r["loss_advice"] <= 0.01 for r in rows),
        "largest_within_1_point": sum(r["loss_largest"] <= 0.01 for r in rows),
        "always_within_1_point": sum(r["loss_always"] <= 0.01 for r in rows),
        "mean_loss_advice": mean(r["loss_advice"] for r in rows),
        "mean_loss_largest": mean(r["loss_largest"] for r in rows),
        "mean_loss_always": mean(r["loss_always"] for r in rows),
        "coverage": sum(r["covered"] for r in rows) / sum(r["candidates"] for r in rows),
        "spread_for_90_percent": _spread([x for part in parts for x in part]),
        "coverage_with_the_spread_of_the_other_tasks": mean(held_out),
        "logit_residual_mean": mean(residuals),
        "logit_residual_rms": math.sqrt(mean(x * x for x in residuals)),
    }
    write_json(out / "table.json", {"summary": summary, "rows": rows, "provenance": provenance()})
    lines = [
        "| task | frozen | best of all trained | advice | loss: advice | loss: largest | loss: lora r=8 "
        "| rank correlation | covered | passes trained / advice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        rho = "-" if r["spearman"] is None else f"{r['spearman']:.2f}"
        lines.append(
            f"| {r['task']} | {r['frozen']:.3f} | {r['best']} ({r['best_score']:.3f}) | {r['advice']} "
            f"| {r['loss_advice']:.3f} | {r['loss_largest']:.3f} | {r['loss_always']:.3f} | {rho} "
            f"| {r['covered']}/{r['candidates']} | {r['passes_ratio']:.0f} |"
        )
    lines += ["", "Summary: " + json.dumps({k: round(v, 3) for k, v in summary.items()}), ""]
    write_atomically(out / "table.md", "\n".join(lines))
    typer.echo("\n".join(lines))

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o", ms=3)
    axes.plot([0, 1], [0, 1], color="0.5", lw=1)
    axes.set(xlabel="predicted score", ylabel="trained score", xlim=(0.3, 1), ylim=(0.3, 1))
    figure.savefig(out / "figure.png", dpi=120)


def _standing(estimate: dict, trained: float, model: float) -> tuple[float, float]:
    """Return the residual in logits, and the spread in it that sampling alone leaves, beside the model's."""
    width = (_logit(estimate["high"]) - _logit(estimate["low"])) / 2 / _SPREADS
    return _logit(trained) - _logit(estimate["score"]), math.sqrt(max(width**2 - model**2, 0.0))


def _spread(points: list[tuple[float, float]]) -> float:
    """Return the model spread with which 90 % of the residuals lie in their intervals."""
    needed = sorted(
        math.sqrt(max((residual / _SPREADS) ** 2 - sampling**2, 0.0)) for residual, sampling in points
    )
    return needed[min(len(needed) - 1, math.ceil(0.9 * len(needed)) - 1)]


def _label(estimate: dict) -> str:
    return " ".join([estimate["method"], *(f"{k}={v}" for k, v in estimate["options"].items())])


def _logit(score: float) -> float:
    score = min(max(score, 1e-3), 1 - 1e-3)
    return math.log(score / (1 - score))


if __name__ == "__main__":
    app()
