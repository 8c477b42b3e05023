"""How much longer commands take while something else keeps cores busy.

    python -m experiments.benchmarks.busy --out experiments/results/benchmarks

Each command runs as a user runs it, in a process of its own with the threads that torch chooses: on a machine
that does nothing else, beside a plain loop that keeps one core busy, and beside a training run of one thread.
Seconds by the clock; the ratio is to the quiet machine. Nothing else may run meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from experiments.measuring import processor, write
from experiments.page import Table

COMMANDS = {
    "dimension --method predict": ["dimension", "--method", "predict"],
    "advise": ["advise"],
}
LOOP = [sys.executable, "-c", "while True: pass"]
TRAINING = [sys.executable, "-m", "deltatheory", "train", "--delta", "bitfit", "--steps", "100000"]


def main(
    out: Annotated[Path, typer.Option(help="Folder for busy-cpu.{json,md}.")],
) -> None:
    """Measure and write one table."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    rows = []
    for name, arguments in COMMANDS.items():
        seconds = {}
        for beside in ("nothing", "a loop", "a training run"):
            with _beside(beside, environment), tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "deltatheory", *arguments, "--no-progress", "--out", folder]
                began = time.perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                seconds[beside] = time.perf_counter() - began
            ratio = seconds[beside] / seconds["nothing"]
            rows.append({"command": name, "beside": beside, "seconds": seconds[beside], "ratio": ratio})
            print(rows[-1], flush=True)
    table = Table("", list(rows[0]), [list(row.values()) for row in rows])
    write(out / "busy-cpu", {"rows": rows}, f"{table.body()}\n\n{processor()}.")


@contextmanager
def _beside(what: str, environment: dict[str, str]) -> Iterator[None]:
    """Keep one core busy meanwhile, with a loop or a training run of one thread."""
    if what == "nothing":
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        command = LOOP if what == "a loop" else [*TRAINING, "--no-progress", "--out", folder]
        own = {**environment, "OMP_NUM_THREADS": "1"}
        other = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if what != "a loop":
                time.sleep(20)  # until it trains
            yield
            if other.poll() is not None:
                raise RuntimeError(f"what should run beside, {what}, has ended by itself.")
        finally:
            other.kill()
            other.wait()


if __name__ == "__main__":
    typer.run(main)
