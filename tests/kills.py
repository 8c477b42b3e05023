"""Kills at random moments, and many processes on one folder: nothing is lost, nothing comes out otherwise.

    python -m tests.kills [--out FOLDER] [--kills 100] [--terms 20] [--rows 10000] [--seed 0]

In rounds of one to four signals `dimension`, `train` and the runner of the study with two workers are killed
(SIGKILL to the whole group, or to its leader alone) or asked to stop (SIGTERM), and begun anew in the same
folder, then left to end: what they leave must be what an undisturbed run leaves, but for times, and no
temporary file. Then four processes append, collect and merge in one folder and are killed now and then: every
row whose append has returned must be there. A quarter of an hour on two cores. Each round is a row of
FOLDER/kills.jsonl, a line for each signal is printed, and a study that was stopped itself goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # as the tests have it

import quick_dimension  # noqa: E402
import torch  # noqa: E402
from command_line import letters, save_tiny  # noqa: E402

from deltatheory.cli import app  # noqa: E402
from deltatheory.deltas.files import read_tensors  # noqa: E402
from deltatheory.problems import Problem  # noqa: E402
from deltatheory.results import ANSWER, ResultLog, merge  # noqa: E402
from experiments import __main__ as experiments  # noqa: E402
from experiments import runner  # noqa: E402
from experiments.page import Findings  # noqa: E402
from experiments.runner import LOG, collect  # noqa: E402
from experiments.trial import Trial  # noqa: E402

PROCESSES = 4
_TIMES = re.compile(r"seconds.*|time|provenance|code|peak.*")  # keys of what is never the same twice
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}|part-.*")


@dataclass(frozen=True)
class Command:
    """What is killed: its arguments but the folder."""

    name: str
    call: Callable[[list[str]], Any]
    arguments: list[str]


class Study:
    """Two waves of training runs: the rate of the second follows from the first."""

    CLAIM, SOURCE = "Kills change nothing", "tests"

    def trials(self, scope, known):
        model, task = scope.models[0], scope.tasks[0].name
        settings = {"max_length": 12, "head": "random", "steps": 12, "batch_size": 8}
        for seed in range(6):
            for delta in ("bitfit", "lora:2"):
                first = Trial("train", model, task, delta, {}, seed, settings | {"learning_rate": 0.01})
                yield first
                if result := known.get(first):
                    rate = 0.02 if result["test"] > 0.5 else 0.03
                    yield Trial("train", model, task, delta, {}, seed, settings | {"learning_rate": rate})

    def findings(self, scope, known):
        return Findings("agrees", "Training runs.", ["They are here."], {"trials": len(known)})


def commands(folder: Path) -> list[Command]:
    """Make the inputs, and return what is killed."""
    model, data = folder / "bert", folder / "data" / "some"
    if not (data / "index.json").exists():
        save_tiny("bert", model)
        (data / "tasks").mkdir(parents=True)
        table = letters(data / "tasks" / "letters.jsonl", rows=300)
        with gzip.open(data / "tasks" / "letters.jsonl.gz", "wb") as file:
            file.write(table.read_bytes())
        entry = {"kind": "classification", "file": "tasks/letters.jsonl.gz", "category": "c"}
        (data / "index.json").write_text(json.dumps({"tasks": [entry | {"source_dataset": "letters"}]}))
    given = f"--model {model} --task {data}/tasks/letters.jsonl --head random --batch-size 8 --no-progress"
    train = "--steps 30 --learning-rate 0.05 --checkpoint-every 2 --no-compare"
    run = f"run kills --models {model} --data {data.parent} --tasks all --workers 2"
    return [
        Command("dimension", app, ["dimension", *given.split(), "--steps", "6"]),
        Command("train", app, ["train", *given.split(), *train.split()]),
        Command("runner", experiments.app, run.split()),
    ]


def quicken(patch: Callable[[object, str, object], None]) -> None:
    """Make runs short, and processes quick to start."""
    quick_dimension.quicken(patch)
    patch(Problem, "check", lambda *_: None)
    patch(experiments, "STUDIES", {"kills": Study()})
    patch(experiments, "studies_of", lambda kind: {"kills": Study()})
    patch(runner, "get_context", lambda _: get_context("fork"))


def timeless(value: Any) -> Any:
    """Return nested values without times."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not _TIMES.fullmatch(key)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def left_in(folder: Path) -> dict[str, Any]:
    """Return what a run has left but for times: rows by their hash, numbers, tensors, and rests."""
    rests = sorted(path.name for path in folder.rglob("*") if _TEMPORARY.fullmatch(path.name))
    left: dict[str, Any] = {"rests": rests}
    for path in sorted(folder.rglob("[!.]*.json*")):
        if path.name == ANSWER:
            continue  # what the numbers beside it are in words, times among them
        if path.name == LOG:
            left[LOG] = {row["hash"]: timeless(row["result"]) for row in ResultLog(path).rows()}
        else:
            left[path.name] = timeless(json.loads(path.read_text()))
    for path in folder.glob("delta.safetensors"):
        left[path.name] = {name: tensor.tolist() for name, tensor in read_tensors(path)[0].items()}
    return left


def begun(command: Command, out: Path) -> int:
    """Begin a command in a process with a group of its own; return its number."""
    child = os.fork()
    if child:
        os.setpgid(child, child)  # whichever of the two is first
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)  # the threads that the parent's OpenMP has are not there after a fork
        code = called(command, out)
    finally:
        os._exit(code)


def called(command: Command, out: Path) -> int:
    """Run a command in this process; return its exit code."""
    with out.with_name(f"{out.name}.txt").open("a") as said, redirect_stdout(said), redirect_stderr(said):
        try:
            command.call([*command.arguments, "--out", str(out)])
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 70
    return 0


def ended(child: int, seconds: float) -> int | None:
    """Wait so long for a process, and return its exit code, or the negative number of its signal."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def one_round(
    command: Command, out: Path, seconds: float, sent: signal.Signals, lot: random.Random
) -> tuple[list[dict[str, Any]], list[str]]:
    """Send up to four signals, each to a run that goes on from there, and let the last one end.

    Args:
        command: what is run.
        out: in which folder.
        seconds: that an undisturbed run takes.
        sent: SIGKILL or SIGTERM.
        lot: of the moments.

    Returns:
        What was sent when, and exit codes that should not be.
    """
    told, wrong = [], []
    for _ in range(lot.randint(1, 4)):
        at, child = lot.uniform(0, seconds), begun(command, out)
        if (code := ended(child, at)) is not None:
            wrong += [f"ended with {code} by itself"] if code else []
            break
        alone = sent is signal.SIGTERM or lot.random() < 0.3
        (os.kill if alone else os.killpg)(child, sent)
        code = ended(child, 60)
        if code not in (0, -sent, 128 + sent):
            wrong.append(f"ended with {code} after {sent.name}")
        told.append({"at": round(at, 3), "alone": alone, "code": code})
    if code := ended(begun(command, out), 600):
        wrong.append(f"ended with {code} undisturbed")
    return told, wrong


def kills(
    folder: Path,
    wanted: dict[signal.Signals, int],
    seed: int,
    names: Collection[str] = ("dimension", "train", "runner"),
) -> Counter[str]:
    """Go through rounds until there are as many signals as wanted; count them, and all differences."""
    log, found, whole = ResultLog(folder / "kills.jsonl"), Counter(), {}
    chosen = [command for command in commands(folder) if command.name in names]
    number = 0
    while sent := next((sent for sent, count in wanted.items() if found[sent.name] < count), None):
        lot, command = random.Random(f"{seed} {number}"), chosen[number % len(chosen)]
        config = {"round": number, "seed": seed, "command": command.name, "signal": sent.name}
        if (row := log.find(config)) is None:
            if command.name not in whole:
                called(command, folder / f"{command.name}-first-{os.getpid()}")  # all others find it loaded
                out, began = folder / f"{command.name}-whole-{os.getpid()}", time.monotonic()
                assert ended(begun(command, out), 600) == 0, out
                whole[command.name] = time.monotonic() - began, left_in(out)
            seconds, right = whole[command.name]
            out = folder / f"{command.name}-{number}-{os.getpid()}"
            told, wrong = one_round(command, out, seconds, sent, lot)
            left = left_in(out)
            wrong += [f"{name} differs" for name in {**right, **left} if left.get(name) != right.get(name)]
            row = log.append(config, {"signals": told, "wrong": wrong})
        for one in row["result"]["signals"]:
            found[sent.name] += 1
            print(found[sent.name], sent.name, command.name, json.dumps(one), flush=True)
        for sentence in row["result"]["wrong"]:
            found["differences"] += 1
            print(f"round {number}, {command.name}: {sentence}", flush=True)
        number += 1
    return found


def _append(folder: Path, who: int, first: int, count: int, told: int) -> None:
    """Append rows, each told of once its append has returned, and collect and merge now and then."""
    lot = random.Random(f"{who} {first}")
    logs = [folder / LOG, folder / f"part-{who}.jsonl", folder / "part-all.jsonl", folder / "machine.jsonl"]
    for i in range(first, count):
        ResultLog(lot.choice(logs)).append({"who": who, "i": i}, {"x": i})
        os.write(told, f"{i}\n".encode())
        if lot.random() < 1 / 100:
            collect(folder)
        if lot.random() < 1 / 100:
            one, other = lot.sample([folder / LOG, folder / "machine.jsonl"], 2)
            if one.exists():
                merge([one], other)


def _appending(folder: Path, who: int, first: int, count: int) -> tuple[int, int]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _append(folder, who, first, count, writer)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    os.set_blocking(reader, False)
    return child, reader


def contention(folder: Path, rows: int, seed: int, between: int = 500) -> Counter[str]:
    """Let four processes append so many rows in all, collect and merge; count what is lost, and kills.

    One of them is killed after so many rows on average, and goes on after the last row it has told of.
    """
    lot, found = random.Random(seed), Counter(rows=0, kills=0, failed=0)
    each, told = -(-rows // PROCESSES), dict.fromkeys(range(PROCESSES), b"")
    running = {who: _appending(folder, who, 0, each) for who in told}
    next_kill = between
    while running:
        time.sleep(0.01)
        if sum(said.count(b"\n") for said in told.values()) >= next_kill:
            os.kill(running[lot.choice(list(running))][0], signal.SIGKILL)
            next_kill += lot.randint(1, 2 * between)
        for who, (child, reader) in list(running.items()):
            code = ended(child, 0.003)
            while said := _read(reader):
                told[who] += said
            if code is None:
                continue
            os.close(reader)
            del running[who]
            if code == -signal.SIGKILL:
                found["kills"] += 1
                running[who] = _appending(folder, who, len(told[who].split()), each)
            found["failed"] += code == 1
    collect(folder)
    merge(folder.glob("machine.jsonl"), folder / LOG)
    there = {(row["config"]["who"], row["config"]["i"]) for row in ResultLog(folder / LOG).rows()}
    wanted = {(who, int(i)) for who, said in told.items() for i in said.split()}
    return found + Counter(rows=len(wanted), lost=len(wanted - there))


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 16)
    except BlockingIOError:
        return b""


def main() -> int:
    """Run the long form."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "kills")
    for name, default in {"kills": 100, "terms": 20, "rows": 10_000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    quicken(setattr)
    wanted = {signal.SIGKILL: given.kills, signal.SIGTERM: given.terms}
    found = kills(given.out, wanted, given.seed)
    folder = given.out / f"contention-{os.getpid()}"
    folder.mkdir()
    rows = contention(folder, given.rows, given.seed)
    print(f"{found['SIGKILL']} kills, {found['SIGTERM']} SIGTERM: {found['differences']} differences")
    print(f"{PROCESSES} processes, {rows['kills']} kills: {rows['lost']} of {rows['rows']} rows lost")
    return int(bool(found["differences"] or rows["lost"] or rows["failed"]))


if __name__ == "__main__":
    sys.exit(main())
