"""How many times the physical floor does one subspace step cost?

One `apply` into the model's storage and one `adjoint`, for every projection, over the floor measured beside
it: fill D floats and read D floats. Beside them, what is published: the one-hot gather of PEFT's Uni-LoRA
and Fastfood over the whole vector padded to a power of two, both through autograd, which is how they are
used.

Time on a CPU is CPU time of one thread (`time.process_time`), medians; on a GPU, CUDA events. Stored bytes
are those of all tensors a map holds (not the 1 MB of tables all maps share). Transient bytes are the peak
of the allocator's own record (the profiler's memory events; on a GPU `max_memory_allocated`) over one step
beyond `out`, the gradient and what is stored; workspace inside the FFT library is not in it.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.projections [--device cuda] [--sizes 1e5 1e6 1e7 1e8]
"""

from __future__ import annotations

import argparse
import gc
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatheory.projections import PROJECTIONS, make_projection
from deltatheory.results import provenance
from experiments.measuring import processor, work, write
from experiments.page import Table, drawing

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"
DIMENSIONS = (10, 100, 1_000, 10_000)
# Ratios aimed at where D >= 1e7; stored and transient bytes a parameter there.
AIMS = {"hashed-plain": 2.5, "hashed": 6.0, "srdct": 14.0, "kronecker": 5.0}
STORED, TRANSIENT = 0.25, 0.2
# The published maps cost the same at every d, and much: one d each, up to these D.
PUBLISHED = {"Uni-LoRA gather (PEFT)": 10**8, "Fastfood as published": 10**7}


class Gather:
    """PEFT's Uni-LoRA: theta_d[indices] * scales, with its own `generate_index`."""

    def __init__(self, d: int, D: int, device: torch.device) -> None:
        from peft.tuners.unilora.model import UniLoraModel

        self.indices = UniLoraModel.generate_index(D, d, 0).to(device)
        self.scales = torch.bincount(self.indices, minlength=d).float().rsqrt()[self.indices]

    def forward(self, delta: Tensor) -> Tensor:
        return delta[self.indices] * self.scales


class PublishedFastfood:
    """H G Pi H B on the vector padded to L = 2^k >= D; B, Pi, G stored; butterflies by reshaping (Li et
    al., 2018)."""

    def __init__(self, d: int, D: int, device: torch.device) -> None:
        self.D, self.L = D, 1 << (D - 1).bit_length()
        self.B = torch.randint(0, 2, (self.L,), device=device).float() * 2 - 1
        self.Pi = torch.randperm(self.L, device=device)
        self.G = torch.randn(self.L, device=device)
        self.divisor = (self.L * self.G.square().sum()).sqrt()

    def forward(self, delta: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(delta, (0, self.L - len(delta)))
        mixed = self._hadamard(self._hadamard(padded * self.B)[self.Pi] * self.G)
        return mixed[: self.D] / self.divisor

    def _hadamard(self, x: Tensor) -> Tensor:
        h = 1
        while h < self.L:
            a, b = x.view(-1, 2, h).unbind(1)
            x = torch.stack([a + b, a - b], dim=1).view(-1)
            h *= 2
        return x


class Step:
    """One step of a map, in two halves: write theta, and bring its gradient back."""

    def __init__(self, name: str, d: int, D: int, device: torch.device) -> None:
        self.delta = torch.randn(d, device=device)
        if name in PROJECTIONS:
            self.held: Any = make_projection(name, d, D, seed=0)
        else:
            self.held = (Gather if name.startswith("Uni") else PublishedFastfood)(d, D, device)
            self.delta.requires_grad_()

    def halves(self, out: Tensor, gradient: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
        if not self.delta.requires_grad:
            return (lambda: self.held.apply(self.delta, out)), (lambda: self.held.adjoint(gradient))
        theta = self.held.forward(self.delta)
        back = lambda: torch.autograd.grad(theta, self.delta, gradient, retain_graph=True)  # noqa: E731
        return (lambda: self.held.forward(self.delta)), back

    def once(self, out: Tensor, gradient: Tensor) -> None:
        if self.delta.requires_grad:
            torch.autograd.grad(self.held.forward(self.delta), self.delta, gradient)
        else:
            self.held.apply(self.delta, out)
            self.held.adjoint(gradient)

    def stored(self) -> int:
        return sum(t.numel() * t.element_size() for t in _tensors(vars(self.held)))


def seconds(call: Callable[[], Any], device: torch.device, repetitions: int) -> float:
    """Median time of a call that ran before; once is enough where one call takes over two seconds."""
    times: list[float] = []
    while len(times) < repetitions and sum(times) < 2:
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            times.append(work(call, cuda=False))
    return statistics.median(times)


def transient(step: Step, out: Tensor, gradient: Tensor) -> int:
    if out.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step.once(out, gradient)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profiler:
        step.once(out, gradient)
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def reason_to_skip(name: str, d: int, D: int) -> str | None:
    if name in PUBLISHED:
        if PUBLISHED[name] < D:
            return "a minute a pass, 2.7 GB held, by extrapolation from D = 1e7"
        return None if d == 1_000 else "time independent of d"
    if name == "identity":
        return None if d == DIMENSIONS[0] else "d = D, once a D"
    if name == "gaussian" and d * D > 10**8:
        return "linear in D d, measured up to 1e8"
    if name == "sparse" and D > 10**7:
        return "linear in D, measured up to 1e7"
    if name in ("srht", "fastfood") and D > 10**7 and d != 1_000:
        return "seconds a pass; d = 1000 shown"
    return None


def measure(name: str, d: int, D: int, out: Tensor, gradient: Tensor, repetitions: int) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "d": d, "D": D}
    reason = reason_to_skip(name, d, D)
    if reason is not None:
        return row | {"skipped": reason}
    device = out.device
    step = Step(name, D if name == "identity" else d, D, device)
    step.once(out, gradient)
    halves = step.halves(out, gradient)
    for half in halves:
        half()
    fill, read = (lambda: out.fill_(1.0)), (lambda: gradient.sum())
    floor = [seconds(call, device, repetitions) for call in (fill, read)]
    passes = [seconds(half, device, repetitions) for half in halves]
    floor = [min(a, seconds(call, device, repetitions)) for a, call in zip(floor, (fill, read), strict=True)]
    del halves, half
    row |= {"apply_s": passes[0], "adjoint_s": passes[1], "fill_s": floor[0], "read_s": floor[1]}
    row |= {"ratio": sum(passes) / sum(floor), "stored_bytes_per_parameter": step.stored() / D}
    row["transient_bytes_per_parameter"] = transient(step, out, gradient) / D
    return row


def table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    parts = [
        "# Cost of a projection",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "Ratio of apply + adjoint to fill + read of D floats (apply ms, adjoint ms). B: bytes a parameter,\n"
        "the most over d, stored and transient beyond the model's own.",
    ]
    columns = ["projection", *(f"d = {d}" for d in DIMENSIONS), "stored B", "transient B"]
    for D in sorted({row["D"] for row in rows}):
        here = [row for row in rows if row["D"] == D]
        floors = [row["fill_s"] + row["read_s"] for row in here if "ratio" in row]
        lines = []
        for name in dict.fromkeys(row["name"] for row in here):
            mine = [row for row in here if row["name"] == name]
            bytes_ = [
                [r[f"{k}_bytes_per_parameter"] for r in mine if "ratio" in r] for k in ("stored", "transient")
            ]
            lines.append([name, *map(_cell, mine), *(f"{max(b):.2g}" if b else "-" for b in bytes_)])
        parts += [f"## D = {D:.0e} (floor {statistics.median(floors) * 1e3:.3g} ms)"]
        parts += [Table("", columns, lines).body()]
    return "\n\n".join([*parts, "## Aims, D >= 1e7", aims(rows).body()])


def aims(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for row in rows:
        if row["name"] in AIMS and row["D"] >= 10**7 and "ratio" in row:
            aim = AIMS[row["name"]]
            stored, moving = row["stored_bytes_per_parameter"], row["transient_bytes_per_parameter"]
            limits = {
                "time": (row["ratio"], aim),
                "stored": (stored, STORED),
                "transient": (moving, TRANSIENT),
            }
            missed = ", ".join(what for what, (value, limit) in limits.items() if value > limit)
            met = f"no: {missed}" if missed else "yes"
            lines.append([row["name"], f"{row['D']:.0e}", row["d"], row["ratio"], aim, stored, moving, met])
    return Table("", ["projection", "D", "d", "ratio", "aim", "stored B", "transient B", "met"], lines)


def figure(rows: list[dict[str, Any]]) -> Any:
    with drawing(9, 4.8) as (canvas, axes):
        for name in dict.fromkeys(row["name"] for row in rows):
            cells = [r for r in rows if r["name"] == name and "ratio" in r]
            d = 1_000 if any(r["d"] == 1_000 for r in cells) else 10
            points = [(r["D"], r["ratio"]) for r in cells if r["d"] == d]
            look = (
                {"linestyle": "--", "marker": "x", "color": "0.2"} if name in PUBLISHED else {"marker": "o"}
            )
            if name == "Fastfood as published":
                look["linestyle"] = ":"
            if points:
                axes.plot(*zip(*points, strict=True), **look, label=name)
        axes.set(xscale="log", yscale="log", xlabel="D", ylabel="(apply + adjoint) / (fill + read)")
        axes.axhline(1, color="k", linewidth=0.8)
        axes.set_title("One subspace step over its physical floor, d = 1000", fontsize=10)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7, 1e8], help="D to measure")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is written")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    facts = provenance() | {
        "command": shlex.join(["python", "-m", "experiments.benchmarks.projections", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    rows: list[dict[str, Any]] = []
    for D in map(int, arguments.sizes):
        out, gradient = torch.zeros(D, device=device), torch.randn(D, device=device)
        for name in (*PROJECTIONS, *PUBLISHED):
            for d in DIMENSIONS:
                rows.append(measure(name, d, D, out, gradient, arguments.repetitions))
                print(_line(rows[-1]), flush=True)
                gc.collect()
        # After each D, so that a run cut short leaves what it measured.
        values = {"facts": facts, "rows": rows}
        write(arguments.out / f"projections-{device.type}", values, table(rows, facts), figure(rows))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _cell(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return row["skipped"]
    return f"**{row['ratio']:.3g}** ({row['apply_s'] * 1e3:.3g}, {row['adjoint_s'] * 1e3:.3g})"


def _line(row: dict[str, Any]) -> str:
    head = f"{row['name']:24} D={row['D']:.0e} d={row['d']:<6}"
    if "skipped" in row:
        return f"{head} skipped: {row['skipped']}"
    stored, moving = row["stored_bytes_per_parameter"], row["transient_bytes_per_parameter"]
    return f"{head} {row['ratio']:9.2f} x floor, {stored:.3f} + {moving:.3f} B"


if __name__ == "__main__":
    main()
