"""A table as it came, from a file, the hub or an object in memory, and which of its columns are read."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatheory.tasks.task import nearest

__all__ = ["Columns", "ExampleRow", "ExampleTable", "Faults", "TableOptions", "choose_columns", "log"]

log = logging.getLogger("deltatheory.tasks")  # what was found and left out; the command line prints it

# Those of the files of spreadsheets.
SEPARATORS = (",", "\t", ";", "|")
_NAMED = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "\\t": "\t"}

# What columns are usually called. A pair of texts counts where both are there.
_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
)
_TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "utterance",
    "question",
    "document",
    "message",
    "comment",
    "tweet",
    "body",
)
_LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "coarse_label",
    "intent",
    "topic",
    "sentiment",
    "rating",
    "stars",
)
_TARGETS = ("target", "summary", "answer")


@dataclass(frozen=True)
class TableOptions:
    r"""How a table is read.

    Attributes:
        text: column of the inputs; of any column the case does not matter, and one with an obvious name
            ("Review", "Category") is found.
        text2: column of the second texts.
        label: column of the labels (whole numbers or names).
        target: column of the strings to generate. With a label column it names the classes.
        split: column that says train, dev or test.
        label_names: names of the classes 0, 1, ... where the data gives integers only.
        separator: between the cells of a CSV or TSV file: a character, or "tab"; by default the one of
            , ; | and tab that cuts the first line into most columns.
        encoding: of a file; by default UTF-8, or what its byte order mark says.
        skip_bad: leave rows out that cannot be read, and say which.
        test_share: of a table without a test split, in (0, 1): the share that becomes one, 0.2 by default.

    Raises:
        ValueError: for a value that is none of these.
    """

    text: str | None = None
    text2: str | None = None
    label: str | None = None
    target: str | None = None
    split: str | None = None
    label_names: Sequence[str] | None = None
    separator: str | None = None
    encoding: str | None = None
    skip_bad: bool = False
    test_share: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.label_names, str):
            raise ValueError(f"label_names={self.label_names!r}: must be a list of names, one a class.")
        if self.separator is not None:
            found = _NAMED.get(self.separator.lower(), self.separator)
            if len(found) != 1 or found in '"\r\n':
                raise ValueError(
                    f"separator={self.separator!r}: must be one character, or one of {', '.join(_NAMED)}."
                )
            object.__setattr__(self, "separator", found)
        if self.encoding is not None:
            try:
                "a".encode(self.encoding)
            except (LookupError, ValueError) as error:
                raise ValueError(
                    f"encoding={self.encoding!r}: no such encoding of texts; usual are utf-8, cp1252, "
                    "latin-1, utf-16."
                ) from error
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}: must lie between 0 and 1.")

    def given(self) -> dict[str, Any]:
        """Return what is not left at its default."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}

    def refuse(self, source: str, *names: str) -> None:
        """Refuse options that a source does not take.

        Raises:
            ValueError: for one of them that is given.
        """
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r}: {source} takes none.")


@dataclass(frozen=True)
class ExampleRow:
    """One row of a table, where it stands (for messages), and its split if that is known already."""

    where: str
    values: dict[str, Any]
    split: str | None = None


@dataclass
class Faults:
    """Rows that cannot be read: the first one raises, or all are left out and said.

    Attributes:
        source: what the table is called in messages.
        skip: whether they are left out.
        found: what was left out, as "line 3: ...".
    """

    source: str
    skip: bool
    found: list[str] = field(default_factory=list)

    def meet(self, where: str, what: str) -> None:
        """Take note of a row.

        Raises:
            ValueError: where none may be left out.
        """
        if not self.skip:
            raise ValueError(f"{self.source}, {where}: {what} skip_bad=True leaves such rows out.")
        self.found.append(f"{where}: {what}")


@dataclass(frozen=True)
class ExampleTable:
    """Columns in their order, with repetitions; rows; and the class names that a column knows itself."""

    columns: Sequence[str]
    rows: Sequence[ExampleRow]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; `None` where the table has no such column."""

    text: str
    text2: str | None = None
    label: str | None = None
    target: str | None = None
    split: str | None = None

    def present(self) -> dict[str, str]:
        """Return the columns that there are, by role."""
        return {role: column for role, column in vars(self).items() if column is not None}


def choose_columns(
    source: str, present: Sequence[str], options: TableOptions, *, labelled: bool = True
) -> Columns:
    """Take the columns asked for, and for the others those with obvious names.

    Args:
        source: what the table is called in messages.
        present: columns of the table.
        options: names that the user gives.
        labelled: whether there must be a label or a target.

    Raises:
        ValueError: if a column asked for is absent, there is no text or neither label nor target, or two
            columns that would be read have one name.
    """
    chosen: dict[str, str | None] = {}
    for role in ("text", "text2", "label", "target", "split"):
        name = getattr(options, role)
        chosen[role] = None if name is None else _named(present, name)
        if name is not None and chosen[role] is None:
            raise ValueError(f"{source} has no column {name!r} ({role}={name!r}). {nearest(name, present)}")
    if chosen["text"] is None:  # who names the text only, wants that text only
        pair = _pair(present) if chosen["text2"] is None else None
        chosen["text"], second = pair or (_first(present, _TEXTS), None)
        chosen["text2"] = chosen["text2"] or second
    elif chosen["text2"] is None and _named(present, "text2") != chosen["text"]:
        chosen["text2"] = _named(present, "text2")
    if chosen["label"] is None and chosen["target"] is None:  # who names a target only, wants it generated
        chosen["label"], chosen["target"] = _named(present, "label"), _named(present, "target")
        if not (chosen["label"] or chosen["target"]):
            chosen["label"] = _first(present, _LABELS)
            chosen["target"] = None if chosen["label"] else _first(present, _TARGETS)
    elif chosen["target"] is None and _named(present, "target") != chosen["label"]:
        chosen["target"] = _named(present, "target")  # it names the classes
    chosen["split"] = chosen["split"] or _named(present, "split")
    looked = {"text": _TEXTS, "label": _LABELS}
    missing = next((r for r in looked if chosen[r] is None and not (r == "label" and chosen["target"])), None)
    if chosen["text"] is None or (missing and labelled):
        role = missing or "text"
        raise ValueError(
            f"{source} has no {role} column (looked for {', '.join(looked[role])}); its columns are "
            f"{', '.join(present) or 'none'}. Name it: {role}='...'; or write a first line "
            "that names the columns, where there is none."
        )
    for name in filter(None, chosen.values()):
        if present.count(name) > 1:
            raise ValueError(
                f"{source} has {present.count(name)} columns {name!r}: which one counts? Rename them."
            )
    return Columns(**chosen)  # type: ignore[arg-type]  # a text there is


def _named(present: Sequence[str], name: str) -> str | None:
    """Return the column of a name, as it is written or else in any case."""
    if name in present:
        return name
    return next((column for column in present if column.strip().casefold() == name.casefold()), None)


def _first(present: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column of the first name that is there, else the only one whose last word is among them."""
    if whole := next((found for name in names if (found := _named(present, name))), None):
        return whole
    ending = [column for column in present if _last_word(column) in names]
    return ending[0] if len(ending) == 1 else None


_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def _last_word(column: str) -> str:
    """Return what a column of several words is of.

    >>> [_last_word(column) for column in ("Review Text", "reviewBody", "review_id", "MAIN_CLASS", "")]
    ['text', 'body', 'id', 'class', '']
    """
    return (_WORD.findall(column) or [""])[-1].lower()


def _pair(present: Sequence[str]) -> tuple[str, str | None] | None:
    """Return the two texts of a table of pairs; a column "text" comes before any other."""
    if text := _named(present, "text"):
        return text, _named(present, "text2")
    found = ((_named(present, one), _named(present, other)) for one, other in _PAIRS)
    return next(((one, other) for one, other in found if one and other), None)
