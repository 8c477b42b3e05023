"""What tangent kernels cost, by factors, by rows of J and by libraries: seconds, memory, arithmetic.

    python -m experiments.benchmarks.kernels --out experiments/results/benchmarks                    # resumes
    python -m experiments.benchmarks.kernels --out experiments/results/benchmarks --model smollm2

Every measurement has a process of its own: seconds of the processor, memory above the start. "factors" are
`tangent_kernels`; "rows" `tangent_rows`, sketched as `dimension` takes them; "rows together" are those of all
candidates of `advise` in one pass, as `advise` took them before. Libraries (`kernel_libraries.py`) form the
gradient of each example in all parameters of the blocks; they are measured for the fewest examples alone,
where those fit. Agreement is ‖K - K'‖ / ‖K'‖ with K' from unsketched rows.

The arithmetic of the full kernel by factors (`arithmetic`): multiplications of the passes, and of the Gram by
pairs of tokens or by rows, whichever the engine takes. Measured points give the rate that the table of large
models is read with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from deltatheory.advice.candidates import CANDIDATES
from deltatheory.autodiff import functional_call, per_example
from deltatheory.backbones.batch import pool
from deltatheory.deltas import make_delta
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.subspace import scope_names
from deltatheory.linearization import joint_tangent_rows, tangent_kernels, tangent_rows
from deltatheory.linearization.outputs import random_contrast
from deltatheory.problems import ClassificationProblem, Setup
from deltatheory.results import ResultLog, standing
from experiments.benchmarks.kernel_libraries import gram, libraries
from experiments.measuring import in_child, peak_bytes, processor, work, write
from experiments.page import Table

_SKETCH = 4096
_FEW = 8  # examples whose rows fit unsketched
_WORDS = 32  # longest texts, in tokens


class Shape(NamedTuple):
    """What decides the arithmetic of a model's blocks: their number, and the maps in one of them."""

    blocks: int
    width: int
    maps: tuple[tuple[int, int], ...]
    embeddings: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the maps of all blocks."""
        return self.blocks * sum(i * o for i, o in self.maps)


def _encoder(blocks: int, width: int, embeddings: int = 0) -> Shape:
    return Shape(blocks, width, ((width, width),) * 4 + ((width, 4 * width), (4 * width, width)), embeddings)


def _gated(blocks: int, width: int, keys: int, inner: int, embeddings: int = 0) -> Shape:
    square = ((width, width),) * 2 + ((width, keys),) * 2
    return Shape(blocks, width, square + ((width, inner),) * 2 + ((inner, width),), embeddings)


# Published configurations; T5-XXL with its decoder's cross-attention.
LARGE = {
    "RoBERTa-large": _encoder(24, 1024, 50265 * 1024),
    "Llama-3.2-1B": _gated(16, 2048, 512, 8192, 128256 * 2048),
    "Llama-2-7B": _gated(32, 4096, 4096, 11008, 2 * 32000 * 4096),
    "T5-XXL": Shape(
        48, 4096, ((4096, 4096),) * 6 + ((4096, 10240),) * 2 + ((10240, 4096),), 2 * 32128 * 4096
    ),
}


OWN = {"minilm": _encoder(6, 384), "smollm2": _gated(30, 576, 192, 1536)}
LIBRARIES = ("per-example gradients", "opacus", "curvlinops", "dattri")


class Arithmetic(NamedTuple):
    """FLOP and bytes of one full kernel.

    Attributes:
        passes: of two forward passes and one backward pass through the activations.
        gram: of the Gram, by the cheaper way.
        weights: bytes in bfloat16.
        states: bytes of what the blocks receive, in the same type.
        factors: bytes of the factors of one block, in float32.
    """

    passes: float
    gram: float
    weights: float
    states: float
    factors: float


def arithmetic(shape: Shape, n: int, tokens: int) -> Arithmetic:
    """Return the arithmetic of the kernel of n examples of so many tokens, one output each.

    >>> a = arithmetic(Shape(1, 2, ((2, 3),)), n=2, tokens=1)
    >>> a.passes, a.gram  # (12 + 8 of attention) a token and pass; 3 pairs of tokens, 2 (2 + 3) each
    (120.0, 30.0)
    """
    per_token = 2.0 * shape.parameters + 4.0 * shape.blocks * shape.width * tokens
    gram = 0.0
    for i, o in shape.maps:
        pairs = n * tokens * (n * tokens + 1) * (i + o)
        rows = (2 * n * tokens + n * (n + 1)) * i * o
        gram += shape.blocks * min(pairs, rows)
    factors = 4.0 * n * tokens * sum(i + o for i, o in shape.maps)
    states = 2.0 * n * tokens * shape.width * (shape.blocks + 1)
    weights = 2.0 * (shape.parameters + shape.embeddings)
    return Arithmetic(3 * per_token * n * tokens, gram, weights, states, factors)


def main(
    out: Annotated[Path, typer.Option(help="Folder for kernels-cpu.{jsonl,json,md}.")],
    examples: Annotated[list[int] | None, typer.Option(help="Examples of a kernel; 32, 128, 448.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Models; minilm.")] = None,
    task: str = "stdlib-topics-6",
    threads: int = 1,
) -> None:
    """Measure what is not in the log yet, and write the tables."""
    torch.set_num_threads(threads)
    log = ResultLog(out / "kernels-cpu.jsonl")
    for name in model or ["minilm"]:
        _measure_model(log, name, task, examples or [32, 128, 448], threads)
    _report(out / "kernels-cpu", log)


def _measure_model(log: ResultLog, model: str, task: str, counts: list[int], threads: int) -> None:
    setup = Setup(model, task, train_examples=max(*counts, _FEW), test_examples=1, max_length=_WORDS)
    problem = setup.classification("full", check=False)
    candidates = []
    for c in CANDIDATES:
        with suppress(ValueError):  # it has no place in this model
            candidates.append(make_delta(c.method, setup.backbone, **c.options))
    common = {"model": model, "task": task, "max_length": _WORDS, "threads": threads}
    for what, ways in _ways(problem, candidates).items():
        for n, (way, compute) in product(counts, ways.items()):
            config = {**common, "kernel": what, "examples": n, "by": way}
            if log.find(config) or (way in LIBRARIES and n > min(counts)):
                continue
            try:
                found = in_child(lambda compute=compute, n=n: _measured(compute, n))
            except EOFError:  # killed for its memory, most likely
                found = {"seconds": None, "MB above start": None}
            found["tokens"] = float(problem.train.lengths[:n].mean())
            log.append(config, found)
            print(config, found, flush=True)
    config = {**common, "kernel": "agreement", "examples": _FEW}
    if not log.find(config):
        errors = {k: _agreement(ways["factors"], ways["exact"]) for k, ways in _exact(problem).items()}
        log.append(config, errors)


def _report(path: Path, log: ResultLog) -> None:
    rows = list(standing(log.rows()).values())
    kernels = [row for row in rows if row["config"]["kernel"] != "agreement"]
    head = ["model", "kernel", "examples", "by"]
    measured = ["seconds", "MB above start"]
    cells = [
        [*(row["config"][key] for key in head), *(row["result"][key] for key in measured)]
        for row in sorted(kernels, key=lambda r: [str(r["config"][k]).rjust(20) for k in head])
    ]
    full = [r for r in kernels if (r["config"]["kernel"], r["config"]["by"]) == ("full", "factors")]
    rates = []
    for row in full:
        a = arithmetic(OWN[row["config"]["model"]], row["config"]["examples"], round(row["result"]["tokens"]))
        rates.append([row["config"]["model"], row["config"]["examples"], round(row["result"]["tokens"]),
                      (a.passes + a.gram) / 1e12, row["result"]["seconds"],
                      (a.passes + a.gram) / 1e9 / row["result"]["seconds"]])  # fmt: skip
    large = []
    for name, shape in LARGE.items():
        a = arithmetic(shape, 128, 128)
        whole = a.weights + a.states + a.factors
        large.append([name, shape.parameters / 1e9, a.passes / 1e15, a.gram / 1e15,
                      *(x / 2**30 for x in (a.weights, a.states, a.factors, whole))])  # fmt: skip
    errors = [row for row in rows if row["config"]["kernel"] == "agreement"]
    said = "; ".join(
        f"{row['config']['model']}: " + ", ".join(f"{k} {v:.1e}" for k, v in row["result"].items())
        for row in errors
    )
    first = rows[0]["config"]
    text = "\n\n".join(
        [
            Table("", [*head, *measured], cells).body(),
            f"Agreement of factors with unsketched rows, {_FEW} examples, float32. {said}.",
            "The full kernel by factors, counted and measured:",
            Table("", ["model", "examples", "tokens", "TFLOP", "seconds", "GFLOP/s"], rates).body(),
            "The same count for larger models: 128 examples of 128 tokens, one output each; weights and the "
            "states of the blocks in bfloat16, the factors of one block in float32.",
            Table(
                "",
                ["model", "10^9 in blocks", "passes, PFLOP", "Gram, PFLOP", "weights, GiB", "states, GiB",
                 "factors, GiB", "together, GiB"],
                large,
            ).body(),
            f"{first['task']}, texts cut to {_WORDS} tokens, one contrast an example, {first['threads']} "
            f"thread(s), {processor()}.",
        ]
    )  # fmt: skip
    write(
        path, {"rows": [r["config"] | r["result"] for r in rows], "arithmetic": rates, "large": large}, text
    )


def _ways(
    problem: ClassificationProblem, candidates: list[Any]
) -> dict[str, dict[str, Callable[[int], object]]]:
    joined = problem.with_delta(make_delta("combined", problem.backbone, deltas=candidates))
    sizes = [delta.size for delta in candidates]
    taken: dict[str, Any] = {"test": 0, "outputs": "contrast"}
    names = scope_names(problem.backbone, "blocks")
    return {
        "full": {
            "factors": lambda n: tangent_kernels(problem, [problem.delta], train=n, **taken)[0].kernel(),
            "rows": lambda n: tangent_rows(problem, train=n, sketch=_SKETCH, **taken).kernel(),
            "per-example gradients": lambda n: _by_gradients(problem, n),
            **libraries(problem, names),
        },
        f"{len(candidates)} candidates": {
            "factors": lambda n: [k.kernel() for k in tangent_kernels(problem, candidates, train=n, **taken)],
            "rows together": lambda n: [
                rows.kernel()
                for rows in joint_tangent_rows(joined, sizes, train=n, sketch=_SKETCH // 2, **taken)  # type: ignore[arg-type]
            ],
        },
    }


def _exact(problem: ClassificationProblem) -> dict[str, dict[str, Callable[[], Tensor]]]:
    taken: dict[str, Any] = {"train": _FEW, "test": 0, "outputs": "contrast"}
    found = {}
    for name, options in (("full", {}), ("lora", {"r": 8}), ("adapter", {}), ("prefix", {"length": 4})):
        own: Any = problem.with_delta(make_delta(name, problem.backbone, **options))
        found[name] = {
            "factors": lambda own=own: tangent_kernels(own, [own.delta], **taken)[0].kernel(),
            "exact": lambda own=own: tangent_rows(own, sketch=own.delta.size, **taken).kernel(),
        }
    return found


def _agreement(compute: Callable[[], Tensor], exact: Callable[[], Tensor]) -> float:
    expected = exact()
    return float((compute() - expected).norm() / expected.norm())


def _by_gradients(problem: ClassificationProblem, n: int) -> Tensor:
    """Return the Gram of per-example gradients of all parameters of the blocks, 4 examples at a time."""
    contrast = random_contrast(problem.task.num_classes, problem.seed)
    names = scope_names(problem.backbone, "blocks")
    theta = {name: problem.backbone.model.get_parameter(name).detach() for name in names}
    coordinates = Coordinates({name: tuple(p.shape) for name, p in theta.items()})
    found = []
    for first in range(0, n, 4):
        batch, _ = problem.batch(problem.train, range(first, min(first + 4, n)))
        inputs = batch.inputs()

        def outputs(d: Tensor, mask: Tensor, *one: Tensor, keys: tuple = tuple(inputs)) -> tuple:
            given = {key: x[None] for key, x in zip(keys, one, strict=True)}
            moved = {name: theta[name] + x for name, x in coordinates.split(d).items()}
            states = functional_call(problem.backbone.model, moved, (), given).last_hidden_state
            pooled = pool(states, mask[None], problem.backbone.pooling)
            return contrast(problem.head(pooled)[0])[None], pooled[0]

        zero = problem.backbone.model.get_parameter(names[0]).new_zeros(coordinates.size)
        *_, rows = per_example(outputs, zero, (batch.mask, *inputs.values()))
        found.append(rows()[:, 0])
    return gram(torch.cat(found))


def _measured(compute: Callable[[int], object], n: int) -> dict[str, float]:
    before = peak_bytes(False)
    seconds = work(lambda: compute(n), False)
    return {"seconds": round(seconds, 2), "MB above start": round((peak_bytes(False) - before) / 2**20)}


if __name__ == "__main__":
    typer.run(main)
