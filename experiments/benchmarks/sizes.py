"""Memory and time of three control computations by size of the decoder, up to GPT-2 XL (1.5 B parameters).

    python -m experiments.benchmarks.sizes --out experiments/results/benchmarks              # resumes
    python -m experiments.benchmarks.sizes --out experiments/results/benchmarks --xl         # and GPT-2 XL
    python -m experiments.benchmarks.sizes --device cuda --out FOLDER                        # and GPT-2 XL

GPT-2-type decoders with random weights in float32, 64 to a head, the delta prefix:8, 4 texts of 32 tokens of
two classes. The vocabulary has 64 words, so that weights are those of the blocks: 12 L H² for L blocks of
width H. Measured are the output Gramian of the margins by layer (with the search for the coordinates of each
layer), one step of Gauss-Newton (rows of the Jacobian, convex problem, margins behind the step), and the
low-rank Riccati gains for 4 directions a block (linearization included).

On the CPU every measurement is a process of its own, forked when the weights are there: memory is what its
high-water mark adds to them, and time is processor time on one thread. On CUDA memory is what was allocated
beyond the weights, and time that of the clock. The fit is to the sizes below GPT-2 XL only.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy import stats
from scipy.optimize import nnls

from deltatheory.control.feedback.controllers import shift_adjoints
from deltatheory.control.reach.gramian import output_gramian
from deltatheory.control.solvers.least_squares import GaussNewton
from deltatheory.control.solvers.low_rank_riccati import low_rank_riccati
from deltatheory.deltas import make_delta
from deltatheory.problems import FORWARD, ClassificationProblem
from deltatheory.results import ResultLog
from experiments.benchmarks.random_model import random_model, random_task
from experiments.measuring import in_child, peak_bytes, work, write
from experiments.page import Table, drawing

SHAPES = [(2, 192), (4, 256), (6, 384), (8, 576), (12, 768), (24, 1024)]  # blocks, width
XL = (48, 1600)
TEXTS, LENGTH, PREFIX, DIRECTIONS, WORDS = 4, 32, 8, 4, 64
REPEATS = 5  # below 50 M parameters, else 1
LEVEL = 0.9  # of the intervals


def main(
    out: Annotated[Path, typer.Option(help="Folder for sizes-DEVICE.{jsonl,json,md,png}.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    xl: Annotated[bool | None, typer.Option(help="Run GPT-2 XL itself; by default on cuda only.")] = None,
) -> None:
    """Measure what is not in the log yet, fit, and write table and figure."""
    torch.set_num_threads(1)
    log = ResultLog(out / f"sizes-{device}.jsonl")
    for shape in [*SHAPES, *([XL] if (device == "cuda" if xl is None else xl) else [])]:
        missing = [name for name in OPERATIONS if not log.find(_config(name, shape))]
        if missing:
            problem = _problem(*shape, device)
            for name in missing:

                def measure(name=name, problem=problem) -> dict:
                    return _measure(problem, name)

                log.append(_config(name, shape), in_child(measure) if device == "cpu" else measure())
                typer.echo(f"{name}, {shape[0]} blocks of {shape[1]}")
            del problem, measure
            gc.collect()
    _report(out / f"sizes-{device}", device, log)


def _config(name: str, shape: tuple[int, int]) -> dict[str, Any]:
    workload = {"texts": TEXTS, "length": LENGTH, "prefix": PREFIX, "directions": DIRECTIONS, "words": WORDS}
    return {"operation": name, "blocks": shape[0], "width": shape[1], **workload}


def _problem(blocks: int, width: int, device: str) -> ClassificationProblem:
    """Return a decoder with random weights, and texts of random words."""
    from transformers import GPT2Config

    config = GPT2Config(
        n_layer=blocks,
        n_embd=width,
        n_head=width // 64,
        vocab_size=WORDS,
        n_positions=LENGTH + PREFIX,
        bos_token_id=0,
        eos_token_id=0,
    )
    backbone = random_model(config, f"random-gpt2-{blocks}x{width}", device)
    task = random_task(TEXTS, LENGTH, WORDS)
    delta = make_delta("prefix", backbone, length=PREFIX, gate="values")
    return ClassificationProblem(backbone, task, delta, "random", max_length=LENGTH, check=False)


def _gramian(problem: ClassificationProblem) -> float:
    gramian = output_gramian(problem, examples=TEXTS, outputs="margin")
    return float(gramian.total.trace())


def _gauss_newton(problem: ClassificationProblem) -> float:
    # Two passes a text for the rows, one for the margins behind the step: then the budget is spent.
    solution = GaussNewton(budget=3).solve(problem)
    assert len(solution.history) == 2
    return solution.cost


def _riccati(problem: ClassificationProblem) -> float:
    backbone = problem.backbone
    batch, _ = problem.batch(problem.train, range(TEXTS))
    adjoints = shift_adjoints(problem, problem.delta.initial(), batch, "last")
    generator = torch.Generator().manual_seed(0)
    directions = [
        torch.linalg.qr(torch.randn(backbone.hidden_size, DIRECTIONS, generator=generator))[0].to(
            backbone.device
        )
        for _ in adjoints
    ]
    solution = low_rank_riccati(adjoints, [directions[0][:, :0], *directions])
    assert solution.value is not None, solution.remedy
    problem.passes += FORWARD * solution.details["products"] * len(batch) / len(adjoints)
    return solution.cost


OPERATIONS: dict[str, Callable[[ClassificationProblem], float]] = {
    "Gramian": _gramian,
    "Gauss-Newton step": _gauss_newton,
    "low-rank Riccati": _riccati,
}

# What the fitted terms are proportional to, of L blocks of width H. Each block costs a constant (calls, small
# tensors) and its 12 H² multiplications a token; Gauss-Newton has few calls a block, and a convex problem of
# the texts alone; the Riccati recursion pulls k L(L+1)/2 vectors back through one block each. Memory is a
# constant and what is kept of each block: activations and the control's own, ∝ H.
PRODUCTS = "k L(L+1)/2"
TIME_TERMS: dict[str, dict[str, Callable[[int, int], float]]] = {
    "Gramian": {"L": lambda n, h: n, "L H²": lambda n, h: n * h**2},
    "Gauss-Newton step": {"1": lambda n, h: 1, "L H²": lambda n, h: n * h**2},
    "low-rank Riccati": {
        PRODUCTS: lambda n, h: DIRECTIONS * n * (n + 1) / 2,
        f"{PRODUCTS} H²": lambda n, h: DIRECTIONS * n * (n + 1) / 2 * h**2,
    },
}
MEMORY_TERMS: dict[str, Callable[[int, int], float]] = {"1": lambda n, h: 1, "L H": lambda n, h: n * h}


def _measure(problem: ClassificationProblem, name: str) -> dict[str, float | int]:
    cuda = problem.backbone.device.type == "cuda"
    run, weights = OPERATIONS[name], list(problem.backbone.model.parameters())
    run(_problem(2, 64, str(problem.backbone.device)))  # what torch maps into memory for any size
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before, passes = peak_bytes(cuda), problem.passes
    repeats = REPEATS if sum(w.numel() for w in weights) < 50e6 else 1
    seconds = [work(lambda: run(problem), cuda) for _ in range(repeats)]
    return {
        "parameters": sum(w.numel() for w in weights),
        "weight_bytes": sum(w.nbytes for w in weights),
        "peak_bytes": peak_bytes(cuda) - before,
        "seconds": median(seconds),
        "passes_per_text": (problem.passes - passes) / repeats / TEXTS,
    }


Shape = tuple[int, int]


class Fit:
    """y ≈ Σ_j c_j term_j(L, H) with c_j >= 0, by least squares of the relative errors."""

    def __init__(self, terms: dict[str, Callable[[int, int], float]], data: dict[Shape, float]) -> None:
        self.terms = terms
        design = np.array([self._row(shape) / y for shape, y in data.items()])
        scale = np.abs(design).max(0)
        self.coefficients = nnls(design / scale, np.ones(len(design)))[0] / scale
        self.freedom = len(design) - len(terms)
        errors = design @ self.coefficients - 1
        self.spread = math.sqrt(errors @ errors / self.freedom)  # of the relative errors
        self._covariance = np.linalg.inv(design.T @ design)

    def _row(self, shape: Shape) -> np.ndarray:
        return np.array([term(*shape) for term in self.terms.values()], dtype=float)

    def __call__(self, shape: Shape) -> float:
        """Return the prediction for a shape."""
        return float(self._row(shape) @ self.coefficients)

    def interval(self, shape: Shape) -> tuple[float, float]:
        """Return the prediction interval of the linear model, with relative errors of one spread."""
        value, row = self(shape), self._row(shape)
        wide = self.spread * math.sqrt(value**2 + row @ self._covariance @ row)
        half = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * wide
        return max(0.0, value - half), value + half


def _report(path: Path, device: str, log: ResultLog) -> None:
    rows = []
    for name in OPERATIONS:
        for quantity, terms in (("seconds", TIME_TERMS[name]), ("peak_bytes", MEMORY_TERMS)):
            measured = {shape: log.find(_config(name, shape)) for shape in [*SHAPES, XL]}
            data = {shape: row["result"][quantity] for shape, row in measured.items() if row}
            below = {shape: y for shape, y in data.items() if shape != XL}
            largest = SHAPES[-1]
            smaller = Fit(terms, {shape: y for shape, y in below.items() if shape != largest})
            fit = Fit(terms, below)
            rows.append(
                {
                    "operation": name,
                    "quantity": quantity,
                    "measured": {f"{n}x{h}": y for (n, h), y in data.items()},
                    "coefficients": dict(zip(terms, fit.coefficients.tolist(), strict=True)),
                    "spread": fit.spread,
                    "largest_predicted_by_smaller": smaller(largest),
                    "largest_error": smaller(largest) / below[largest] - 1,
                    "xl_predicted": fit(XL),
                    "xl_interval": fit.interval(XL),
                    "xl_measured": data.get(XL),
                    "fit": fit,
                }
            )
    text, figure = _table(rows, log, device), _figure(rows, device)
    plain = [{key: value for key, value in row.items() if key != "fit"} for row in rows]
    facts = _config("all", XL) | {"device": device, "level": LEVEL, "repeats": REPEATS}
    write(path, {"facts": facts, "rows": plain}, text, figure)


def _units(quantity: str, value: float | None) -> str:
    if value is None:
        return "not run"
    return f"{value:.3g} s" if quantity == "seconds" else f"{value / 1e6:,.0f} MB"


def _table(rows: list[dict[str, Any]], log: ResultLog, device: str) -> str:
    columns = ["blocks x width", "parameters", "weights"]
    columns += [x for name in OPERATIONS for x in (f"{name}: time", "memory", "passes a text")]
    measured = []
    for shape in [*SHAPES, XL]:
        results = [row and row["result"] for row in (log.find(_config(name, shape)) for name in OPERATIONS)]
        if not (first := next(filter(None, results), None)):
            continue
        cells = [f"{shape[0]} x {shape[1]}", f"{first['parameters'] / 1e6:,.1f} M"]
        cells.append(_units("peak_bytes", first["weight_bytes"]))
        for x in results:
            cells += [_units(key, x and x[key]) for key in ("seconds", "peak_bytes")]
            cells.append(f"{x['passes_per_text']:.3g}" if x else "")
        measured.append(cells)
    n, h = SHAPES[-1]
    fitted = []
    for row in rows:
        what, quantity = "time" if row["quantity"] == "seconds" else "memory", row["quantity"]
        low, high, predicted, found = (
            _units(quantity, x) for x in (*row["xl_interval"], row["xl_predicted"], row["xl_measured"])
        )
        cells = [f"{row['operation']}, {what}", f"{row['spread']:.0%}", f"{row['largest_error']:+.0%}"]
        fitted.append([*cells, predicted, f"{low} to {high}", found])
    heads = ["", "spread of the fit", f"{n} x {h} from the smaller ones", "GPT-2 XL, extrapolated"]
    heads += [f"{LEVEL:.0%} interval", "GPT-2 XL, measured"]
    clock = "processor seconds on one thread" if device == "cpu" else "seconds"
    formulas = "; ".join(
        f"{row['operation']} {row['quantity']} = "
        + " + ".join(f"{c:.3g} {term}" for term, c in row["coefficients"].items())
        for row in rows
    )
    tables = [Table("", columns, measured).body(), Table("", heads, fitted).body()]
    about = (
        f"Memory beyond the weights, and {clock}; random weights in float32, {TEXTS} texts of {LENGTH} "
        f"tokens, prefix:{PREFIX}, {DIRECTIONS} directions a block, a vocabulary of {WORDS} words, "
        f"device {device}. GPT-2 XL ({XL[0]} x {XL[1]}) is in no fit. With L blocks of width H, and k "
        f"directions: {formulas}."
    )
    return "\n\n".join([*tables, about])


def _figure(rows: list[dict[str, Any]], device: str) -> Any:
    shapes = [*SHAPES, XL]
    weights = [12 * n * h**2 for n, h in shapes]
    with drawing(10, 6, 2, 3) as (canvas, panels):
        for row, axes in zip(rows, panels.T.flatten(), strict=True):
            fit, unit = row["fit"], 1.0 if row["quantity"] == "seconds" else 1e6
            axes.loglog(weights, [fit(shape) / unit for shape in shapes], "-", label="fit")
            low, high = (x / unit for x in row["xl_interval"])
            axes.vlines(
                weights[-1], max(low, high / 1e3), high, lw=5, alpha=0.3, label=f"{LEVEL:.0%} interval"
            )
            for shape, x in zip(shapes, weights, strict=True):
                y = row["measured"].get(f"{shape[0]}x{shape[1]}")
                if y is not None:
                    axes.plot(x, y / unit, "ko" if shape != XL else "r*", ms=5 if shape != XL else 10)
            what = (
                ("seconds" if device == "cuda" else "processor seconds") if unit == 1.0 else "MB over weights"
            )
            axes.set(title=row["operation"] if unit == 1.0 else "", ylabel=what)
        for axes in panels[1]:
            axes.set_xlabel("parameters of the blocks")
        panels[0, 0].legend()
    return canvas


if __name__ == "__main__":
    typer.run(main)
