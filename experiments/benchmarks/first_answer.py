"""Time to the first answer: the commands of a new user's first ten minutes, on the embedded model and task.

    python -m experiments.benchmarks.first_answer --out experiments/results/benchmarks            # resumes

Each command runs as a user runs it, in a process of its own with the threads that torch chooses; nothing
else may run meanwhile. Seconds by the clock and of the processor, beside the aim for two cores, with the
first line that is said. The log has a row for each commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.results import ResultLog, provenance
from experiments.measuring import processor, write
from experiments.page import Table

PROGRAM = [sys.executable, "-m", "deltatheory"]
AIMS = {  # seconds
    "--help": 0.5,
    "check T02 T39": 20.0,
    "diagnose": 45.0,
    "dimension --runs 0": 45.0,
    "advise": 60.0,
    "train": 60.0,
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for first-answer-cpu.{jsonl,json,md}.")],
) -> None:
    """Measure what is not in the log yet, and write one table."""
    log, rows = ResultLog(out / "first-answer-cpu.jsonl"), []
    for command, aim in AIMS.items():
        config = {"command": command, "commit": provenance()["commit"]}
        row = log.find(config) or log.append(config, _measured(command))
        found = row["result"]
        met = "yes" if found["seconds"] < aim else "no"
        rows.append([f"`{command}`", found["seconds"], aim, met, found["processor seconds"], found["said"]])
        print(rows[-1], flush=True)
    table = Table("", ["command", "seconds", "aim", "met", "of the processor", "first line"], rows)
    about = f"Commit {provenance()['commit']}, {processor()}, nothing else running."
    write(out / "first-answer-cpu", {"rows": rows}, f"{table.body()}\n\n{about}")


def _measured(command: str) -> dict[str, float | str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    with tempfile.TemporaryDirectory() as folder:
        words = command.split()
        how = [] if words == ["--help"] else ["--no-progress", "--out", f"{folder}/out"]
        before, began = os.times(), time.perf_counter()
        done = subprocess.run([*PROGRAM, *words, *how], env=environment, capture_output=True, text=True)
        seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-400:]}")
    own = sum(after[2:4]) - sum(before[2:4])  # of children, user and system
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return {"seconds": seconds, "processor seconds": own, "said": lines[0]}


if __name__ == "__main__":
    typer.run(main)
