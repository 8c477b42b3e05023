"""Do the demo's prediction and measurement agree, whatever the seed, and in time?

    python -m experiments.benchmarks.demo --out experiments/results/benchmarks                   # resumes

The command of `make demo` with five seeds, which draw examples, subspaces and the order of the data, each in
a process of its own: one after another with the threads that torch chooses, as a user runs it, or with
`--at-once` several with one thread each. Aim: the intervals of five of five overlap, in under four minutes
each on two cores. Seconds by the clock; nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from deltatheory.results import ResultLog
from experiments.measuring import processor, write
from experiments.page import Table

OPTIONS = ["dimension", "--steps", "50", "--runs", "5"]  # of `make demo`
COMMAND = [sys.executable, "-m", "deltatheory", *OPTIONS, "--no-progress"]
SEEDS = 5


def main(
    out: Annotated[Path, typer.Option(help="Folder for demo-cpu.{jsonl,json,md}.")],
    at_once: Annotated[int, typer.Option(help="Seeds at once, each with one thread where several.")] = 1,
) -> None:
    """Measure what is not in the log yet, and write one table."""
    log = ResultLog(out / "demo-cpu.jsonl")
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(partial(row, log, partial(_measured, at_once=at_once)), range(SEEDS)))
    report(out, found)


def row(log: ResultLog, measured: Callable[[int], dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return what a seed came to, from the log where it is there."""
    config = {"command": OPTIONS, "seed": seed}
    return {"seed": seed, **(log.find(config) or log.append(config, measured(seed)))["result"]}


def _measured(seed: int, at_once: int) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [*COMMAND, "--seed", str(seed), "--out", folder]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        return result(Path(folder), seconds, at_once)


def result(folder: Path, seconds: float, at_once: int) -> dict[str, Any]:
    """Return the row of a run in a folder."""
    d90 = json.loads((folder / "result.json").read_text())["d90"]
    return {**compared(d90), "seconds": round(seconds), "at once": at_once}


def report(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table."""
    table = Table("", list(rows[0]), [list(row.values()) for row in rows])
    agreed = sum(row["overlap"] == "yes" for row in rows)
    said = f"Intervals of 90 % overlap for {agreed} of {len(rows)} seeds."
    about = f"`deltatheory {' '.join(OPTIONS)}`, {processor()}; of several at once each has one thread."
    write(out / "demo-cpu", {"rows": rows}, f"{said}\n\n{table.body()}\n\n{about}")


def compared(d90: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return both estimates of a `result.json` in words, and whether their intervals overlap.

    An end that is `None` lies above every dimension; an estimate with no lower end has no interval.
    """
    ends = [(one["low"], math.inf if one["high"] is None else one["high"]) for one in d90.values()]
    known = all(low is not None for low, _ in ends)
    overlap = known and max(low for low, _ in ends) <= min(high for _, high in ends)
    return {**{name: _said(one) for name, one in d90.items()}, "overlap": "yes" if overlap else "no"}


def _said(one: dict[str, Any]) -> str:
    value, low, high = ("beyond" if one[x] is None else f"{one[x]:,}" for x in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    typer.run(main)
