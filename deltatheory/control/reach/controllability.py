"""k-ε controllability: for what share of texts k tokens make the target the most likely output.

Definition 3 of Bhargava et al. 2023: a model is k-ε controllable where some prompt of at most k tokens
reaches the target of a share of at least 1 - ε of the texts. A search gives a lower bound of that share. An
upper bound is known for one head in one layer only (theorem T39).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from deltatheory._numbers import check_number
from deltatheory.control.reach.prefix_bound import FirstBlockBound, first_block_bound
from deltatheory.control.reach.prompts import (
    PromptSearch,
    draw_words,
    find_vectors,
    prompt_start,
    repeat_target,
    swap_words,
)
from deltatheory.control.reach.question import Question, check_goal, pose
from deltatheory.problems import FORWARD, Setup
from deltatheory.results import Result, ResultLog, provenance, wilson

__all__ = ["BASELINES", "RANKS", "SEARCHES", "ReachResult", "WayThere", "check_asked", "reach"]

SEARCHES = ("continuous", "discrete", "prefix")
BASELINES = ("random", "repeat")
RANKS = (1, 10, 75, 1000)  # last ranks of the groups in which targets are told apart
_BOUNDED = 8  # texts whose queries the bound is worked out for
_SHOWN = 80  # letters of a text that are shown

OnChunk = Callable[[int, int, str], None]


@dataclass(frozen=True)
class WayThere:
    """What one way of controlling the model reached.

    Attributes:
        name: of `SEARCHES` or `BASELINES`.
        shortest: for each text the least of the lengths at which its target came first, or `None`.
        margins: for each text the largest margin over all other outputs.
        words: for each text the prompt of the largest margin; `None` where it is no words.
        passes: forward-equivalents over single texts.
        seconds: time taken.
    """

    name: str
    shortest: list[int | None]
    margins: list[float]
    words: list[str | None]
    passes: float
    seconds: float


@dataclass(frozen=True, eq=False)
class ReachResult(Result):
    """Which targets prompts of k tokens bring to the first place.

    Attributes:
        lengths: k, ascending.
        goal: what the targets are.
        among: what they are ranked among: "vocabulary" or "classes".
        texts: end of each text, as the model reads it.
        targets: name of each target.
        ranks: of each target without control, 1 the first.
        ways: what each way of controlling reached; a target that is first without control has length 0.
        bounds: T39 for a prefix in the first block; none where it does not apply.
        remarks: what to know of how the targets were made.
        passes: forward-equivalents over single texts, by what they were spent on.
        seconds: time taken, by the same.
        settings: of the run.
        provenance: model, task, versions, commit.
    """

    lengths: list[int]
    goal: str
    among: str
    texts: list[str]
    targets: list[str]
    ranks: list[int]
    ways: list[WayThere]
    bounds: list[FirstBlockBound]
    remarks: list[str]
    passes: dict[str, float]
    seconds: dict[str, float]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def way(self, name: str) -> WayThere:
        """Return one of the ways by its name.

        Raises:
            ValueError: for one that was not taken.
        """
        found = {way.name: way for way in self.ways}
        if name not in found:
            raise ValueError(f"way={name!r}: allowed are {', '.join(found)}.")
        return found[name]

    def reached(self, name: str, length: int, ranks: tuple[float, float] = (1, float("inf"))) -> int:
        """Return how many targets came first with at most so many tokens.

        Args:
            name: of a way.
            length: k; 0 counts those that are first without control.
            ranks: first and last rank, without control, of the targets that count.
        """
        shortest = self.way(name).shortest
        low, high = ranks
        return sum(
            k is not None and k <= length and low <= rank <= high
            for k, rank in zip(shortest, self.ranks, strict=True)
        )

    def share(self, name: str, length: int) -> float:
        """Return the share of targets that came first; ε is at most 1 minus this."""
        return self.reached(name, length) / len(self.ranks)

    def interval(self, name: str, length: int) -> tuple[float, float]:
        """Return the 95 % interval of that share over texts like these (Wilson 1927)."""
        return wilson(self.reached(name, length), len(self.ranks))


@dataclass(frozen=True)
class _Chunk:
    """What the log keeps of a chunk of texts."""

    margins: list[float]
    words: list[list[int] | None]
    passes: list[float]
    seconds: float


def reach(
    setup: Setup,
    k: int | Sequence[int] = (1, 2, 4),
    *,
    goal: str = "label",
    among: str | None = None,
    ways: Sequence[str] = SEARCHES,
    search: PromptSearch | None = None,
    log: ResultLog | None = None,
    on_chunk: OnChunk | None = None,
) -> ReachResult:
    """Find for what share of the test texts k tokens before the text make the target come first.

    Every text has a prompt of its own: vectors by gradient ascent ("continuous"), words of the vocabulary by
    greedy swaps ("discrete"), or keys and values before those of each attention ("prefix"). Beside them stand
    the baselines: no control, as many draws of random words as the search for words made passes ("random"),
    and the target itself as a prompt ("repeat"). A text whose target came first is left alone from there on.

    Args:
        setup: model, task (its test texts), suffix, head, seed of all draws.
        k: numbers of tokens, each at least 1.
        goal: "label", "next" (the text's own last token, held back), "top:R" (by lot among the R that come
            first without control) or "word:TEXT" (one token for all).
        among: "vocabulary" or "classes"; `None` takes the vocabulary where the model reads words there.
        ways: of `SEARCHES`.
        search: how much is searched.
        log: where finished chunks are kept; a search that was cut off goes on from there.
        on_chunk: called with (texts done, texts in all, what is on), over all ways and lengths.

    Raises:
        ValueError: for k that is not positive or leaves the longest text no room, an unknown way, and as
            `pose`, all before the first search.
    """
    lengths = check_asked(k, ways, goal, among)
    question, search = pose(setup, goal, among), search or PromptSearch()
    backbone, longest, seed = question.backbone, max(map(len, question.rows)), setup.seed
    if longest + lengths[-1] > backbone.max_length:
        raise ValueError(
            f"k={lengths[-1]}: before the longest text, of {longest} tokens, {backbone.name!r} takes at most "
            f"{backbone.max_length - longest}; take fewer, or cut texts shorter (max_length)."
        )
    assert len(question.vocabulary)  # refused here where the model has none
    bounds = _bounds(question, lengths, seed) if "prefix" in ways else []  # a model without is refused here
    began = time.perf_counter()
    ranks, without = question.ranks()
    passes = {"no control": question.passes + float(FORWARD * len(question))}
    seconds = {"no control": time.perf_counter() - began}
    taken = [way for way in SEARCHES if way in ways]
    taken += BASELINES if "discrete" in taken else BASELINES[1:]
    runs: dict[str, _Run] = {}
    total, done = len(taken) * len(lengths) * len(question), 0
    for name in taken:
        run = runs[name] = _Run(question, name, search, seed, log, without)
        for length in lengths:
            todo = run.left(runs.get("discrete"), length)
            done += len(question) - len(todo)
            for first in range(0, len(todo), search.chunk):
                chosen = todo[first : first + search.chunk]
                run.chunk(chosen, length, runs.get("discrete"))
                done += len(chosen)
                if on_chunk:
                    on_chunk(done, total, f"{name}, k = {length}")
    for name, run in runs.items():
        passes[name], seconds[name] = run.passes, run.seconds
    decode = partial(backbone.tokenizer.decode, skip_special_tokens=True)
    return ReachResult(
        lengths=lengths,
        goal=goal,
        among=question.among,
        texts=[decode(row)[-_SHOWN:] for row in question.rows],
        targets=list(question.names),
        ranks=ranks,
        ways=[run.outcome() for run in runs.values()],
        bounds=bounds,
        remarks=list(question.remarks),
        passes=passes,
        seconds=seconds,
        settings={
            **setup.settings(),
            "goal": goal,
            "k": lengths,
            "among": question.among,
            "ways": taken,
            "search": asdict(search),
        },
        provenance={
            **provenance(),
            "model": backbone.provenance,
            "task": {"name": setup.task.name, **setup.task.provenance},
        },
    )


def check_asked(
    k: int | Sequence[int], ways: Sequence[str], goal: str = "label", among: str | None = None
) -> list[int]:
    """Return the lengths, ascending; what can be refused before anything is loaded is.

    Raises:
        ValueError: for k that is not positive, a way that is not there, and as `check_goal`.
    """
    lengths = list(k) if isinstance(k, Sequence) else [k]
    if not lengths:
        raise ValueError("k=(): give at least one number of tokens.")
    for one in lengths:
        check_number("k", one, whole=True, least=1)
    for way in ways or ("",):
        if way not in SEARCHES:
            raise ValueError(f"way={way!r}: allowed are {', '.join(SEARCHES)}.")
    check_goal(goal, among)
    return sorted(set(lengths))


class _Run:
    """One way on its way through the lengths."""

    def __init__(
        self,
        question: Question,
        name: str,
        search: PromptSearch,
        seed: int,
        log: ResultLog | None,
        margins: Sequence[float],
    ) -> None:
        self.question, self.name, self.search, self.seed, self.log = question, name, search, seed, log
        self.shortest: list[int | None] = [0 if margin > search.margin else None for margin in margins]
        # A prompt that is worse than none is a prompt all the same: a longer one may begin with it.
        self.margins = [m if k == 0 else -math.inf for m, k in zip(margins, self.shortest, strict=True)]
        self.words: list[list[int] | None] = [None] * len(question)
        self.spent: dict[int, dict[int, float]] = {}  # passes by length and text
        self.seconds = 0.0

    @property
    def passes(self) -> float:
        return sum(sum(of.values()) for of in self.spent.values())

    def left(self, searched: _Run | None, length: int) -> list[int]:
        """Return the texts whose targets are not reached, short ones first; of draws, those with a budget."""
        left = [i for i, found in enumerate(self.shortest) if found is None]
        if self.name == "random" and searched is not None:
            left = [i for i in left if searched.spent[length].get(i)]
        self.spent[length] = {}
        return sorted(left, key=lambda i: len(self.question.rows[i]))

    def chunk(self, chosen: list[int], length: int, searched: _Run | None) -> None:
        """Search some texts at one length, or find in the log what a search came to."""
        prior: list[Any] = []
        if self.name == "discrete":
            prior = [self.words[i] or [] for i in chosen]
        elif self.name == "random" and searched is not None:
            prior = [int(searched.spent[length][i]) for i in chosen]
        about = {"way": self.name, "search": asdict(self.search), "seed": self.seed, "prior": prior}
        config = {"question": self.question.name, **about, "length": length, "chosen": chosen}
        known = self.log.result(config, _Chunk) if self.log else None
        if known is None:
            known = self._searched(chosen, length, prior)
            if self.log:
                self.log.append(config, asdict(known))
        self.seconds += known.seconds
        found = zip(chosen, known.margins, known.words, known.passes, strict=True)
        for i, margin, words, passes in found:
            self.spent[length][i] = passes
            if margin > self.margins[i]:
                self.margins[i], self.words[i] = margin, words
            if margin > self.search.margin:
                self.shortest[i] = length

    def _searched(self, chosen: list[int], length: int, prior: list[Any]) -> _Chunk:
        began = time.perf_counter()
        about = self.question, chosen, length
        if self.name == "repeat":
            found = repeat_target(*about)
        else:
            found = _WAYS[self.name](*about, self.search, self.seed, *([prior] if prior else []))
        words: list[list[int] | None] = [None] * len(chosen)
        if self.name in _OF_WORDS:
            words = found.prompts.tolist()
        return _Chunk(found.margins.tolist(), words, found.passes.tolist(), time.perf_counter() - began)

    def outcome(self) -> WayThere:
        tokenizer = self.question.backbone.tokenizer
        words = [None if ids is None else tokenizer.decode(ids) for ids in self.words]
        return WayThere(self.name, self.shortest, self.margins, words, self.passes, self.seconds)


_WAYS: Mapping[str, Callable[..., Any]] = {
    "continuous": partial(find_vectors, kind="prompt"),
    "discrete": swap_words,
    "prefix": partial(find_vectors, kind="prefix"),
    "random": draw_words,
}
_OF_WORDS = ("discrete", *BASELINES)


def _bounds(question: Question, lengths: Sequence[int], seed: int) -> list[FirstBlockBound]:
    _, longest = prompt_start(question.backbone, 1, "prefix", seed)
    batch = question.batch(range(min(len(question), _BOUNDED)))
    return first_block_bound(question.backbone, batch, longest[0, :, :, 0, 0], list(lengths))
