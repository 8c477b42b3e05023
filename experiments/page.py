"""The page of a study: its claim, what was run, what was found, a verdict; and the overview of them all."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from deltatheory.report.page import render, style, svg
from deltatheory.results import provenance, read_json, understood, write_atomically, write_json
from experiments.scope import Scope
from experiments.trial import Known

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["agrees", "disagrees", "undecided"]
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table of a page; None is written as a dash, numbers with three digits.

    Attributes:
        title: what it shows.
        columns: heads.
        rows: cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def texts(self) -> list[list[str]]:
        """Return the cells as they are written."""
        return [[_text(cell) for cell in row] for row in self.rows]

    def body(self) -> str:
        """Return it as Markdown without its title."""
        return _grid(*([as_text(cell) for cell in line] for line in (self.columns, *self.texts())))

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"**{as_text(self.title)}**\n\n{self.body()}\n"


def as_text(text: str) -> str:
    r"""Return a text as Markdown shows it in a line or a cell: it ends no cell and begins no tag or link.

    >>> print(as_text("a|b\n<img src=x> [c](d)"))
    a\|b &lt;img src=x> [c]\(d)
    """
    text = " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
    return re.sub(r"\](?=[(\[:])", r"]\\", text)


def _grid(head: Sequence[str], *rows: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


@contextmanager
def drawing(width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure in the style of all pages, and its axes."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns)


@dataclass(frozen=True)
class Findings:
    """What came out of a study.

    Attributes:
        verdict: whether the claim holds here.
        ran: what was run, in a sentence or two.
        found: sentences with numbers.
        numbers: what they rest on, for machines.
        tables: tables.
        figures: drawings, by caption.
    """

    verdict: Verdict
    ran: str
    found: Sequence[str]
    numbers: dict[str, Any]
    tables: Sequence[Table] = ()
    figures: dict[str, Figure] = field(default_factory=dict)


def write_page(name: str, study: Any, scope: Scope, known: Known, folder: Path) -> Verdict:
    """Write report.html, table.md and result.json of a study into its folder, from what is known alone."""
    from markupsafe import Markup

    findings: Findings = known.read_by(lambda: study.findings(scope, known))
    command = f"python -m experiments report {name} --out {folder.name}"
    result = {
        "study": name,
        "claim": study.CLAIM,
        "source": study.SOURCE,
        "about": getattr(study, "ABOUT", ""),
        **{key: getattr(findings, key) for key in ("verdict", "ran", "found")},
        "numbers": _without_nan(findings.numbers),
        "tables": _without_nan([asdict(table) for table in findings.tables]),
        "provenance": {**provenance(), "command": command.split()},  # not of what has filled the log
    }
    write_json(folder / name / "result.json", result)
    parts = [
        f"# {name}: {findings.verdict}",
        f"Claim: {study.CLAIM} ({study.SOURCE})",
        as_text(findings.ran),
        "\n".join(f"- {as_text(sentence)}" for sentence in findings.found),
        *([result["about"]] if result["about"] else []),
        *(table.markdown() for table in findings.tables),
    ]
    write_atomically(folder / name / "table.md", "\n\n".join(parts).rstrip() + "\n")
    page = render(
        "study.html",
        Path(__file__).parent,
        title=f"Study: {name}",
        result=result,
        tables=findings.tables,
        figures=[(caption, Markup(svg(figure, caption))) for caption, figure in findings.figures.items()],
        details={"Provenance": [(k, json.dumps(v)) for k, v in result["provenance"].items()]},
        command=command,
    )
    write_atomically(folder / name / "report.html", page)
    return findings.verdict


@dataclass(frozen=True)
class _Verdict:
    """What the overview says of a study, from its result.json."""

    study: str
    claim: str
    source: str
    verdict: str
    found: list[str]


def write_overview(folder: Path) -> None:
    """Write README.md of a folder: the verdicts of all studies that have a page."""
    rows = []
    for path in sorted(folder.glob("*/result.json")):
        try:
            one = understood(_Verdict, read_json(path), str(path))
        except ValueError as error:
            warnings.warn(f"left out of the overview, {error}.", stacklevel=2)
            continue
        cells = [one.claim, one.source, one.verdict, *one.found[:1]]
        rows.append([f"[{as_text(one.study)}]({quote(path.parent.name)}/table.md)", *map(as_text, cells)])
    table = _grid(["study", "claim", "source", "verdict", "what was found"], *rows)
    text = "Every number here and on the pages comes from trials.jsonl: `python -m experiments report all`."
    write_atomically(folder / "README.md", f"# The study\n\n{text}\n\n**Verdicts**\n\n{table}\n")


def _without_nan(value: Any) -> Any:
    """Return nested values with `None` where a number is not known, which JSON has."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def number(value: float | None, form: str = ".2f") -> str:
    """Write a number in a sentence; a dash where there is none."""
    return "–" if value is None else format(value, form)


def _text(cell: Cell) -> str:
    if cell is None or cell != cell:
        return "–"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
