"""Memory of a training step beyond the weights, by texts at once, with gradient checkpointing and without.

    python -m experiments.benchmarks.micro_batches --out experiments/results/benchmarks           # resumes

A decoder of SmolLM2-135M's shape with random weights in bfloat16 and 64 words, on one thread: loss and
gradient of so many texts of 128 tokens, of two classes. Every measurement is a process of its own, forked
when weights are there and a step of one short text has been made. The memory of the process is what its
high-water mark adds, without code that is read, and with what the allocator keeps between tensors; that in
tensors is what lives at once.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from deltatheory._memory import give_back
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem
from deltatheory.results import ResultLog
from experiments.benchmarks.random_model import random_model, random_task
from experiments.measuring import Alive, in_child, peak_bytes, processor, work, write
from experiments.page import Table

DELTAS: dict[str, dict[str, Any]] = {
    "prefix": {"length": 8, "gate": "values"},
    "subspace": {"d": 1000},
}
TEXTS, LENGTH, WORDS = (1, 4), 128, 64


def main(
    out: Annotated[Path, typer.Option(help="Folder for micro-batches-cpu.{jsonl,json,md}.")],
    blocks: int = 30,
    width: int = 576,
) -> None:
    """Measure what is not in the log yet, and write the table."""
    torch.set_num_threads(1)
    log, rows = ResultLog(out / "micro-batches-cpu.jsonl"), []
    problems: dict[str, ClassificationProblem] = {}
    for (name, options), texts, recomputed in product(DELTAS.items(), TEXTS, (False, True)):
        config = {
            "delta": name,
            **options,
            "texts": texts,
            "length": LENGTH,
            "blocks": blocks,
            "width": width,
            "gradient_checkpointing": recomputed,
        }
        found: dict[str, float] = {}
        for of, measure in (("process", _measured), ("tensors", _alive)):
            row = log.find({**config, "of": of})
            if row is None:
                problem = problems.get(name) or problems.setdefault(name, _problem(name, blocks, width))
                measured = in_child(partial(measure, problem, texts, recomputed))
                row = log.append({**config, "of": of}, measured)
            found |= row["result"]
        kept = "block inputs" if recomputed else "activations"
        sizes = [
            x for of in ("alive", "bytes") for x in (found[of] / 1e6, f"{found[of] / found['weights']:.0%}")
        ]
        rows.append([name, texts, kept, found["seconds"], *sizes])
        print(rows[-1], flush=True)
    weights = found["weights"] / 1e6
    columns = ["delta", "texts at once", "kept", "seconds", "MB in tensors", "of the weights"]
    table = Table("", [*columns, "MB of the process beyond the weights", "of them"], rows)
    about = f"{weights:.0f} MB of weights in bfloat16, texts of {LENGTH} tokens; aim: 20% of them."
    text = f"{table.body()}\n\n{about} {processor()}."
    write(out / "micro-batches-cpu", {"rows": rows}, text)


def _problem(name: str, blocks: int, width: int) -> ClassificationProblem:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=blocks,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 192),
        bos_token_id=0,
        eos_token_id=0,
    )
    backbone = random_model(config, f"random-llama-{blocks}x{width}", "cpu", torch.bfloat16)
    task = random_task(max(TEXTS), LENGTH, WORDS)
    delta = make_delta(name, backbone, **DELTAS[name])
    problem = ClassificationProblem(backbone, task, delta, "random", max_length=LENGTH, check=False)
    short = backbone.batch(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2))
    problem.loss_and_gradient(delta.zero(), short, torch.zeros(1, dtype=torch.long))
    problem.restore()
    return problem


def _measured(problem: ClassificationProblem, texts: int, recomputed: bool) -> dict[str, float]:
    problem.gradient_checkpointing = recomputed
    batch, labels = problem.batch(problem.train, range(texts))
    give_back()  # what is free in the heap would hide what is taken
    resident, of_files = _pages()
    seconds = work(lambda: problem.loss_and_gradient(problem.delta.initial(), batch, labels), cuda=False)
    taken = peak_bytes(cuda=False) - resident - (_pages()[1] - of_files)
    weights = sum(p.nbytes for p in problem.backbone.model.parameters())
    return {"seconds": seconds, "bytes": taken, "weights": weights}


def _alive(problem: ClassificationProblem, texts: int, recomputed: bool) -> dict[str, float]:
    problem.gradient_checkpointing = recomputed
    batch, labels = problem.batch(problem.train, range(texts))
    with Alive() as alive:
        problem.loss_and_gradient(problem.delta.initial(), batch, labels)
    return {"alive": alive.most}


def _pages() -> tuple[int, int]:
    """Return the bytes of this process that are in memory, and of them those of files, as of code."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return 4096 * resident, 4096 * shared


if __name__ == "__main__":
    typer.run(main)
