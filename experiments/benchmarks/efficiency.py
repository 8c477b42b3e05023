"""Memory and time of a training step of every delta, against full fine-tuning, at four batch sizes.

    python -m experiments.benchmarks.efficiency --out experiments/results/benchmarks    # resumes
    python -m experiments.benchmarks.efficiency --device cuda --out FOLDER

A step is a batch of MiniLM (texts of the standard library, 64 tokens each), loss, gradient and AdamW, in
float32. The yardstick is full fine-tuning of the blocks as plain torch does it. On the CPU every measurement
is a process of its own, forked when the backbone is loaded; memory is what its high-water mark adds to that,
and time is processor time on one thread, so that other work on the machine does not count. On CUDA memory is
what was allocated beyond the backbone, and time that of the clock. The first step is not timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import make_delta
from deltatheory.deltas.subspace import scope_names
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.heads import Head, make_head
from deltatheory.results import ResultLog
from deltatheory.tasks import Examples, Task, load_task
from experiments.measuring import in_child, peak_bytes, work, write
from experiments.page import Table, drawing

PLAIN = "plain torch"
LENGTH = 64
STEPS = {1: 15, 8: 5, 32: 2, 64: 1}  # timed steps at each batch size
PAIR = [["lora", {}], ["bitfit", {}]]
DELTAS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "full": {},
    "last-layers": {"k": 1},
    "random-modules": {"share": 0.1},
    "modules": {"patterns": ["*.query.weight", "*.value.weight"]},
    "bitfit": {},
    "layernorm": {},
    "diff-pruning": {},
    "fisher-mask": {"fraction": 0.005},
    "subspace": {"d": 1000},
    "layerwise-subspace": {"d": 1000},
    "lora": {"r": 8},
    "unilora": {"d": 1000},
    "vera": {"r": 256},
    "intrinsic-prompt": {"d": 5},
    "unified-subspace": {"deltas": PAIR, "d": 100},
    "combined": {"deltas": PAIR},
    "prompt": {"length": 20},
    "prefix": {"length": 20},
    "adapter": {"bottleneck": 8},
    "parallel-adapter": {"bottleneck": 8},
    "compacter": {"bottleneck": 8},
    "ia3": {},
    "ladder": {"width": 8},
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for efficiency-DEVICE.{jsonl,json,md,png}.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure what is not in the log yet, then write table and figure."""
    torch.set_num_threads(1)
    log = ResultLog(out / f"efficiency-{device}.jsonl")
    task = _long_texts(load_task("stdlib-topics"), max(STEPS))
    backbone = load_backbone(device=device)
    head = make_head("label-words", backbone, task)
    _warm_up(backbone, head)
    for batch_size, steps in STEPS.items():
        for name, options in DELTAS.items():
            config = {"delta": name, "options": options, "batch_size": batch_size, "length": LENGTH}
            if log.find(config | {"steps": steps}):
                continue

            def measure(name=name, options=options, batch_size=batch_size, steps=steps) -> dict:
                here = backbone if device == "cpu" else load_backbone(device=device)
                return _measure(here, task, head, name, options, batch_size, steps)

            log.append(config | {"steps": steps}, in_child(measure) if device == "cpu" else measure())
            typer.echo(f"{name}, batch {batch_size}")
        _report(out, device, log, [b for b in STEPS if b <= batch_size])  # a run cut short leaves its table


def _long_texts(task: Task, count: int) -> Task:
    """Return texts that fill `LENGTH` tokens: sentences of one label, one after the other."""
    texts, labels = [], []
    for i in range(count):
        label = i % task.num_classes
        sentences = [t for t, c in zip(task.train.texts, task.train.labels or (), strict=True) if c == label]
        start = i // task.num_classes
        texts.append(" ".join(sentences[(start + k) % len(sentences)] for k in range(LENGTH // 2)))
        labels.append(label)
    return replace(task, train=Examples(tuple(texts), labels=tuple(labels))).limited(None, 1, 0)


def _warm_up(backbone: Backbone, head: Head) -> None:
    """Take a step on one word: what torch imports and maps into memory for any step is none of a delta's."""
    weights = [p for name, p in backbone.model.named_parameters() if "LayerNorm" in name]
    for weight in weights:
        weight.requires_grad_(True)
    head(backbone.pooled(backbone.encode(["word"]))).sum().backward()
    torch.optim.AdamW(weights, lr=0.0).step()
    for weight in weights:
        weight.requires_grad_(False).grad = None


def _measure(
    backbone: Backbone,
    task: Task,
    head: Head,
    name: str,
    options: dict[str, Any],
    batch_size: int,
    steps: int,
) -> dict[str, float | int]:
    cuda = backbone.device.type == "cuda"
    _warm_up(backbone, head)  # a forked process has the memory of its parent, and not the mapped libraries
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(cuda)
    make = _plain_step if name == PLAIN else _delta_step
    step, optimizer, size = make(backbone, task, head, name, options, batch_size)
    seconds = [work(step, cuda) for _ in range(steps + 1)]
    kept = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
    return {
        "parameters": size,
        "optimizer_bytes": sum(x.nbytes for x in kept),
        "peak_bytes": peak_bytes(cuda) - before,
        "seconds_per_step": median(seconds[1:]),
    }


Step = tuple[Callable[[], None], torch.optim.Optimizer, int]


def _delta_step(
    backbone: Backbone, task: Task, head: Head, name: str, options: dict[str, Any], batch_size: int
) -> Step:
    """Return a step as `deltatheory.training.trainer` takes it; the rate 0 costs what any other does."""
    problem = ClassificationProblem(
        backbone, task, make_delta(name, backbone, **options), head, max_length=LENGTH, check=False
    )
    batch, labels = problem.batch(problem.train, range(batch_size))
    assert batch.input_ids.shape == (batch_size, LENGTH)
    delta = problem.delta.initial().requires_grad_(False)
    optimizer = torch.optim.AdamW([delta], lr=0.0)

    def step() -> None:
        _, _, delta.grad = problem.loss_and_gradient(delta, batch, labels)
        optimizer.step()

    return step, optimizer, problem.delta.size


def _plain_step(
    backbone: Backbone, task: Task, head: Head, _name: str, _options: dict[str, Any], batch_size: int
) -> Step:
    """Return a step of full fine-tuning of the blocks without a δ: weights, gradients and AdamW's state."""
    part = task.train.subset(range(batch_size))
    batch = backbone.encode(part.texts, part.pairs, LENGTH)
    labels = torch.tensor(part.labels, device=backbone.device)
    weights = [backbone.model.get_parameter(name) for name in scope_names(backbone, "blocks")]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone.pooled(batch)), labels).backward()
        optimizer.step()

    return step, optimizer, sum(weight.numel() for weight in weights)


def _report(out: Path, device: str, log: ResultLog, sizes: list[int]) -> None:
    latest = {(r["config"]["delta"], r["config"]["batch_size"]): r["result"] for r in log.rows()}
    rows = []
    for name, options in DELTAS.items():
        row: dict[str, Any] = {"delta": name, "options": options}
        for batch_size in sizes:
            result, plain = latest[name, batch_size], latest[PLAIN, batch_size]
            row |= {key: result[key] for key in ("parameters", "optimizer_bytes")}
            row[f"batch {batch_size}"] = {
                "peak_bytes": result["peak_bytes"],
                "seconds_per_step": result["seconds_per_step"],
                "memory_ratio": result["peak_bytes"] / plain["peak_bytes"],
                "time_ratio": result["seconds_per_step"] / plain["seconds_per_step"],
            }
        rows.append(row)
    facts = {"length": LENGTH, "steps": {str(b): n for b, n in STEPS.items()}, "device": device}
    text, figure = _table(rows, device, sizes), _figure(rows, sizes)
    write(out / f"efficiency-{device}", {"facts": facts, "rows": rows}, text, figure)


def _table(rows: list[dict[str, Any]], device: str, sizes: list[int]) -> str:
    lines = []
    for row in rows:
        options = ", ".join(f"{k}={v}" for k, v in row["options"].items())
        cells = [
            f"{cell['peak_bytes'] / 1e6:.0f} MB ({cell['memory_ratio']:.2f}), "
            f"{cell['seconds_per_step']:.3g} s ({cell['time_ratio']:.2f})"
            for cell in (row[f"batch {batch_size}"] for batch_size in sizes)
        ]
        about = [f"{row['parameters']:,}", f"{row['optimizer_bytes'] / 1e6:.2f}"]
        lines.append([f"{row['delta']} {options}".strip(), *about, *cells])
    columns = ["delta", "parameters", "optimizer MB", *(f"batch {b}" for b in sizes)]
    clock = "processor seconds on one thread" if device == "cpu" else "seconds"
    about = (
        f"Peak memory beyond the loaded backbone, and {clock} a step (median); in brackets the ratio to "
        f"{PLAIN}: full fine-tuning of the blocks without a δ. MiniLM, texts of {LENGTH} tokens, float32, "
        f"AdamW, device {device}. `full` keeps θ₀, θ and δ beside each other, hence its memory."
    )
    return f"{Table('', columns, lines).body()}\n\n{about}"


def _figure(rows: list[dict[str, Any]], sizes: list[int]) -> Any:
    with drawing(8, 7, 1, 2) as (figure, panels):
        for axes, key, title in zip(panels, ("memory_ratio", "time_ratio"), ("memory", "time"), strict=True):
            values = [[row[f"batch {b}"][key] for b in sizes] for row in rows]
            axes.imshow(values, aspect="auto", cmap="RdYlGn_r", vmin=0, vmax=2)
            for i, row in enumerate(values):
                for j, value in enumerate(row):
                    axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
            axes.set_xticks(range(len(sizes)), [str(b) for b in sizes])
            axes.set_yticks(range(len(rows)), [row["delta"] for row in rows])
            axes.set(xlabel="batch size", title=f"{title} of a step / plain full fine-tuning")
            axes.title.set_fontsize(10)
    return figure


if __name__ == "__main__":
    typer.run(main)
