"""What tangent kernels cost, by factors and by rows of J: seconds of the processor, memory above the start.

    python -m experiments.benchmarks.kernels --out experiments/results/benchmarks

Every measurement has a process of its own. "factors" are `tangent_kernels`; "rows" `tangent_rows`, sketched
as `dimension` takes them; "rows together" are those of all candidates of `advise` in one pass; "per-example
gradients" are what libraries form for the same Gram: each example's gradient in all parameters, by vmap.
Agreement is ‖K - K'‖ / ‖K'‖ with K' from unsketched rows, of so few examples that those fit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from deltatheory.advice.candidates import CANDIDATES
from deltatheory.autodiff import functional_call, per_example
from deltatheory.deltas import make_delta
from deltatheory.linearization import joint_tangent_rows, tangent_kernels, tangent_rows
from deltatheory.linearization.outputs import random_contrast
from deltatheory.problems import ClassificationProblem, Setup
from experiments.measuring import in_child, peak_bytes, processor, work, write
from experiments.page import Table

_SKETCH = 4096
_FEW = 16  # examples whose rows fit unsketched


def main(
    out: Annotated[Path, typer.Option(help="Folder for kernels-cpu.{json,md}.")],
    examples: Annotated[list[int] | None, typer.Option(help="Examples of a kernel; 32, 128, 448.")] = None,
    model: str = "minilm",
    task: str = "stdlib-topics-2",
    threads: int = 1,
) -> None:
    """Measure and write one table."""
    torch.set_num_threads(threads)
    counts = examples or [32, 128, 448]
    setup = Setup(model, task, train_examples=max(counts))
    problem = setup.classification("full", check=False)
    candidates = [make_delta(c.method, setup.backbone, **c.options) for c in CANDIDATES]
    rows = []
    for what, ways in _ways(problem, candidates).items():
        for n in counts:
            for way, compute in ways.items():
                if way == "per-example gradients" and n > min(counts):
                    continue  # n times all parameters
                found = in_child(lambda compute=compute, n=n: _measured(compute, n))
                rows.append({"kernel": what, "examples": n, "by": way, **found})
                print(rows[-1], flush=True)
    agreement = {what: _agreement(ways["factors"], ways["exact"]) for what, ways in _exact(problem).items()}
    text = (
        f"{Table('', list(rows[0]), [list(row.values()) for row in rows]).body()}\n\n"
        f"Agreement of factors with unsketched rows, {_FEW} examples, float32: "
        + ", ".join(f"{what} {error:.1e}" for what, error in agreement.items())
        + f".\n{model}, {task}, one contrast an example, {threads} thread(s), {processor()}."
    )
    write(out / "kernels-cpu", {"rows": rows, "agreement": agreement}, text)


def _ways(
    problem: ClassificationProblem, candidates: list[Any]
) -> dict[str, dict[str, Callable[[int], object]]]:
    joined = problem.with_delta(make_delta("combined", problem.backbone, deltas=candidates))
    sizes = [delta.size for delta in candidates]
    taken: dict[str, Any] = {"test": 0, "outputs": "contrast"}
    return {
        "full": {
            "factors": lambda n: tangent_kernels(problem, [problem.delta], train=n, **taken)[0].kernel(),
            "rows": lambda n: tangent_rows(problem, train=n, sketch=_SKETCH, **taken).kernel(),
            "per-example gradients": lambda n: _by_gradients(problem, n),
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
    flat = problem.delta.origin.flat  # type: ignore[attr-defined]
    gram = []
    for first in range(0, n, 4):
        batch, _ = problem.batch(problem.train, range(first, min(first + 4, n)))

        inputs = batch.inputs()

        def outputs(
            theta: Tensor, mask: Tensor, *one: Tensor, names: tuple = tuple(inputs)
        ) -> tuple[Tensor, Tensor]:
            given = {name: x[None] for name, x in zip(names, one, strict=True)}
            states = functional_call(problem.backbone.model, flat.split(theta), (), given).last_hidden_state
            pooled = (states[0] * mask[:, None]).sum(0) / mask.sum()
            return contrast(problem.head(pooled[None], {})[0])[None], pooled

        *_, rows = per_example(outputs, flat.theta.detach(), (batch.mask, *inputs.values()))
        gram.append(rows()[:, 0])
    whole = torch.cat(gram)
    return whole @ whole.T


def _measured(compute: Callable[[int], object], n: int) -> dict[str, float]:
    before = peak_bytes(False)
    seconds = work(lambda: compute(n), False)
    return {"seconds": round(seconds, 2), "MB above start": round((peak_bytes(False) - before) / 2**20)}


if __name__ == "__main__":
    typer.run(main)
