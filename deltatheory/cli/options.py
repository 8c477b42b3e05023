"""The options that commands share, each in one place, and how a command takes them.

A group of options makes one object: `@command(setup=SETUP, training=TRAINING)` hands a function a `Setup` and
a `Training` beside the options of its own. What can be refused without a look at the model is refused first.
Nothing heavy is imported before a command runs.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option
from typer.models import ArgumentInfo

from deltatheory._options import check_finite, options_of
from deltatheory.cli.extras import need
from deltatheory.cli.output import errors_in_one_line, remarks_printed, stopped_by_signals
from deltatheory.cli.runs import claimed

__all__ = [
    "AUTO",
    "DELTA",
    "SETUP",
    "TABLE",
    "TRAINING",
    "Group",
    "Progress",
    "Shared",
    "command",
    "lazy",
    "options_of",
    "rate",
    "results_in",
    "task_of",
    "with_prefix",
]

Progress = Annotated[bool, Option(help="Show a progress bar.")]
AUTO = "auto"  # a learning rate that is predicted before training
_LAST = ("seed", "device", "out", "track", "progress")  # in the help of every command


@dataclass(frozen=True)
class Shared:
    """One option of a group; its name there is that of the object's argument."""

    kind: Any
    default: Any
    help: str
    flag: str | None = None
    callback: Callable[..., Any] | None = None
    parser: Callable[[str], Any] | None = None

    def parameter(self, name: str) -> inspect.Parameter:
        """Return it as a parameter of a command."""
        flags = [self.flag] if self.flag else []
        about = Option(*flags, help=self.help, callback=self.callback, parser=self.parser)
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=self.default, annotation=Annotated[self.kind, about])


@dataclass(frozen=True)
class Group:
    """Options that together make one object.

    Attributes:
        make: returns it, from the values by name.
        options: by name, in the order of the help.
    """

    make: Callable[..., Any]
    options: Mapping[str, Shared]

    def only(self, *names: str) -> "Group":
        """Return the group with these options alone; the object has its own defaults for the others.

        A task brings the options of its table.
        """
        names = tuple(one for name in names for one in ([name, *TABLE] if name == "task" else [name]))
        return replace(self, options={name: self.options[name] for name in names})

    def changed(self, **changes: Mapping[str, Any]) -> "Group":
        """Return the group with other attributes of some options, as in default={"steps": 60}."""
        options = dict(self.options)
        for attribute, values in changes.items():
            for name, value in values.items():
                options[name] = replace(options[name], **{attribute: value})
        return replace(self, options=options)


def command(*extras: str, **groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: the function's parameters of these names are made of the options of groups.

    An option that several groups have is given once, and goes to all of them. Bad input is told in one line.
    A group "out" (`results_in`) makes the folder that the run has for itself.

    Args:
        extras: of the package, without which the command does not begin.
        groups: by the function's parameters.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = {p.name: p for p in inspect.signature(function).parameters.values() if p.name not in groups}
        shared: dict[str, Shared] = {}
        for group in reversed(groups.values()):  # the first of several groups says how an option is shown
            shared = {**group.options, **shared, **group.options}
        parameters = [option.parameter(name) for name, option in shared.items()]
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values()]
        parameters.sort(key=lambda p: _LAST.index(p.name) if p.name in _LAST else -1)
        defaults = {p.name: p.default for p in parameters}
        flags = _flags_of(parameters)

        @wraps(function)
        def run(**values: Any) -> None:
            with errors_in_one_line(flags), stopped_by_signals(), remarks_printed(flags):
                for name, value in values.items():
                    check_finite(f"--{name.replace('_', '-')}", value)
                need(*extras)
                made = {
                    name: group.make(**{option: values[option] for option in group.options})
                    for name, group in groups.items()
                }
                given = {name: value for name, value in values.items() if value != defaults[name]}
                place = claimed(made["out"], function.__name__, given) if "out" in groups else nullcontext()
                with place as folder:
                    if folder is not None:
                        made["out"] = folder
                    function(**made, **{name: values[name] for name in own})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _flags_of(parameters: list[inspect.Parameter]) -> dict[str, str]:
    """Return the flags of a command by the names that its options have in the library."""
    flags = {}
    for p in parameters:
        about = getattr(p.annotation, "__metadata__", (None,))[0]
        if not isinstance(about, ArgumentInfo):
            declared = [one for one in getattr(about, "param_decls", None) or () if one.startswith("--")]
            flags[p.name] = declared[0] if declared else f"--{p.name.replace('_', '-')}"
    if "model" in flags:
        flags["name"] = flags["model"]  # as of `load_backbone`
    return flags


def results_in(default: str, text: str) -> Group:
    """Return the option `--out` of a command that writes results: the group makes its `RunFolder`.

    Args:
        default: folder.
        text: its help.
    """
    return Group(lambda out: out, {"out": Shared(Path, Path(default), text)})


def rate(text: str | float) -> float | str:
    """Return a learning rate as a number, or `AUTO`.

    >>> rate("1e-3"), rate("auto")
    (0.001, 'auto')
    """
    return AUTO if text == AUTO else float(text)


def lazy(path: str) -> Callable[..., Any]:
    """Return a function that imports what it stands for, as in "package.module.Class", when it is called."""
    module, _, name = path.rpartition(".")

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    return call


def _delta(delta: str, option: list[str] | None) -> tuple[str, dict[str, Any]]:
    return delta, options_of(option)


def _setup(model: str = "minilm", revision: str | None = None, dtype: str = "float32", **others: Any) -> Any:
    make, name = lazy("deltatheory.problems.Setup"), model if revision is None else f"{model}@{revision}"
    return make(name if dtype == "float32" else {"name": name, "dtype": dtype}, **task_of(others))


def task_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options where those of the task's table are joined to the task."""
    table = {name: values[name] for name in TABLE if values.get(name) not in (None, [], False)}
    others = {name: value for name, value in values.items() if name not in TABLE}
    if not table:
        return others
    lazy("deltatheory.tasks.TableOptions")(**table)  # what is wrong is told before anything is read
    return {**others, "task": {"source": others["task"], **table}}


TABLE = {
    "text": Shared(
        str | None, None, "Column of the texts; obvious names are found, the case does not count."
    ),
    "text2": Shared(str | None, None, "Column of the second texts, for pairs."),
    "label": Shared(str | None, None, "Column of the labels."),
    "target": Shared(str | None, None, "Column of the texts to generate."),
    "split": Shared(str | None, None, "Column that says train, dev or test."),
    "label_names": Shared(
        list[str] | None, None, "Name of class 0, then of class 1, ..., of labels in numbers.", "--label-name"
    ),
    "separator": Shared(str | None, None, "Of a CSV file's cells: a character, or tab; found by default."),
    "encoding": Shared(str | None, None, "Of a file; UTF-8 by default."),
    "skip_bad": Shared(bool, False, "Leave out rows that cannot be read, and say which.", "--skip-bad"),
    "test_share": Shared(float | None, None, "Share that is the test split of a table without one; 0.2."),
}

SETUP = Group(
    _setup,
    {
        "model": Shared(str, "minilm", "minilm, a local folder, or a hub id."),
        "revision": Shared(str | None, None, "Commit, tag or branch of a hub id; or write ID@REVISION."),
        "dtype": Shared(
            Literal["float32", "float64", "bfloat16", "float16"],
            "float32",
            "Of the frozen weights; above half precision all that is tuned stays float32.",
        ),
        "task": Shared(
            str,
            "stdlib-topics",
            "An embedded task (see `tasks`), a .csv, .tsv, .json, .jsonl or .parquet file, or hub:NAME.",
        ),
        **TABLE,
        "head": Shared(
            str,
            "label-words",
            "Of a classification task: label-words, prototypes, probe, random, verbalizer, own (that of the "
            "checkpoint), calibrated-label-words or calibrated-verbalizer.",
        ),
        "suffix": Shared(
            str,
            "",
            "Put after each text: before the label word (verbalizer; of an encoder with its mask, as in "
            "' It was [MASK].') or the target to generate.",
        ),
        "train_examples": Shared(int | None, None, "Training examples to use; all by default."),
        "test_examples": Shared(int | None, None, "Test examples to use; all by default."),
        "max_length": Shared(
            int | None,
            None,
            "Longer texts are cut at so many tokens; by default at 64, or what the model takes.",
        ),
        "seed": Shared(int, 0, "Of the draws."),
        "device": Shared(
            str, "cpu", "cpu, cuda, cuda:1, ..., or auto, which spreads a model over all there are."
        ),
    },
)

DELTA = Group(
    _delta,
    {
        "delta": Shared(
            str, "prefix:8", "A delta and its size (see `deltas`): prefix:8, lora:4, bitfit, ..."
        ),
        "option": Shared(list[str] | None, None, "Of the delta, as NAME=VALUE: gate=none."),
    },
)


def with_prefix(**defaults: Any) -> Group:
    """Return the group `DELTA` where a prefix has these options, unless others are given."""

    def make(delta: str, option: list[str] | None) -> tuple[str, dict[str, Any]]:
        given = options_of(option)
        return delta, {**defaults, **given} if delta.partition(":")[0] == "prefix" else given

    return replace(DELTA, make=make)


TRAINING = Group(
    lazy("deltatheory.training.Training"),
    {
        "optimizer": Shared(Literal["adamw", "sgd"], "adamw", "AdamW or SGD."),
        "steps": Shared(int, 240, "Optimizer steps."),
        "batch_size": Shared(int, 32, "Examples a step."),
        "micro_batch": Shared(
            int | None, None, "Of these, how many pass through the network at once: less takes less memory."
        ),
        "gradient_checkpointing": Shared(
            bool,
            False,
            "Keep of each block what it gets, and run it again in the backward pass: less memory, more time.",
            flag="--gradient-checkpointing",
        ),
        "learning_rate": Shared(float, 1e-3, "The peak, after warm-up."),
        "warmup": Shared(float, 0.1, "Share of the steps before the peak."),
        "momentum": Shared(float, 0.0, "Of SGD."),
        "weight_decay": Shared(float, 0.0, "Pull towards the frozen model."),
        "clip": Shared(float | None, None, "Largest norm of a gradient."),
        "average": Shared(float, 0.0, "Share of the last steps over which δ is averaged."),
        "evaluate_every": Shared(
            int | None, None, "Steps between evaluations of the dev split; the best one is kept."
        ),
        "patience": Shared(int | None, None, "Stop after so many evaluations without a better one."),
        "autocast": Shared(bool, False, "Run the network in bfloat16 (CUDA only)."),
        "seed": Shared(int, 0, "Of the data order."),
    },
)
