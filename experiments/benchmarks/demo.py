"""Do the demo's prediction and measurement agree, whatever the seed, and in time?

    python -m experiments.benchmarks.demo --out experiments/results/benchmarks

The command of `make demo` with five seeds, which draw examples, subspaces and the order of the data, each as
a user runs it: in a process of its own with the threads that torch chooses. Aim: the intervals of five of
five overlap, in under four minutes each on two cores. Seconds by the clock; nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.measuring import processor, write
from experiments.page import Table

COMMAND = ["dimension", "--steps", "65"]
SEEDS = 5


def main(
    out: Annotated[Path, typer.Option(help="Folder for demo-cpu.{json,md}.")],
) -> None:
    """Measure and write one table."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    rows = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            own = ["--seed", str(seed), "--no-progress", "--out", folder]
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "deltatheory", *COMMAND, *own],
                env=environment,
                check=True,
                capture_output=True,
            )
            seconds = time.perf_counter() - began
            found = json.loads((Path(folder) / "result.json").read_text())["d90"]
        rows.append({"seed": seed, **compared(found), "seconds": round(seconds)})
        print(rows[-1], flush=True)
    table = Table("", list(rows[0]), [list(row.values()) for row in rows])
    agreed = sum(row["overlap"] == "yes" for row in rows)
    said = f"Intervals of 90 % overlap for {agreed} of {SEEDS} seeds."
    write(out / "demo-cpu", {"rows": rows}, f"{said}\n\n{table.body()}\n\n{processor()}.")


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
