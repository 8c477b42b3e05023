"""Command lines and files at random: no traceback, no hang, no silent acceptance, exit codes right.

`tests/cli/test_fuzz.py` runs a few of them; `python -m tests.fuzz --minutes N` goes on for longer, prints of
every kind of fault the shortest example that it has seen, and exits with 1 if there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

if __name__ == "__main__":  # a name that is no file is not looked for on the network
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import typer
from command_line import letters, quick, save_tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from typer.testing import CliRunner

from deltatheory.cli import app
from deltatheory.control import SOLVERS
from deltatheory.control.feedback.disturbances import DISTURBANCES
from deltatheory.control.feedback.policies import POLICIES
from deltatheory.control.solvers import GaussNewton
from deltatheory.deltas import DELTAS, LoRA
from deltatheory.problems.heads import HEADS
from deltatheory.projections import PROJECTIONS

LONGEST = 90  # seconds: what takes longer hangs
# Every command as short as can be; names in capitals are small files.
_GIVEN = "--model MODEL --task TASK"
_PREFIX = f"{_GIVEN} --delta prefix:2"
SHORTEST = {
    "dimension": f"{_GIVEN} --steps 2 --batch-size 8 --train-examples 16 --runs 5 --precision 9",
    "train": f"{_GIVEN} --delta lora:2 --steps 3 --batch-size 8 --no-compare",
    "advise": f"{_GIVEN} --candidate layernorm --examples 8",
    "explain": "DELTA --model MODEL --examples 8",
    "control": f"{_PREFIX} --examples 6 --setting budget=2.0",
    "diagnose": f"{_PREFIX} --examples 6 --steps 3",
    "steer": f"{_GIVEN} --delta lora:2 --steps 8 --learning-rate .05 --train-examples 32 --disturbance noise",
    "check": f"T31 {_GIVEN} --delta lora:2",
    "deltas": "--model MODEL",
}
_TRAINED = f"{_GIVEN} --option r=2 --steps 8 --batch-size 8 --learning-rate 0.05 --no-compare"
# What reads each of the files.
READERS = {
    "MODEL": ("deltas", "--model MODEL"),
    "TASK.jsonl": ("train", SHORTEST["train"]),
    "DELTA.safetensors": ("explain", "DELTA --model MODEL"),
    "ADAPTER": ("explain", "ADAPTER --model MODEL"),
    "RUN": ("train", _TRAINED),
}
COMMANDS = {one.callback.__name__: signature(one.callback).parameters for one in app.registered_commands}
FLAGS = {
    name: {one.name: one.opts[0] for one in command.params}
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
}
LONG = {
    "steps",
    "batch_size",
    "burn_in",
    "runs",
    "max_minutes",
    "max_parameters",
}  # large ones take their time

ODD = [
    "",
    " ",
    "\udc80",
    "x" * 5000,
    "é\u2028θ",
    "a/b/c",
    "../..",
    "/dev/null",
    "/",
    "'\"[]",
    "r=x",
    "lora:",
    "0",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_characters="\0"), max_size=8))
KEYS = st.text(max_size=4)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 10**6), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=4,
)
NAMES = {
    "delta": [*DELTAS, "lora:2", "prefix:1", "subspace:3", "prompt:2", "adapter:2"],
    "head": [*HEADS],
    "solver": [*SOLVERS],
    "controller": [*POLICIES],
    "disturbance": [*DISTURBANCES],
    "projection": [*PROJECTIONS],
    "candidate": ["lora r=1", "bitfit", "prefix length=1", "adapter bottleneck=1", "subspace d=2"],
    "scope": ["blocks", "all"],
    "ids": ["T02", "T39"],
    "device": ["cpu"],
}
OPTIONS = {
    name: sorted({key for kind in kinds for key in signature(kind).parameters} - {"backbone", "deltas"})
    for name, kinds in {"setting": SOLVERS.values(), "option": DELTAS.values()}.items()
}
NEAR = {"setting": GaussNewton, "option": LoRA}  # what the shortest command lines have, mostly
NEAR = {name: sorted(signature(kind).parameters.keys() - {"backbone"}) for name, kind in NEAR.items()}


@dataclass(frozen=True)
class Line:
    """A command line.

    Attributes:
        command: its name.
        arguments: what stands behind it.
        refused: an argument that no command may accept, if there is one.
        damaged: name of a file in `Inputs` that is replaced, and its content.
        charset: of the terminal.
    """

    command: str
    arguments: tuple[str, ...]
    refused: str | None = None
    damaged: tuple[str, bytes] | None = field(default=None, repr=False)
    charset: str = "utf-8"


class Inputs:
    """Small valid files in a folder, each a name below."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = save_tiny("bert", folder / "MODEL")
        self.task = letters(folder / "TASK.jsonl", rows=600)
        given = ("--model", self.model, "--task", self.task, "--no-compare", "--option", "r=2")
        done = quick("train", *given, "--out", folder / "RUN")
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(
            app, ["explain", *self.real(("RUN/delta.safetensors", "--model", "MODEL", "--out", "EX"))]
        )
        assert done.exit_code == 0, done.output
        (folder / "EX" / "truncated").rename(folder / "ADAPTER")
        shutil.rmtree(folder / "EX")
        shutil.copy(folder / "RUN" / "delta.safetensors", folder / "DELTA.safetensors")
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in self._paths()}

    def _paths(self) -> list[Path]:
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name != ".lock"]

    def real(self, arguments: tuple[str, ...]) -> list[str]:
        """Return arguments with the paths of the files."""
        ends = {"TASK": "TASK.jsonl", "DELTA": "DELTA.safetensors"}
        heads = ("MODEL", "TASK", "DELTA", "ADAPTER", "RUN", "EX", "OUT")
        return [str(self.folder / ends.get(x, x)) if x.partition("/")[0] in heads else x for x in arguments]

    @contextmanager
    def with_damage(self, damaged: tuple[str, bytes] | None) -> Iterator[None]:
        """Replace a file, and put all back as it was."""
        if damaged is not None:
            (self.folder / damaged[0]).write_bytes(damaged[1])
        try:
            yield
        finally:
            shutil.rmtree(self.folder / "OUT", ignore_errors=True)
            for path in self._paths():
                name = str(path.relative_to(self.folder))
                if name not in self.files:
                    path.unlink()
                elif path.read_bytes() != self.files[name]:
                    path.write_bytes(self.files[name])
            for name, content in self.files.items():
                if not (self.folder / name).exists():
                    (self.folder / name).write_bytes(content)


@cache
def options(command: str) -> dict[str, Any]:
    """What a draw may change of a command, and its type."""
    kept = {"out", "progress", "adapter", "track"}
    return {name: get_args(one.annotation)[0] for name, one in COMMANDS[command].items() if name not in kept}


def numbers(name: str, whole: bool) -> st.SearchStrategy[tuple[str, bool]]:
    """Texts for a number, and whether none may be accepted."""
    wrong = ["nan", "inf", "-inf", "1e999", "", "x", "0x10", "NaN", "1,5", "\udc80"] + ["1.5"] * whole
    right = ["0", "-1", "1", "2", "3"] + ([] if whole else ["0.5", "-0.0", "1e-300"])
    large = [] if name in LONG else ["10" + "0" * 30] + ([] if whole else ["1e300"])
    fine = st.tuples(st.sampled_from([*right, *large]), st.just(False))
    return st.one_of(st.tuples(st.sampled_from(wrong), st.just(True)), fine, fine)


def pairs(kind: str) -> st.SearchStrategy[str]:
    """NAME=VALUE, of names that an "option" of a delta or a "setting" of a solver has, and of others."""
    name = st.one_of(*[st.sampled_from(NEAR[kind])] * 4, st.sampled_from(OPTIONS[kind]), TEXTS)
    value = st.one_of(TEXTS, *[JSON.map(json.dumps)] * 3)
    return st.one_of(TEXTS, *[st.tuples(name, value).map("=".join)] * 5)


@st.composite
def changed(draw: Callable, command: str) -> tuple[str, list[str], bool]:
    """An option of a command with a value: its name, the arguments, and whether none may be accepted."""
    name = draw(st.sampled_from(sorted(options(command))))
    kind, flag = options(command)[name], FLAGS[command].get(name, "")
    if kind is bool:
        return name, [flag if draw(st.booleans()) else flag.replace("--", "--no-", 1)], False
    if {int, float} & {kind, *get_args(kind)}:
        text, refused = draw(numbers(name, float not in (kind, *get_args(kind))))
        return name, [flag, text], refused
    if name in ("option", "setting"):
        return name, [flag, draw(pairs(name))], False
    if name == "candidate":
        two = st.tuples(st.sampled_from(sorted(DELTAS)), pairs("option")).map(" ".join)
        text = draw(st.one_of(st.sampled_from(NAMES[name]), two, TEXTS))
        return name, [flag, text], False
    if name in ("model", "task", "tuned"):
        there = ["MODEL", "TASK", "DELTA", "ADAPTER", "RUN", "MODEL/config.json", "hub:", "hub:@"]
        return name, [flag, draw(st.one_of(*[st.sampled_from(there)] * 2, TEXTS))], False
    known = st.sampled_from(NAMES.get(name, ["a"])).map(lambda text: (text, False))
    odd = TEXTS.map(lambda text: (text, name in NAMES and text.partition(":")[0] not in "".join(NAMES[name])))
    text, refused = draw(st.one_of(known, known, odd))
    return name, [text] if name == "ids" else [flag, text], refused


@st.composite
def lines(draw: Callable) -> Line:
    """A command line that is right but for a few options."""
    command = draw(st.sampled_from(sorted(SHORTEST)))
    changes = {}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        name, arguments, refused = draw(changed(command))
        changes[name] = (arguments, refused)
    given = [*SHORTEST[command].split(), *(x for arguments, _ in changes.values() for x in arguments)]
    refused = next((" ".join(arguments) for arguments, wrong in changes.values() if wrong), None)
    return Line(command, tuple(given), refused, charset=draw(st.sampled_from(["utf-8", "ascii"])))


@st.composite
def damage(draw: Callable, content: bytes) -> bytes:
    """Bytes cut, overwritten or replaced; of JSON also a value changed, or a key more or fewer."""
    where = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["cut", "overwrite", "insert", "replace", "json", "json"]))
    if kind == "json":
        with suppress(ValueError):
            return json.dumps(edited(draw, json.loads(content))).encode()
    if kind == "cut":
        return content[:where]
    usual = st.sampled_from([b"\xff" * 8, b"\0" * 64, b"[" * 5000, b"NaN"])
    noise = draw(st.one_of(st.binary(max_size=40), usual))
    if kind == "replace":
        return noise
    return content[:where] + noise + content[where + (len(noise) if kind == "overwrite" else 0) :]


def edited(draw: Callable, value: Any, depth: int = 0) -> Any:
    """Change one place of a JSON value."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(["inside", "without", "more"]))
        rest = {k: v for k, v in value.items() if k != key}
        if how == "more":
            return value | {draw(st.text(max_size=5)): draw(JSON)}
        return rest if how == "without" else rest | {key: edited(draw, value[key], depth + 1)}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], edited(draw, value[i], depth + 1), *value[i + 1 :]]
    return draw(JSON)


@st.composite
def readings(draw: Callable, inputs: Inputs) -> Line:
    """A command that reads a damaged file."""
    name = draw(st.sampled_from(sorted(inputs.files)))
    command, arguments = READERS[name.partition("/")[0]]
    given = arguments.split() + (["--out", "RUN"] if name.startswith("RUN") else [])
    return Line(command, tuple(given), damaged=(name, draw(damage(inputs.files[name]))))


class Fault(AssertionError):
    """What a command line must not do."""


def told(stderr: str) -> str:
    """Return the last line of what a command says of an error."""
    return next((line for line in reversed(stderr.splitlines()) if line.strip()), "")


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Interrupt what hangs."""

    def late(*_: object) -> None:
        raise Fault(f"hangs: more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(line: Line, inputs: Inputs) -> int:
    """Run a command line, see whether it ends as it should, and return its exit code.

    Raises:
        Fault: if not.
    """
    out = [] if "--out" in line.arguments or line.command == "deltas" else ["--out", "OUT"]
    bar = ["--no-progress"] if "progress" in COMMANDS[line.command] else []
    given = [line.command, *inputs.real((*line.arguments, *out)), *bar]
    with inputs.with_damage(line.damaged), at_most(LONGEST):
        done = CliRunner(charset=line.charset).invoke(app, given)
        left = [path for path in inputs.folder.rglob(".*") if path.name not in (".lock", ".results.lock")]
    error = done.exception
    if error is not None and not isinstance(error, SystemExit):
        if type(error).__name__ == "TypeCheckError":  # the tests' own check of annotations came first
            return 2
        raise Fault("".join(traceback.format_exception(error)[-3:]).strip()) from error
    if "Traceback" in done.output:
        raise Fault(f"prints a traceback: {told(done.output)}")
    if done.exit_code not in (0, 1, 2):
        raise Fault(f"exits with {done.exit_code}: {told(done.stderr)}")
    if done.exit_code == 2 and "Error" not in told(done.stderr) and "Invalid" not in told(done.stderr):
        raise Fault(f"refuses without a word: {told(done.stderr)!r}")
    if line.refused is not None and done.exit_code != 2:
        raise Fault(f"accepts {line.refused!r}, exit code {done.exit_code}")
    if left:
        raise Fault(f"leaves {left}")
    return done.exit_code


def rounds(inputs: Inputs, until: float) -> dict[str, tuple[str, Line]]:
    """Draw until a time; return the shortest example of each kind of fault."""
    found: dict[str, tuple[str, Line]] = {}
    ended: Counter[str] = Counter()

    def one(line: Line) -> None:
        if time.monotonic() > until:
            return
        try:
            ended[f"{line.command} {check(line, inputs)}"] += 1
        except Fault as fault:
            ended["faults"] += 1
            kind = str(fault).splitlines()[-1][:60]
            if kind not in found:
                print(f"{kind}\n    {line.command} {' '.join(line.arguments)!r} {line.damaged}", flush=True)
            if kind not in found or len(repr(line)) < len(repr(found[kind][1])):
                found[kind] = str(fault), line

    for command, arguments in SHORTEST.items():  # what is to be changed is right at first
        line = Line(command, tuple(arguments.split()))
        if code := check(line, inputs):
            found[command] = f"exits with {code} as it stands", line
    once = settings(max_examples=50, deadline=None, database=None, phases=[Phase.generate])
    once = settings(once, suppress_health_check=list(HealthCheck))
    while time.monotonic() < until:
        for strategy in (lines(), readings(inputs)):
            seeded(ended.total())(once(given(strategy)(one)))()
    print(f"{ended.total()} command lines, {len(found)} kinds of fault; by command and exit code:")
    print(", ".join(f"{name}: {count}" for name, count in sorted(ended.items())))
    return found


def main(minutes: float = typer.Option(10.0, help="How long.")) -> None:
    """Run command lines and damaged files at random for some minutes."""
    from deltatheory.problems import Problem

    Problem.check = lambda *_: None  # type: ignore[method-assign]  # the self-check of derivatives takes most of the time
    with TemporaryDirectory() as folder:
        found = rounds(Inputs(Path(folder)), time.monotonic() + 60 * minutes)
    for fault, line in found.values():
        print(f"\n{line}\n  {line.damaged}\n  {fault}")
    raise typer.Exit(bool(found))


if __name__ == "__main__":
    typer.run(main)
