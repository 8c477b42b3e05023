"""`deltatheory explain`: what a trained adapter uses."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from deltatheory.cli.options import SETUP, Group, Progress, command, results_in, task_of
from deltatheory.cli.output import progress_bar, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder


def _verified_on(task: str | None, **about: Any) -> dict[str, Any] | None:
    """Return the arguments of a setup without its model, with the task loaded, or `None` without a task."""
    from deltatheory.problems import Setup

    given = task_of({"task": task, **about})
    Setup(
        **{name: value for name, value in given.items() if name != "task"}
    ).check_head()  # without a task too
    return None if task is None else {**given, "task": Setup(task=given["task"]).whole_task}


_TASK = SETUP.only("task", "head", "suffix", "max_length").changed(
    kind={"task": str | None},
    default={"task": None},
    help={
        "task": "Verify on this task; without one only the spectra are read.",
        "head": "The head that the adapter was trained with.",
        "suffix": "The suffix that it was trained with.",
    },
)


@command(
    "models",
    "peft",
    "report",
    setup=Group(_verified_on, _TASK.options),
    out=results_in("runs/explain", "Folder for explanation.json, report.html and truncated/."),
)
def explain(
    adapter: Annotated[
        str, typer.Argument(help="A folder in peft's format, a hub id (ID@REVISION), or a file of `train`.")
    ],
    setup: dict[str, Any] | None,
    out: "RunFolder",
    model: Annotated[
        str | None, Option(help="The base model; by default what the adapter names, if it is here.")
    ] = None,
    keep: Annotated[float, Option(help="Share of the effect to keep.")] = 0.99,
    examples: Annotated[int, Option(help="Examples of each split to use, at most.")] = 256,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, ...")] = None,
    progress: Progress = True,
) -> None:
    """Say what a trained adapter uses: ranks, movement, and the smallest ranks that keep its effect."""
    from deltatheory.adapters import explain, open_adapter
    from deltatheory.adapters.explanation import check_limits

    check_limits(keep, examples)
    held = open_adapter(adapter, model, device=device)
    with progress_bar(progress, unit="truncation") as bar:
        about: dict[str, Any] = {"keep": keep, "examples": examples}
        found = explain(held, setup, **about, on_truncation=lambda *_: bar.update())
    tell(found, out.own, **({} if found.adapter is None else {"For_peft": "truncated"}))
