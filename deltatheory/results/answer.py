"""What a result says to people in words: on the terminal and on its page the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

__all__ = ["ANSWER", "Answer", "Section", "answered"]

ANSWER = "answer.json"
_LONGEST = 24  # letters of a cell that is a number, or an interval


@dataclass(frozen=True)
class Section:
    """A part of an answer: a paragraph, sentences, a table, in this order.

    Attributes:
        heading: what it is about.
        text: the paragraph.
        items: the sentences.
        columns: heads of the table.
        rows: its cells.
        tones: of rows, by the names of colours; those after the last one have none.
        remark: what explains the table.
        brief: whether a terminal shows it too.
        folded: whether a page shows it only to those who ask.
    """

    heading: str
    text: str = ""
    items: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    tones: Sequence[str] = ()
    remark: str = ""
    brief: bool = False
    folded: bool = False

    def numeric(self, column: int) -> bool:
        """Whether all that a column says is short and begins with a number.

        >>> table = Section("", columns=("a", "b"), rows=[("x", "+1.2"), ("y", "–"), ("z", "3–4")])
        >>> table.numeric(0), table.numeric(1)
        (False, True)
        """
        cells = [row[column] for row in self.rows if row[column] not in ("", "–")]
        return bool(cells) and all(len(x) <= _LONGEST and x.lstrip("+-−")[:1].isdigit() for x in cells)


@dataclass(frozen=True)
class Answer:
    """An answer: first what was asked for, then what to know about it, then the rest.

    Attributes:
        title: what was asked.
        headline: the answer; parts of it with the colour that they have in the figure, or "".
        note: what to know first.
        missed: whether that is a warning.
        sections: all else.
        caption: what the figure shows.
    """

    title: str
    headline: Sequence[tuple[str, str]]
    note: Section
    missed: bool
    sections: Sequence[Section]
    caption: str = ""

    @property
    def sentence(self) -> str:
        """Return the answer as one sentence."""
        first, *others = (text.removesuffix(".") for _, text in self.headline)
        return "; ".join((first, *(text[:1].lower() + text[1:] for text in others))) + "."


@singledispatch
def answered(result: Any) -> Answer | None:
    """Return what a result says; `deltatheory.report` registers it for a class.

    `None` for a result that answers no question of its own.
    """
    return None
