"""All that wants a GPU, in one command: tests, kernels and steps of large models, projections, studies.

    python -m experiments.gpu --data DATA --out FOLDER      # 12 minutes on one card of the Hopper class
    python -m experiments.gpu --rehearse --out FOLDER       # tiny sizes, on the CPU, without data

The parts run one after the other, each in processes of its own that end when its minutes are over; what a
part has finished is in its log, and the same command goes on from there. FOLDER/study holds trials.jsonl and
the pages of the studies, FOLDER/NAME.log what each part said, FOLDER/parts.jsonl how it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.results import ResultLog

_GRACE = 20  # seconds that a part has to write what it knows
STUDIES = (  # with how many tasks are drawn by lot, where the study names none
    ("learning_rate", None),
    ("reference", None),
    ("performance", "100"),
    ("convergence", "100"),
    ("dimension", "100"),
)


@dataclass(frozen=True)
class Part:
    """What is run, and for how many minutes at most.

    Attributes:
        name: of its log.
        arguments: of Python.
        minutes: after which it is cut off.
    """

    name: str
    arguments: list[str]
    minutes: float


def parts(out: Path, data: Path | None, rehearse: bool, workers: int) -> Iterator[Part]:
    """Yield the parts in their order: what others wait for first."""
    device = "cpu" if rehearse else "cuda"
    yield Part("tests", ["-m", "pytest", "-q", "-n", "4", "-k", "cuda or gpu", *_GPU_TESTS], 2)
    large = ["-m", "experiments.benchmarks.large", "--device", device, "--out", str(out)]
    yield Part("large", large + ["--tiny"] * rehearse, 2)
    sizes = ["2e4"] if rehearse else ["1e9", "7e9"]
    projections = ["-m", "experiments.benchmarks.projections", "--device", device, "--out", str(out)]
    yield Part(
        "projections", [*projections, "--repetitions", "1" if rehearse else "5", "--sizes", *sizes], 1.5
    )
    for name, tasks in STUDIES:
        minutes = 0.05 if rehearse else 3 if tasks is None else 2
        yield Part(name, _study(name, tasks, out, data, rehearse, workers, minutes), minutes + 1)


_GPU_TESTS = (
    "tests/test_cuda.py",
    "tests/projections/test_counter.py",
    "tests/projections/test_projection_regressions.py",
    "tests/training/test_trainer.py",
)


def _study(
    name: str, tasks: str | None, out: Path, data: Path | None, rehearse: bool, workers: int, minutes: float
) -> list[str]:
    from experiments.studies import STUDIES as MODULES

    arguments = ["-m", "experiments", "run", name, "--out", str(out / "study"), "--budget", str(minutes)]
    if rehearse:
        return [*arguments, "--models", "gpt-0.1M", "--tasks", "1"]
    drawn = tasks or ",".join(MODULES[name].TASK_NAMES)
    arguments += ["--data", str(data), "--tasks", drawn, "--models", "minilm"]
    return [*arguments, "--device", "cuda", "--workers", str(workers)]


def main(
    out: Annotated[Path, typer.Option(help="Folder for logs, tables and the study.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the tasks; not with --rehearse.")] = None,
    minutes: Annotated[float, typer.Option(help="For everything.")] = 12,
    workers: Annotated[int, typer.Option(help="Processes that share the GPU in the studies.")] = 12,
    only: Annotated[str, typer.Option(help="Names of parts, with commas between them; all.")] = "",
    rehearse: Annotated[bool, typer.Option(help="Tiny sizes, on the CPU.")] = False,
) -> None:
    """Run every part that has not ended well, as long as there is time."""
    if not rehearse and data is None:
        raise typer.BadParameter("name the folder of the tasks.", param_hint="--data")
    out.mkdir(parents=True, exist_ok=True)
    log, until, failed = ResultLog(out / "parts.jsonl"), time.monotonic() + 60 * minutes, []
    everything = list(parts(out, data, rehearse, workers))
    asked = only.split(",") if only else [part.name for part in everything]
    if unknown := set(asked) - {part.name for part in everything}:
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: parts are {', '.join(part.name for part in everything)}.",
            param_hint="--only",
        )
    for part in everything:
        config = {"part": part.name, "arguments": part.arguments}
        done = log.find(config)
        if part.name not in asked or (done and done["result"]["ended"] == "well"):
            continue
        left = min(60 * part.minutes, until - time.monotonic())
        if left < _GRACE:
            typer.echo(f"{part.name}: no time left")
            failed.append(part.name)
            continue
        began = time.monotonic()
        ended = _run(part, out, left)
        log.append(config, {"ended": ended, "seconds": round(time.monotonic() - began, 1)})
        typer.echo(f"{part.name}: {ended}, {time.monotonic() - began:.0f} s")
        if ended != "well":
            failed.append(part.name)
    if failed:
        typer.echo(f"not whole: {', '.join(failed)}; the same command goes on")
        raise typer.Exit(1)


def _run(part: Part, out: Path, seconds: float) -> str:
    """Run a part, and say how it ended."""
    with (out / f"{part.name}.log").open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
        )
        try:
            code = process.wait(seconds)
            return "well" if code == 0 else f"with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return f"cut off after {seconds:.0f} s"


if __name__ == "__main__":
    typer.run(main)
