"""What feedback gives back of the accuracy that disturbances take from a trained prefix.

    python -m experiments.robustness run TASK... --out FOLDER    # resumes; one folder a task
    python -m experiments.robustness table --out FOLDER          # table.md, table.json, figure.png

A TASK is what `deltatheory steer --task` takes. For each task and seed a prefix is trained, and the frozen
model, the prefix alone, robust prefix-tuning, PID and LQR are run on the test split, clean and under four
disturbances. Every controller has three settings to choose from; the best mean accuracy over the five
conditions on the dev split decides, once a task (seed 0), with other draws of the disturbances and another
trigger than those of the test. With `--alone`, feedback sees one text at a time instead of the batch.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]

STRENGTHS = {
    "substitutions": {"rate": 0.3},
    "typos": {"rate": 0.5},
    "trigger": {"length": 3, "rounds": 1, "candidates": 8, "examples": 32},
    "noise": {"scale": 0.7},
}
TUNED_SEED = 1000  # of the disturbances on dev
ALONE = {
    "pid": [{"setpoint": "class", "proportional": p} for p in (0.3, 0.45, 0.6)],
    "lqr": [{"setpoint": "class", "control_weight": r} for r in (0.2, 0.5, 1.0)],
}


@app.command()
def run(
    tasks: list[str],
    out: Out,
    seeds: int = 3,
    threads: int = 1,
    steps: int = 100,
    test: int = 160,
    dev: int = 96,
    device: str = "cpu",
    alone: Annotated[bool, typer.Option(help="No setpoint that looks at the batch.")] = False,
) -> None:
    """Train, tune and disturb, task after task and seed after seed."""
    import torch
    from safetensors.torch import load_file, save_file

    from deltatheory.backbones import load_backbone
    from deltatheory.control.feedback.disturbances import Disturbance, disturbed_batches, make_disturbance
    from deltatheory.control.feedback.setpoints import nominal_states
    from deltatheory.control.feedback.steering import GRIDS, POLICIES, steer, tune
    from deltatheory.deltas import make_delta
    from deltatheory.problems import ClassificationProblem
    from deltatheory.problems.heads import make_head
    from deltatheory.results import ResultLog, configuration_hash, provenance, write_json
    from deltatheory.tasks import load_task
    from deltatheory.training.trainer import Training, train

    torch.set_num_threads(threads)
    grids, controllers = (ALONE, ("tuned", *ALONE)) if alone else (GRIDS, tuple(POLICIES))
    backbone = load_backbone(device=device)
    for name in tasks:
        folder = out / Path(name).name.split(".")[0]
        log = ResultLog(folder / "trials.jsonl")
        whole = load_task(name)
        task = whole.limited(min(512, len(whole.train)), min(test, len(whole.test)), 0)
        task = replace(task, dev=task.dev.subset(range(min(dev, len(task.dev)))))
        head = make_head("label-words", backbone, task, max_length=64)
        for seed in range(seeds):
            training = Training(steps=steps, batch_size=16, learning_rate=1e-2, seed=seed)
            config = {
                "task": task.provenance,
                "delta": {"length": 8, "gate": "values", "seed": seed},
                "training": training.to_dict(),
                "strengths": STRENGTHS,
                "grids": grids,
                "dev": dev,
            }
            if seed == 0:
                first = {**config, "stage": "tuning"}
            if log.find(config):
                continue
            delta = make_delta("prefix", backbone, **config["delta"])
            problem = ClassificationProblem(backbone, task, delta, head, check=False)
            weights = folder / f"prefix-{configuration_hash(config['training'])}.safetensors"
            if not weights.exists():
                folder.mkdir(parents=True, exist_ok=True)
                save_file({"delta": train(problem, training).delta}, weights)
            x = load_file(weights, device=device)["delta"]

            def disturb(draw: int, problem=problem, x=x) -> list[Disturbance]:
                return [make_disturbance(n, problem, x, seed=draw, **s) for n, s in STRENGTHS.items()]

            if seed == 0 and not log.find(first):
                nominal = nominal_states(problem, x)
                on_dev = [Disturbance(), *disturb(TUNED_SEED)]
                batches = {d.name: (d, disturbed_batches(problem, problem.dev, d, 32)) for d in on_dev}
                chosen = {n: tune(n, problem, x, nominal, batches, grid) for n, grid in grids.items()}
                log.append(
                    first,
                    {
                        "settings": {n: best for n, (best, _) in chosen.items()},
                        "tried": {n: tried for n, (_, tried) in chosen.items()},
                    },
                )
            settings = log.find(first)["result"]["settings"]
            result = steer(
                problem,
                x,
                controllers,
                disturb(seed),
                settings=settings,
                timed=4,
                clock=time.process_time,
            )
            log.append(config, result.to_dict())
            typer.echo(f"{folder.name}, seed {seed}\n{result.table()}")
        write_json(folder / "provenance.json", provenance())


@app.command()
def table(out: Out) -> None:
    """Make the table and the figure of all runs that are finished."""
    import matplotlib

    from deltatheory.control.feedback.steering import CLEAN, POLICIES, TUNED
    from deltatheory.results import ResultLog, provenance, write_atomically, write_json

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    conditions = [CLEAN, *STRENGTHS]
    lines, summary, figures = [], {}, {}
    for path in sorted(out.glob("*/trials.jsonl")):
        runs = [r["result"] for r in ResultLog(path).rows() if "stage" not in r["config"]]
        chosen = [r["result"] for r in ResultLog(path).rows() if "stage" in r["config"]][-1]
        rows = {}
        for controller in (name for name in POLICIES if name in runs[0]["settings"]):
            scores = {c: [_accuracy(run, controller, c) for run in runs] for c in conditions}
            rows[controller] = {
                "accuracy": {c: mean(v) for c, v in scores.items()},
                "spread": {c: stdev(v) if len(v) > 1 else None for c, v in scores.items()},
                "recovered": _shared(runs, controller, list(STRENGTHS)),
                "recovered_each": {c: _shared(runs, controller, [c]) for c in STRENGTHS},
                "recovered_by_seed": [_shared([run], controller, list(STRENGTHS)) for run in runs],
                "energy": mean(
                    r["energy"]
                    for run in runs
                    for r in run["rows"]
                    if r["controller"] == controller and r["disturbance"] != CLEAN
                ),
                "seconds": mean(run["latency"][controller]["seconds"] for run in runs),
                "added": mean(run["latency"][controller]["added"] for run in runs),
            }
        task = path.parent.name
        summary[task] = {"runs": len(runs), "settings": chosen["settings"], "rows": rows}
        figures[task] = rows
        lines += [
            f"**{task}**, {len(runs)} seeds, {runs[0]['rows'][0]['texts']} test examples; settings "
            f"{json.dumps(chosen['settings'])}",
            "",
            "| controller | " + " | ".join(conditions) + " | recovered | energy | CPU s/batch | added |",
            "|" + "---|" * (len(conditions) + 5),
        ]
        for controller, r in rows.items():
            cells = [f"{r['accuracy'][c]:.3f}" for c in conditions]
            share = "-" if controller == TUNED else f"{r['recovered']:.0%}"
            lines.append(
                f"| {controller} | " + " | ".join(cells) + f" | {share} | {r['energy']:.3g} "
                f"| {r['seconds']:.3f} | {r['added']:+.0%} |"
            )
        for controller in ("pid", "lqr"):
            shares = rows[controller]["recovered_each"].items()
            each = ", ".join(f"{c} {share:.0%}" for c, share in shares if share is not None)
            lines += ["", f"Recovered by {controller}, one disturbance at a time: {each}."]
        lines.append("")
    reached = {
        task: {c: [s["rows"][c]["recovered"] >= 0.5, s["rows"][c]["added"] <= 0.15] for c in ("pid", "lqr")}
        for task, s in summary.items()
    }
    lines += [
        "tuned: the trained prefix alone; the controllers below act on top of it. recovered: of the accuracy "
        "that it loses, summed over the four disturbances and the seeds. added: CPU time of a batch of 32 "
        "beside the prefix alone. energy: |δ|² of a fixed prefix, |ψ|² of a robust one, Σ|u|² of feedback; "
        "they compare within a kind.",
        "",
        f"At least half recovered, and at most 15 % added: {json.dumps(reached)}",
        "",
    ]
    write_json(out / "table.json", {"tasks": summary, "reached": reached, "provenance": provenance()})
    write_atomically(out / "table.md", "\n".join(lines))
    typer.echo("\n".join(lines))

    figure, axes = plt.subplots(
        1, len(figures), figsize=(5.2 * len(figures), 3.2), layout="constrained", squeeze=False
    )
    for ax, (task, rows) in zip(axes[0], figures.items(), strict=True):
        for i, (controller, r) in enumerate(rows.items()):
            places = [k + 0.16 * (i - 2) for k in range(len(conditions))]
            errors = [r["spread"][c] or 0.0 for c in conditions]
            ax.bar(places, [r["accuracy"][c] for c in conditions], 0.16, yerr=errors, label=controller)
        ax.set(title=task, xticks=range(len(conditions)), ylim=(0, 1), ylabel="accuracy")
        ax.set_xticklabels(conditions, fontsize="small")
    axes[0][0].legend(fontsize="x-small", ncols=3, loc="upper right", frameon=False)
    figure.savefig(out / "figure.png", dpi=120)


def _accuracy(run: dict, controller: str, disturbance: str) -> float:
    return next(
        r["accuracy"] for r in run["rows"] if (r["controller"], r["disturbance"]) == (controller, disturbance)
    )


def _shared(runs: list[dict], controller: str, disturbances: list[str]) -> float | None:
    """Return the share of the prefix's loss, summed over runs and disturbances, that is recovered."""
    lost = gained = 0.0
    for run in runs:
        for name in disturbances:
            alone = _accuracy(run, "tuned", name)
            lost += _accuracy(run, "tuned", "clean") - alone
            gained += _accuracy(run, controller, name) - alone
    return gained / lost if lost > 0 else None


if __name__ == "__main__":
    app()
