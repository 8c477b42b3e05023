"""What the commands cost on the language model on board, SmolLM2-135M, at small limits: time and memory.

    make smollm2
    python -m experiments.benchmarks.language_model --out experiments/results/benchmarks          # resumes

Each command runs as a user runs it, in a process of its own: seconds by the clock, peak of the resident
memory, of which Python, torch and transformers are about .35 GB and the weights in float32 .54 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.results import ResultLog
from experiments.measuring import processor, write
from experiments.page import Table

CLASSES = ["--task", "stdlib-topics-2", "--max-length", "32"]
COMMANDS = {
    "advise": [*CLASSES, "--examples", "64", "--batch-size", "8"],
    "dimension --method predict": [*CLASSES, "--train-examples", "64"],
    "dimension --method measure": [
        *[*CLASSES, "--train-examples", "64", "--test-examples", "64", "--steps", "8", "--batch-size", "8"],
        *["--runs", "5"],
    ],
    "control": [*CLASSES, "--examples", "16", "--test-examples", "64", "--delta", "prefix:4"],
    "train --delta lora:8": [*CLASSES, "--steps", "20", "--batch-size", "8", "--test-examples", "64"],
    "train --delta lora:8 --dtype bfloat16": [
        *[*CLASSES, "--steps", "20", "--batch-size", "8", "--test-examples", "64"],
    ],
    "train --delta prefix:8 (generation)": ["--steps", "20", "--batch-size", "8", "--max-length", "32"],
}
WORDS = [
    "north",
    "south",
    "east",
    "west",
    "red",
    "green",
    "blue",
    "black",
    "white",
    "old",
    "young",
    "small",
    "great",
]


def main(
    out: Annotated[Path, typer.Option(help="Folder for language-model-cpu.{jsonl,json,md}.")],
    model: str = "smollm2",
) -> None:
    """Measure what is not in the log yet, and write one table."""
    log = ResultLog(out / "language-model-cpu.jsonl")
    rows = []
    for name, arguments in COMMANDS.items():
        options = " ".join(arguments)
        config = {"command": name, "model": model, "options": options}
        row = log.find(config) or log.append(config, _measured(name, arguments, model))
        rows.append({"command": name, **row["result"], "options": options})
        print(rows[-1], flush=True)
    table = Table("", list(rows[0]), [list(row.values()) for row in rows])
    write(out / "language-model-cpu", {"rows": rows}, f"{table.body()}\n\n{model}, {processor()}.")


def _measured(name: str, arguments: list[str], model: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        given = list(arguments)
        if "generation" in name:
            given += ["--task", str(_answers(Path(folder) / "answers.jsonl"))]
        words = name.partition(" (")[0].split()
        command = [sys.executable, "-m", "deltatheory", *words, "--model", model, *given]
        return _run([*command, "--no-progress", "--out", f"{folder}/out"])


def _run(command: list[str]) -> dict[str, float]:
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(command)} failed: {said[-400:]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {"seconds": time.perf_counter() - began, "peak GB": usage.ru_maxrss * scale / 1e9}


def _answers(path: Path) -> Path:
    """Write a task to generate: the second of two words."""
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
    path.write_text("".join(json.dumps({"text": f"{a} {b}:", "target": f" {b}"}) + "\n" for a, b in pairs))
    return path


if __name__ == "__main__":
    typer.run(main)
