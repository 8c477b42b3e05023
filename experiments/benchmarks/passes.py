"""What a pass costs: backward, forward mode and a subspace step, in forward passes or full steps.

    python -m experiments.benchmarks.passes --out experiments/results/benchmarks                  # resumes

Times are medians over interleaved repetitions of one batch of MiniLM, on `--threads` threads.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer

from deltatheory.backbones import Backbone, Batch, load_backbone
from deltatheory.deltas import make_delta
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem
from deltatheory.problems.heads import make_head
from deltatheory.results import ResultLog
from deltatheory.tasks import load_task
from experiments.measuring import interleaved, write
from experiments.page import Table


def main(
    out: Annotated[Path, typer.Option(help="Folder for passes-cpu.{jsonl,json,md}.")],
    threads: int = 1,
    repetitions: int = 7,
    d: int = 1000,
    device: str = "cpu",
) -> None:
    """Measure what is not in the log yet, and write one table."""
    torch.set_num_threads(threads)
    log, rows = ResultLog(out / f"passes-{device}.jsonl"), []
    common = {"device": device, "threads": threads, "repetitions": repetitions, "d": d}
    for scope, (batch_size, length) in product(("blocks", "all"), ((32, 16), (32, 64))):
        config = {**common, "scope": scope, "batch_size": batch_size, "length": length}
        row = log.find(config)
        if not row:  # a backbone is of one scope
            row = log.append(config, _measure(load_backbone(device=device), **config))
        rows.append(row["result"])
    text = (
        f"{Table('', list(rows[0]), [list(row.values()) for row in rows]).body()}\n\n"
        f"Counted as: forward {FORWARD:g}, backward with weight gradients {BACKWARD:g}.\n"
        f"{threads} thread(s), {repetitions} repetitions, d = {d}, device {device}."
    )
    write(out / f"passes-{device}", {"rows": rows}, text)


def _measure(
    backbone: Backbone, *, scope: str, batch_size: int, length: int, d: int, repetitions: int, **_: object
) -> dict[str, float | int | str]:
    task = load_task("stdlib-topics")
    head = make_head("label-words", backbone, task)
    full = ClassificationProblem(backbone, task, make_delta("full", backbone, scope=scope), head, check=False)
    subspace = make_delta("subspace", backbone, d=d, scope=scope)
    tuned = ClassificationProblem(backbone, task, subspace, head, check=False)
    text = " ".join(["word"] * 2 * length)
    batch = backbone.encode([text] * batch_size, max_length=length)
    labels = torch.zeros(batch_size, dtype=torch.long, device=backbone.device)
    names = full.delta.moved.names  # type: ignore[attr-defined]
    weights = [backbone.model.get_parameter(name) for name in names]
    sgd = torch.optim.SGD(weights, lr=1e-12, foreach=False)
    origin, small = full.delta.initial(), subspace.initial()

    def full_sgd() -> None:
        for weight in weights:
            weight.requires_grad_(True)
        sgd.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(head(backbone.pooled(batch)), labels).backward()
        sgd.step()
        for weight in weights:
            weight.requires_grad_(False)

    def subspace_sgd() -> None:
        *_, g = tuned.loss_and_gradient(small, batch, labels)
        small.add_(g, alpha=-1e-12)
        tuned.restore()

    @torch.no_grad()
    def forward() -> None:
        head(backbone.pooled(batch))

    times = interleaved(
        {
            "forward": forward,
            "full": full_sgd,
            "subspace": subspace_sgd,
            "jvp": lambda: tuned.jvp(small, small, batch),
            "row": _row_pass(full, batch, origin),
        },
        repetitions,
        backbone.device.type == "cuda",
    )
    return {
        "scope": scope,
        "D": origin.numel(),
        "batch": f"{batch_size} x {length}",
        "forward s": times["forward"],
        "full SGD step s": times["full"],
        "backward / forward": times["full"] / times["forward"] - 1,
        "jvp / forward": times["jvp"] / times["forward"],
        "subspace step / full SGD step": times["subspace"] / times["full"],
        "one example's kernel row s": times["row"],
    }


def _row_pass(problem: ClassificationProblem, batch: Batch, origin: torch.Tensor) -> Callable[[], None]:
    one = batch.select([0])

    def row() -> None:
        problem.delta.write(origin)  # type: ignore[attr-defined]
        problem.delta.clear()  # type: ignore[attr-defined]
        problem.head(problem.backbone.pooled(one))[0, 0].backward()
        problem.delta.gradient(origin)  # type: ignore[attr-defined]
        problem.restore()

    return row


if __name__ == "__main__":
    typer.run(main)
