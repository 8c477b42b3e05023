"""`deltatheory reach`: for what share of texts k tokens before them make the target come first."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from deltatheory.cli.options import SETUP, Group, Progress, Shared, command, lazy, results_in
from deltatheory.cli.output import progress_bar, resumable, tell

if TYPE_CHECKING:
    from deltatheory.cli.runs import RunFolder
    from deltatheory.control.reach import PromptSearch
    from deltatheory.problems import Setup

_SEARCH = Group(
    lazy("deltatheory.control.reach.PromptSearch"),
    {
        "steps": Shared(int, 30, "Of Adam, for a text, a length and a restart (continuous, prefix)."),
        "restarts": Shared(int, 1, "Of Adam, from other words."),
        "rate": Shared(float, 0.3, "Learning rate of Adam, in root mean squares of where it starts."),
        "rounds": Shared(int, 6, "Of swaps of words, for a text and a length (discrete)."),
        "candidates": Shared(int, 16, "Swaps tried in a round."),
        "pool": Shared(int, 64, "Words that the gradient ranks first at a place, of which they are drawn."),
        "margin": Shared(float, 0.0, "By how much a target's logit must exceed all others."),
    },
)


@command(
    "models",
    "report",
    setup=SETUP.changed(
        default={"test_examples": 16},
        help={
            "test_examples": "Test texts to ask for, a stratified draw.",
            "seed": "Of the draws of texts, words and swaps.",
        },
    ),
    search=_SEARCH,
    out=results_in(
        "runs/reach", "Folder for report.html, result.json and reach.jsonl; finished searches are reused."
    ),
)
def reach(
    setup: "Setup",
    search: "PromptSearch",
    out: "RunFolder",
    k: Annotated[str, Option(help="Numbers of tokens: 4, 1,2,4 or 1..10.")] = "1,2,4",
    goal: Annotated[
        str,
        Option(
            help="What must come first: label, next (the text's own last token, held back), top:R (by lot "
            "among the R that come first without control) or word:TEXT."
        ),
    ] = "label",
    among: Annotated[
        Literal["vocabulary", "classes"] | None,
        Option(help="Ranked among all tokens, or the classes of the head; by default as the model can."),
    ] = None,
    way: Annotated[list[str] | None, Option(help="continuous, discrete, prefix; all by default.")] = None,
    progress: Progress = True,
) -> None:
    """For what share of texts do k tokens before them make the target the most likely output?"""
    from deltatheory.control.reach.controllability import SEARCHES, check_asked, reach
    from deltatheory.results import ResultLog

    lengths, ways = _lengths(k), way or list(SEARCHES)
    check_asked(lengths, ways, goal, among)  # a typo is told before anything is loaded
    log = ResultLog(out.given / "reach.jsonl")
    with resumable(log.path), progress_bar(progress, unit="text") as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        about: dict[str, Any] = {"goal": goal, "among": among, "ways": ways, "search": search}
        result = reach(setup, lengths, **about, log=log, on_chunk=show)
    tell(result, out.own)


def _lengths(text: str) -> list[int]:
    """Return the numbers of tokens that are asked for.

    >>> _lengths("1..4"), _lengths("1,2,8")
    ([1, 2, 3, 4], [1, 2, 8])
    """
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        low, high = map(int, found.groups())
        if high - low in range(1000):
            return list(range(low, high + 1))
    elif re.fullmatch(r"-?\d+(,-?\d+)*", text):
        return [int(part) for part in text.split(",")]
    raise ValueError(f"k={text!r}: allowed are a number, several with commas, or a range as in 1..10.")
