"""Prefix control: training loss against passes for Gauss-Newton, Adam at five rates, L-BFGS, MSA and E-MSA.

    python -m experiments.prefix_control run TASK... --out FOLDER        # MiniLM, classification; resumes
    python -m experiments.prefix_control language --out FOLDER           # a tiny GPT-2; resumes
    python -m experiments.prefix_control table --out FOLDER              # table.md, table.json, figure.png

A TASK is what `deltatheory train --task` takes. Passes are forward-equivalents over the training set: one a
forward pass, one a backward pass through the frozen network. Whether a loss is reached is measured on the
whole training set, outside the solver's count, after each full-batch step or two passes of mini-batches.
Held-out loss and accuracy are those of the last control.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="Folder of the study.")]

# Five rates around the best ones; the default is the one rate of somebody who does not tune.
RATES = {"classification": (0.01, 0.02, 0.05, 0.1, 0.2), "language": (0.05, 0.1, 0.2, 0.5, 1.0)}
DEFAULT = {"classification": 0.01, "language": 0.05}
LEVELS = {"classification": (0.3, 0.1, 0.03), "language": (0.85, 0.75, 0.65)}  # of language: times the start
BUDGET = {"classification": 24.0, "language": 60.0}
GAUSS = ("gauss-newton, full", "gauss-newton, incremental")
# Beside the first ones tried, 1 and 0.1: whichever does best stands for the solver.
SWEPT = {"msa": ("step_size", (0.3, 3.0, 10.0)), "e-msa": ("rho", (0.01, 1.0))}
SWEPT_LABELS = [f"{name}, {value}" for name, (_, values) in SWEPT.items() for value in values]
NAMES = {"full": "Adam, full batch", "mini": "Adam, mini-batch"}


class _Reached(Exception):
    """The lowest level is reached: no need to go on."""


def _solvers(batch_size: int, budget: float, kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return label ↦ (name of the solver, settings)."""
    adam = {
        f"adam, {form}, {rate}": ("adam", {"learning_rate": rate, **size})
        for form, size in (("full", {}), ("mini", {"batch_size": batch_size}))
        for rate in RATES[kind]
    }
    if kind == "language":
        gauss = {GAUSS[0]: ("sampled-gauss-newton", {})}
        layered = {}
    else:
        gauss = {GAUSS[0]: ("gauss-newton", {}), GAUSS[1]: ("gauss-newton", {"batch_size": batch_size})}
        layered = {"msa": ("msa", {"step_size": 1.0}), "e-msa": ("e-msa", {"rho": 0.1, "inner": 5})}
        layered |= {
            f"{name}, {value}": (name, {**layered[name][1], setting: value})
            for name, (setting, values) in SWEPT.items()
            for value in values
        }
    others = {**gauss, "l-bfgs": ("l-bfgs", {}), **layered}
    return {
        label: (name, {"budget": budget, **settings}) for label, (name, settings) in (others | adam).items()
    }


def _levels(kind: str, curve: list) -> list[float]:
    return [level * (curve[0][1] if kind == "language" else 1.0) for level in LEVELS[kind]]


def _measure(problem: Any, solver: str, settings: dict, kind: str, held_out: Callable) -> dict:
    """Return the curve (passes, loss) of one solver down to the lowest level, and what is left at its end."""
    from deltatheory.control.solvers.objective import Objective
    from deltatheory.control.solvers.solve import solve

    objective, count = Objective(problem), len(problem.train)
    mini = settings.get("batch_size", count) < count
    curve: list[tuple[float, float]] = []
    last: dict[str, Any] = {}

    def watch(delta):
        last["delta"] = delta.clone()
        due = not curve or not mini or (problem.passes - last["start"]) / count >= curve[-1][0] + 2
        return {"loss": objective.value(delta)[0]} if mini and due else {}

    def on_step(row: dict) -> None:
        loss = row.get("loss", None if mini else row["cost"])
        last["seconds"] = row["seconds"]
        if loss is not None:
            curve.append((row["passes"] / count, loss))
            if loss <= _levels(kind, curve)[-1]:
                raise _Reached

    last["start"] = problem.passes
    layered = solver in ("msa", "e-msa")
    status = "level reached"
    try:
        solution = solve(problem, solver, on_step=on_step, watch=None if layered else watch, **settings)
        status, last["delta"] = str(solution.status), solution.value
    except _Reached:
        pass
    scores = {} if "delta" not in last else held_out(last["delta"])
    return {"curve": curve, "status": status, "seconds": last["seconds"], **scores}


def _study(problem: Any, kind: str, config: dict, log: Any, batch_size: int, held_out: Callable) -> None:
    for label, (solver, settings) in _solvers(batch_size, BUDGET[kind], kind).items():
        key = {**config, "kind": kind, "solver": label, "settings": settings}
        if log.find(key) is None:
            row = log.append(key, _measure(problem, solver, settings, kind, held_out))["result"]
            passes, loss = row["curve"][-1]
            typer.echo(
                f"{config['task']} {config['seed']} {label}: {loss:.3f} after {passes:.1f} ({row['status']})"
            )


@app.command()
def run(
    tasks: list[str],
    out: Out,
    examples: int = 32,
    length: int = 4,
    max_length: int = 12,
    batch_size: int = 8,
    seeds: int = 3,
    held_out: int = 100,
    threads: int = 1,
) -> None:
    """Fit prefixes of MiniLM to tasks with every solver."""
    import torch

    from deltatheory.backbones import load_backbone
    from deltatheory.deltas import make_delta
    from deltatheory.problems import ClassificationProblem
    from deltatheory.results import ResultLog
    from deltatheory.tasks import load_task

    torch.set_num_threads(threads)
    backbone, log = load_backbone(), ResultLog(out / "runs.jsonl")
    for seed in range(seeds):
        for name in tasks:
            whole = load_task(name)
            task = whole.limited(examples, min(held_out, len(whole.test)), seed)
            delta = make_delta("prefix", backbone, length=length, gate="values", seed=seed)
            problem = ClassificationProblem(backbone, task, delta, max_length=max_length, check=False)

            def scores(d, problem=problem) -> dict:
                found = problem.evaluate(d, problem.test)
                return {"held_out_loss": found["loss"], "held_out_accuracy": found["accuracy"]}

            config = {"task": Path(name).name.split(".")[0], "seed": seed, "examples": examples}
            config |= {"length": length, "max_length": max_length}
            _study(problem, "classification", config, log, batch_size, scores)


@app.command()
def language(
    out: Out,
    weights: Path = Path("runs/tiny-gpt2.safetensors"),
    examples: int = 32,
    length: int = 6,
    batch_size: int = 8,
    seeds: int = 3,
    steps: int = 500,
    threads: int = 1,
) -> None:
    """Fit prefixes of a tiny GPT-2, trained on the standard library's sources, to other alphabets."""
    import codecs

    import torch

    from deltatheory.deltas import make_delta
    from deltatheory.problems import GenerationProblem
    from deltatheory.results import ResultLog
    from deltatheory.tasks import Examples, Task

    torch.set_num_threads(threads)
    text = _sources()
    backbone, log = _tiny_gpt2(text, weights, steps), ResultLog(out / "runs.jsonl")
    for seed in range(seeds):
        for name, change in {"swapcase": str.swapcase, "rot13": lambda x: codecs.encode(x, "rot13")}.items():
            parts = _texts(text, 3 * examples, 100 + seed, 36)
            rows = [(change(x[:8].rstrip() or "#"), change(x[8:].strip() or "#")) for x in parts]
            splits = [
                Examples(tuple(s for s, _ in part), targets=tuple(t for _, t in part))
                for part in (rows[:examples], rows[examples : examples + 1], rows[examples:])
            ]
            task = Task(name, "generation", (), *splits, {})
            delta = make_delta("prefix", backbone, length=length, gate="none", seed=seed)
            problem = GenerationProblem(backbone, task, delta, max_length=48, max_new_tokens=32, check=False)

            def scores(d, problem=problem) -> dict:
                total = tokens = 0.0
                for start in range(0, len(problem.test), 32):
                    chosen = range(start, min(start + 32, len(problem.test)))
                    batch, labels = problem.batch(problem.test, chosen)
                    with torch.no_grad():
                        count = int((labels >= 0).sum())
                        total, tokens = total + count * float(problem.loss(d, batch, labels)), tokens + count
                return {"held_out_loss": total / tokens, "held_out_accuracy": None}

            config = {"task": name, "seed": seed, "examples": examples, "length": length, "steps": steps}
            _study(problem, "language", config, log, batch_size, scores)


def _sources() -> str:
    """Return the standard library's modules as one text of printable characters."""
    import sysconfig

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in files)
    return "".join(c for c in text if c == "\n" or " " <= c <= "~")


def _texts(text: str, count: int, seed: int, size: int) -> list[str]:
    import random

    draw = random.Random(seed)
    return [text[k : k + size] for k in (draw.randrange(len(text) - size) for _ in range(count))]


def _tiny_gpt2(text: str, weights: Path, steps: int) -> Any:
    """Return a character-level GPT-2 of four layers, trained here unless its weights are there."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from deltatheory.backbones import wrap_model

    alphabet = ["[UNK]", "[END]", "\n", *(chr(c) for c in range(32, 127))]
    tokens = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokens.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="[UNK]", eos_token="[END]")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(alphabet),
        n_positions=96,
        n_embd=64,
        n_layer=4,
        n_head=4,
        bos_token_id=1,
        eos_token_id=1,
    )
    model = GPT2LMHeadModel(config)
    if weights.exists():
        model.load_state_dict(load_file(weights), strict=False)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for step in range(steps):
            ids = torch.tensor([tokenizer(x)["input_ids"] for x in _texts(text, 16, step, 64)])
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
            if step % 50 == 0 or step == steps - 1:
                typer.echo(f"pretraining, step {step}: {loss.item():.3f}")
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}, weights)
    return wrap_model(model.eval(), tokenizer, name=f"tiny-gpt2-{steps}")


@app.command()
def table(out: Out) -> None:
    """Make the table and the figure of all that has been run."""
    from deltatheory.results import ResultLog, provenance, write_atomically, write_json

    cells: dict[tuple, dict[str, dict]] = {}
    for row in ResultLog(out / "runs.jsonl").rows():
        c = row["config"]
        if c["solver"] in _solvers(1, 1.0, c["kind"]):
            cells.setdefault((c["kind"], c["task"], c["seed"]), {})[c["solver"]] = row["result"]
    cells = {k: v for k, v in cells.items() if all(label in v for label in _solvers(1, 1.0, k[0]))}
    lines, rows, summary = [], [], []
    for kind in LEVELS:
        chosen = {k[1:]: v for k, v in cells.items() if k[0] == kind}
        if not chosen:
            continue
        parts = [_row(kind, cell, runs) for cell, runs in chosen.items()]
        rows += [row for part in parts for row in part]
        text, found = _summary(kind, [row for part in parts for row in part], list(chosen.values()))
        lines += text
        summary.append(found)
    write_json(out / "table.json", {"summary": summary, "rows": rows, "provenance": provenance()})
    write_atomically(out / "table.md", "\n".join(lines))
    typer.echo("\n".join(lines))
    _figure(cells, out)


def _passes_to(curve: list, level: float) -> float | None:
    """Return the passes at which a curve first falls to a level, between rows by log-linear interpolation."""
    for (before, high), (after, low) in zip([curve[0], *curve], curve, strict=False):
        if low <= level:
            share = 1.0 if high <= level else math.log(high / level) / math.log(high / max(low, 1e-12))
            return before + (after - before) * share
    return None


def _methods(kind: str, runs: dict[str, dict], reach: Callable) -> dict[str, float | None]:
    """Return the passes of each method; of Adam those of its best rate, with hindsight, and the default."""
    found: dict[str, float | None] = {}
    for label, run in runs.items():
        if not label.startswith("adam"):
            name = label.partition(", ")[0] if label.partition(", ")[0] in SWEPT else label
            reached = [p for p in (found.get(name), reach(run)) if p is not None]
            found[name] = min(reached, default=None)
    for form, name in NAMES.items():
        reached = [p for rate in RATES[kind] if (p := reach(runs[f"adam, {form}, {rate}"])) is not None]
        found[f"{name}, best of {len(RATES[kind])}"] = min(reached, default=None)
        found[f"{name}, rate {DEFAULT[kind]}"] = reach(runs[f"adam, {form}, {DEFAULT[kind]}"])
    return found


def _row(kind: str, cell: tuple, runs: dict[str, dict]) -> list[dict]:
    levels = _levels(kind, runs[GAUSS[0]]["curve"])
    return [
        {
            "kind": kind,
            "task": cell[0],
            "seed": cell[1],
            "level": LEVELS[kind][k],
            "passes": _methods(kind, runs, lambda run, level=level: _passes_to(run["curve"], level)),
        }
        for k, level in enumerate(levels)
    ]


def _ratio(slow: float | None, quick: float | None, budget: float) -> float | None:
    """Return slow/quick; what was not reached counts as the budget, if the other was."""
    if slow is None and quick is None:
        return None
    return (slow or budget) / (quick or budget)


def _summary(kind: str, rows: list[dict], runs: list[dict]) -> tuple[list[str], dict]:
    budget, names = BUDGET[kind], list(rows[0]["passes"])
    tasks = len({r["task"] for r in rows})
    lines = [f"## {kind}: {tasks} tasks, {len(runs)} runs of each solver", ""]
    lines += ["Median passes over the training set to a loss (how many of the runs reached it).", ""]
    shown = [f"{level}" if kind == "classification" else f"{level} x start" for level in LEVELS[kind]]
    lines += ["| solver | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in names:
        entries = []
        for level in LEVELS[kind]:
            values = [r["passes"].get(name) for r in rows if r["level"] == level]
            reached = [v for v in values if v is not None]
            whole = median(v if v is not None else math.inf for v in values)
            entries.append(f"{'-' if math.isinf(whole) else f'{whole:.1f}'} ({len(reached)}/{len(values)})")
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    lines += [
        "",
        "Passes of Adam at its best rate, chosen with hindsight for each level, over those of ours: median",
    ]
    lines += [
        f"[least to most]; what was not reached counts as the budget, {budget:.0f}. With its sweep charged,"
    ]
    lines += [
        f"{len(RATES[kind])} rates run side by side until the first arrives: {len(RATES[kind])} times these.",
        "",
    ]
    lines += ["| ours | Adam | " + " | ".join(shown) + " |", "|---" * (len(shown) + 2) + "|"]
    ratios = {}
    for ours in [name for name in GAUSS if name in names]:
        for adam in [name for name in names if name.startswith("Adam")]:
            entries = []
            for level in LEVELS[kind]:
                values = [
                    ratio
                    for r in rows
                    if r["level"] == level
                    and (ratio := _ratio(r["passes"][adam], r["passes"].get(ours), budget)) is not None
                ]
                entries.append(
                    f"{median(values):.1f} [{min(values):.1f} to {max(values):.1f}]" if values else "-"
                )
                ratios[f"{ours} / {adam} / {level}"] = {
                    "median": median(values) if values else None,
                    "all": values,
                }
            lines.append(f"| {ours} | {adam} | " + " | ".join(entries) + " |")
    lines += ["", "Where each run ended (the rate or step with the lowest training loss), means:", ""]
    lines += [
        "| solver | training loss | held-out loss | held-out accuracy | seconds |",
        "|---|---|---|---|---|",
    ]
    ends = {}
    alone = [label for label in runs[0] if not label.startswith("adam") and label not in SWEPT_LABELS]
    for name in [*alone, *(f"adam, {form}" for form in NAMES)]:
        last = [
            min(
                (run for label, run in all_.items() if label.startswith(name)),
                key=lambda run: run["curve"][-1][1],
            )
            for all_ in runs
            if any(label.startswith(name) for label in all_)
        ]
        columns = {
            "training loss": [run["curve"][-1][1] for run in last],
            **{
                c: [
                    run[c.replace(" ", "_").replace("-", "_")]
                    for run in last
                    if run.get(c.replace(" ", "_").replace("-", "_")) is not None
                ]
                for c in ("held-out loss", "held-out accuracy")
            },
            "seconds": [run["seconds"] for run in last],
        }
        ends[name] = {c: mean(v) if v else None for c, v in columns.items()}
        lines.append(
            f"| {name} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in ends[name].values()) + " |"
        )
    return [*lines, ""], {"kind": kind, "ratios": ratios, "ends": ends}


def _figure(cells: dict, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(k[:2] for k in cells))
    columns = min(3, len(tasks))
    figure, axes = plt.subplots(
        -(-len(tasks) // columns),
        columns,
        figsize=(4 * columns, 3 * -(-len(tasks) // columns)),
        layout="constrained",
        squeeze=False,
    )
    for place, (kind, task) in zip(axes.flat, tasks, strict=False):
        runs = cells[min(k for k in cells if k[:2] == (kind, task))]
        for label, run in runs.items():
            style = {"color": "0.7", "lw": 0.8, "ls": "-" if "full" in label else ":"}
            if not label.startswith("adam") and label not in SWEPT_LABELS:
                style = {"label": label, "lw": 1.5}
            place.plot(*zip(*run["curve"], strict=True), **style)
        place.set(title=task, xlabel="passes over the training set", ylabel="training loss", yscale="log")
        place.legend(fontsize=6)
    figure.suptitle(
        "first seed; grey: Adam at five rates, full batch (solid) and mini-batch (dotted)", fontsize=8
    )
    figure.savefig(out / "figure.png", dpi=120)


if __name__ == "__main__":
    app()
