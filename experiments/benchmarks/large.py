"""Kernels and training steps of models of 1 and 7 billion parameters with random weights, on one GPU.

    python -m experiments.benchmarks.large --device cuda --out experiments/results/benchmarks    # resumes
    python -m experiments.benchmarks.large --device cpu --tiny --out FOLDER                      # a rehearsal

Published configurations, weights drawn on the device in bfloat16. Every measurement follows one of two texts
that does not count; memory is what was allocated beyond the weights. "full kernel" is `tangent_kernels` of
all weights of the blocks, one contrast a text, counted by `kernels.arithmetic`; "kernels" those of several
deltas in one call; a step is the loss and gradient of one batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from deltatheory.backbones import Backbone
from deltatheory.deltas import make_delta
from deltatheory.linearization import tangent_kernels
from deltatheory.problems import ClassificationProblem
from deltatheory.results import ResultLog
from experiments.benchmarks.kernels import LARGE, arithmetic
from experiments.benchmarks.random_model import random_model, random_task
from experiments.measuring import peak_bytes, processor, wall, write
from experiments.page import Table

# blocks, width, keys, inner width, heads, heads of keys
MODELS = {
    "Llama-3.2-1B": (16, 2048, 512, 8192, 32, 8),
    "Llama-2-7B": (32, 4096, 4096, 11008, 32, 32),
}
TINY = {"tiny": (2, 32, 16, 64, 4, 2)}
SEVERAL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"r": 8}),
    ("lora", {"r": 8, "targets": ["all-linear"]}),
    ("adapter", {"bottleneck": 8}),
    ("prefix", {"length": 8, "gate": "values"}),
    ("ia3", {}),
    ("layernorm", {}),
)
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"r": 8}),
    ("prefix", {"length": 8, "gate": "values"}),
    ("subspace", {"d": 1000}),
)
BATCH, WORDS = 16, 64


def main(
    out: Annotated[Path, typer.Option(help="Folder for large-DEVICE.{jsonl,json,md}.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="A network of two blocks and short texts.")] = False,
) -> None:
    """Measure what is not in the log yet, and write the table."""
    path = out / f"large-{device}"
    log = ResultLog(path.with_suffix(".jsonl"))
    texts = [(4, 8)] if tiny else [(128, 128), (32, 512)]
    for name, shape in (TINY if tiny else MODELS).items():
        backbone = None
        for what, (count, length) in _plan(texts):
            config = {"model": name, "what": what, "texts": count, "tokens": length}
            if log.find(config):
                continue
            backbone = backbone or _backbone(name, shape, device, max(length for _, length in texts))
            try:
                found = _measured(backbone, what, count, length)
            except (torch.OutOfMemoryError, ValueError, RuntimeError) as error:
                found = {"error": f"{type(error).__name__}: {error}"[:300]}
            log.append(config, found)
            typer.echo(f"{config} {found}")
        del backbone
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    _report(path, log)


def _plan(texts: list[tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    kernels = [(what, size) for size in texts for what in ("full kernel", "kernels")]
    return kernels + [(f"step {name}", (BATCH, texts[0][1])) for name, _ in STEPS]


def _backbone(name: str, shape: tuple[int, ...], device: str, longest: int) -> Backbone:
    from transformers import LlamaConfig

    blocks, width, keys, inner, heads, of_keys = shape
    assert keys == width // heads * of_keys
    config = LlamaConfig(
        num_hidden_layers=blocks,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=of_keys,
        vocab_size=WORDS,
        max_position_embeddings=longest + 16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return random_model(config, f"random-{name}", device, torch.bfloat16)


def _measured(backbone: Backbone, what: str, count: int, length: int) -> dict[str, Any]:
    cuda = backbone.device.type == "cuda"
    task = random_task(count, length, WORDS)
    delta = make_delta("full", backbone) if "kernel" in what else _delta(what.removeprefix("step "), backbone)
    problem = ClassificationProblem(backbone, task, delta, "random", max_length=length, check=False)
    run = _work(problem, what)
    weights = sum(p.nbytes for p in backbone.model.parameters())
    run(2)
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else peak_bytes(False)
    seconds = wall(lambda: run(count), cuda)
    return {
        "seconds": seconds,
        "bytes": peak_bytes(cuda) - before,
        "weights": weights,
        "device": torch.cuda.get_device_name() if cuda else processor(),
    }


def _delta(name: str, backbone: Backbone) -> Any:
    return make_delta(name, backbone, **dict(STEPS)[name])


def _work(problem: ClassificationProblem, what: str) -> Callable[[int], object]:
    if what.startswith("step "):
        delta = problem.delta.initial()
        return lambda n: problem.loss_and_gradient(delta, *problem.batch(problem.train, range(n)))
    deltas = [problem.delta] if what == "full kernel" else []
    if not deltas:
        for name, options in SEVERAL:
            with suppress(ValueError):  # it has no place in this model
                deltas.append(make_delta(name, problem.backbone, **options))
    return lambda n: tangent_kernels(problem, deltas, train=n, test=0, outputs="contrast")


def _report(path: Path, log: ResultLog) -> None:
    rows, lines = [row["config"] | row["result"] for row in log.rows()], []
    for row in rows:
        if "error" in row:
            lines.append([row["model"], row["what"], row["texts"], row["tokens"], row["error"]])
            continue
        counted = None
        if row["what"] == "full kernel" and row["model"] in LARGE:
            count = arithmetic(LARGE[row["model"]], row["texts"], row["tokens"])
            counted = (count.passes + count.gram) / row["seconds"] / 1e12
        lines.append(
            [
                *(row[key] for key in ("model", "what", "texts", "tokens", "seconds")),
                row["texts"] / row["seconds"],
                row["weights"] / 2**30,
                row["bytes"] / 2**30,
                counted,
            ]
        )
    columns = ["model", "what", "texts", "tokens", "seconds", "texts a second"]
    columns += ["weights, GiB", "beyond them, GiB", "TFLOP/s counted"]
    several = ", ".join(" ".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in SEVERAL)
    devices = sorted({row["device"] for row in rows if "device" in row})
    text = "\n\n".join(
        [
            Table("", columns, lines).body(),
            f"Random weights in bfloat16, Grams in float32, one contrast a text; kernels of {several} in one "
            f"call. A step is a loss and a gradient of {BATCH} texts. The embeddings have {WORDS} words. "
            f"{', '.join(devices)}.",
        ]
    )
    write(path, {"rows": rows}, text)


if __name__ == "__main__":
    typer.run(main)
