"""Predicted and measured d90, side by side, on any number of tasks.

    python -m experiments.dimension_study run TASK... --out FOLDER    # resumes; one folder a task
    python -m experiments.dimension_study table --out FOLDER          # table.md, table.json, figure.png

A TASK is what `deltatheory dimension --task` takes. Every task is run alike: the defaults of
`deltatheory.intrinsic_dimension`, at most 512 training and 1,000 test examples.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]


@app.command()
def run(
    tasks: list[str],
    out: Out,
    method: Literal["predict", "measure", "both"] = "both",
    threads: int = 1,
    runs: float = 6.0,
    burn_in: int = 0,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Run tasks one after the other."""
    import torch

    from deltatheory.backbones import load_backbone
    from deltatheory.dimension import DimensionSettings, intrinsic_dimension
    from deltatheory.problems import Setup
    from deltatheory.results import ResultLog

    torch.set_num_threads(threads)
    backbone = load_backbone(device=device)
    for task in tasks:
        folder = out / Path(task).name.split(".")[0]
        if (folder / "result.json").exists():
            continue
        typer.echo(f"{folder.name} ...")
        result = intrinsic_dimension(
            Setup(backbone, task, train_examples=512, test_examples=1000, seed=seed),
            method=method,
            settings=DimensionSettings(runs=runs, burn_in=burn_in),
            log=ResultLog(folder / "trials.jsonl"),
        )
        result.save(folder)
        typer.echo(f"{folder.name}: predicted {result.predicted}, measured {result.measured}")


@app.command()
def table(
    out: Out,
    predicted: Annotated[
        Path | None, typer.Option(help="Take the predictions from this folder (`--method predict`).")
    ] = None,
) -> None:
    """Make the table and the figure of all tasks that are finished."""
    import matplotlib
    from scipy.stats import spearmanr

    from deltatheory.results import provenance, write_atomically, write_json

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}
    if predicted:
        for name, result in results.items():
            _take_prediction(result, json.loads((predicted / name / "result.json").read_text()))
    rows = [_row(name, result) for name, result in results.items()]
    both = [row for row in rows if row["ratio"]]
    summary = {
        "tasks": len(rows),
        "compared": len(both),
        "within_factor_two": sum(0.5 <= row["ratio"] <= 2 for row in both),
        "spearman": float(spearmanr([r["predicted"] for r in both], [r["measured"] for r in both])[0])
        if len(both) > 2
        else None,
        "log_ratio_sd": _deviation([math.log(row["ratio"]) for row in both]),
        "predicted_interval_covers": sum(bool(row["covered"]) for row in both),
        "measured_within_25_percent": sum(row["width"] is not None and row["width"] <= 0.25 for row in rows),
    }
    write_json(out / "table.json", {"summary": summary, "rows": rows, "provenance": provenance()})
    lines = [
        "| task | frozen | baseline (linearized) | level | predicted d90 (90 %) | measured d90 (90 %) "
        "| ratio | full runs | passes measure / predict | linearization error | movement |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['task']} | {row['frozen']:.3f} "
            f"| {row['baseline']:.3f} ({row['predicted_baseline']:.3f}) "
            f"| {row['level']:.3f} | {_interval(row, 'predicted')} | {_interval(row, 'measured')} "
            f"| {_number(row['ratio'], '.2f')} | {row['full_runs']:.1f} | {row['passes_ratio']:.0f} "
            f"| {row['linearization_error']:.2f} | {row['movement']:.2f} |"
        )
    lines += ["", "Summary: " + json.dumps(summary), ""]
    write_atomically(out / "table.md", "\n".join(lines))
    typer.echo("\n".join(lines))

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    for row in both:
        axes.plot([row["measured"]] * 2, [row["predicted_low"], row["predicted_high"]], color="0.8", lw=3)
        if row["measured_high"]:
            axes.plot([row["measured_low"], row["measured_high"]], [row["predicted"]] * 2, color="0.8", lw=3)
        axes.plot(row["measured"], row["predicted"], "o", color="C0")
        axes.annotate(
            row["task"],
            (row["measured"], row["predicted"]),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    line = [4, 10_000]
    for factor, style in ((1, "-"), (2, ":"), (0.5, ":")):
        axes.plot(line, [factor * x for x in line], style, color="0.5", lw=1)
    axes.set(xscale="log", yscale="log", xlabel="measured d90", ylabel="predicted d90", xlim=line, ylim=line)
    figure.savefig(out / "figure.png", dpi=120)


def _take_prediction(result: dict, other: dict) -> None:
    for part, verb in (("d90", "predicted"), ("baseline", "predicted"), ("passes", "predict")):
        result[part][verb] = other[part][verb]
    result["diagnostics"] = other["diagnostics"]


def _row(name: str, result: dict) -> dict:
    predicted, measured = result["d90"]["predicted"], result["d90"]["measured"]
    ratio = predicted["value"] / measured["value"] if predicted["value"] and measured["value"] else None
    width = None
    if measured["value"] and measured["high"]:
        width = max(measured["high"] / measured["value"] - 1, 1 - measured["low"] / measured["value"])
    return {
        "task": name,
        "frozen": result["frozen"],
        "baseline": result["baseline"]["measured"],
        "predicted_baseline": result["baseline"]["predicted"],
        "level": result["level"]["measured"],
        **{f"predicted{key}": predicted[field] for key, field in _FIELDS.items()},
        **{f"measured{key}": measured[field] for key, field in _FIELDS.items()},
        "ratio": ratio,
        "covered": ratio and predicted["low"] <= measured["value"] <= predicted["high"],
        "width": width,
        "full_runs": result["full_runs"],
        "passes_ratio": result["passes"]["measure"] / result["passes"]["predict"],
        "linearization_error": result["diagnostics"]["linearization_error"],
        "movement": result["diagnostics"]["movement"],
        "missed": result["diagnostics"]["missed"],
    }


_FIELDS = {"": "value", "_low": "low", "_high": "high", "_status": "status"}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(row: dict, kind: str) -> str:
    low, high = _number(row[f"{kind}_low"], ".0f"), _number(row[f"{kind}_high"], ".0f")
    return f"{_number(row[kind], '.0f')} ({low} to {high})"


def _deviation(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


if __name__ == "__main__":
    app()
