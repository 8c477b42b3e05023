"""How tight the theorems are on a pretrained model: both sides of each, on several tasks.

    python -m experiments.tightness TASK... --out FOLDER    # tightness.md, tightness.json

A TASK is what `deltatheory check --task` takes. One line a theorem: how it was checked in general, whether it
is vacuous somewhere, and its tightness (1 is attained) on every task.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def main(
    tasks: list[str],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    model: str = "minilm",
    delta: str = "lora:4",
    seed: int = 0,
) -> None:
    import torch
    from tqdm import tqdm

    from deltatheory.backbones import load_backbone
    from deltatheory.problems import load_problem
    from deltatheory.results import provenance, write_atomically, write_json
    from deltatheory.testing.on_models import ON_MODELS, check_on_model

    torch.set_num_threads(1)
    backbone = load_backbone(model)
    found: dict[str, list] = {}
    for task in tasks:
        problem = load_problem(backbone, task, delta, seed=seed)
        with tqdm(total=len(ON_MODELS), desc=problem.task.name, unit="theorem") as bar:
            checks = check_on_model(problem, seed=seed, on_row=lambda _, bar=bar: bar.update())
        found[problem.task.name] = list(checks.rows)
    write_json(
        out / "tightness.json",
        {
            "tasks": {name: [row.to_dict() for row in rows] for name, rows in found.items()},
            "settings": {"model": model, "delta": delta, "seed": seed},
            "provenance": provenance(),
        },
    )
    by_id: dict[str, list] = {}
    for rows in found.values():
        for row in rows:
            by_id.setdefault(row.id, []).append(row)
    order = sorted(by_id, key=lambda id: (not any(r.vacuous for r in by_id[id]), id))
    lines = [
        f"# Tightness of {len(order)} theorems on {backbone.name}, {delta}",
        "",
        "Tightness is the smaller side over the larger, as claimed: 1 is attained, above 1 a violation.",
        "Vacuous: below 1/100, or no better than what is known without the theorem.",
        "",
        "| theorem | checked | " + " | ".join(found) + " | verdict | hypotheses here |",
        "|---|---|" + "---|" * len(found) + "---|---|",
    ]
    for id in order:
        rows = by_id[id]
        ratios = ["-" if math.isnan(r.ratio) else f"{r.ratio:.3g}" for r in rows]
        verdict = "**vacuous**" if any(r.vacuous for r in rows) else "holds"
        if any(r.holds is None for r in rows):
            verdict = "not measured"
        if any(r.holds is False for r in rows):
            verdict = "**VIOLATED**"
        cells = [f"{id} {rows[0].name}", rows[0].status, *ratios, verdict, rows[0].hypotheses]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    write_atomically(out / "tightness.md", "\n".join([*lines, ""]))
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
