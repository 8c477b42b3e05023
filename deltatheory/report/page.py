"""What all figures and pages share: colours, style, numbers in words, and how a template becomes a page."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatheory.results import ANSWER, PAGE, Answer, Result, answered, drawn, figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "NARROW",
    "command_line",
    "count",
    "flat",
    "legend",
    "literal",
    "named",
    "new_figure",
    "page_files",
    "page_of",
    "panels",
    "plain_svg",
    "record_of",
    "render",
    "sentences",
    "style",
    "svg",
    "titled",
    "whole",
]

# The page swaps each of these for its own colour of that name, so that one drawing is read on white and on
# black. They occur nowhere else in the drawing, and do as they are for a figure on white.
COLOURS = {
    "predicted": "#2563eb",
    "measured": "#c2410c",
    "ink": "#26272b",
    "faint": "#6f7179",
    "grid": "#e4e5e9",
    "third": "#15803d",
    "fourth": "#7c3aed",
    "fifth": "#0e7490",
}
NARROW = 4.2  # inches of a figure for a phone
_LISTED = 12  # entries of a list that the page shows


def count(value: float | int | None) -> str:
    """Write a dimension or a number of passes so that it is read at a glance.

    >>> count(190), count(10_646_784), count(0.126), count(None)
    ('190', '10.6 M', '0.13', '–')
    """
    if value is None:
        return "–"
    value = float(f"{value:.3g}" if abs(value) >= 10 else f"{value:.2g}")
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return whole(round(value)) if abs(value) >= 10 else f"{value:g}"


def whole(number: int) -> str:
    """Write a whole number in full, in groups of three.

    >>> whole(10_646_784) == "10 646 784".replace(" ", "\N{NARROW NO-BREAK SPACE}")
    True
    """
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the one style of all figures."""
    import matplotlib

    ink, faint = COLOURS["ink"], COLOURS["faint"]
    with matplotlib.rc_context(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "font.family": "DejaVu Sans",  # the one that comes with matplotlib
            "font.size": 10,
            "text.color": ink,
            "axes.labelcolor": ink,
            "axes.edgecolor": faint,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": COLOURS["grid"],
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "xtick.color": faint,
            "xtick.labelcolor": ink,
            "ytick.color": faint,
            "ytick.labelcolor": ink,
            "legend.frameon": False,
            "svg.fonttype": "path",
        }
    ):
        yield


def literal(name: str) -> str:
    r"""Return a name as a figure shows it as it is: no dollar begins a formula, half an emoji is its number.

    >>> literal("US$ and $x^2$") == r"US\$ and \$x^2\$"
    True
    """
    return name.encode(errors="backslashreplace").decode().replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches; without pyplot there is no state to leave behind."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(width: float, heights: Sequence[float], narrow: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes side by side or, where it is narrow, one below the other.

    Args:
        width: of the wide one, in inches.
        heights: of each of the axes.
        narrow: as wide as a phone.
    """
    drawing = new_figure(NARROW, sum(heights)) if narrow else new_figure(width, max(heights))
    grid = drawing.add_gridspec(len(heights), 1, height_ratios=list(heights)) if narrow else None
    grid = grid or drawing.add_gridspec(1, len(heights))
    return drawing, [drawing.add_subplot(grid[i]) for i in range(len(heights))]


def legend(drawing: Figure, columns: int = 2) -> None:
    """Put the legend of all axes above them, where no data are."""
    found: dict[str, Any] = {}
    for axes in drawing.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        drawing.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns)


def plain_svg(drawing: Figure, salt: str = "deltatheory") -> str:
    """Return a figure as the content of an SVG file; the same drawing gives the same bytes."""
    import matplotlib

    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": salt}):
        drawing.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def svg(drawing: Figure, label: str, salt: str = "deltatheory") -> str:
    """Return the drawing alone, with the colours of the page and a width that follows the window.

    Args:
        drawing: the figure.
        label: what it shows, for those who do not see it.
        salt: of the names inside, which must differ where a page has two drawings of the same.
    """
    text = plain_svg(drawing, salt)
    text = text[text.index("<svg") :]
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    head, rest = text.split(">", 1)
    kept = [part for part in head.split('" ') if not part.startswith(("width=", "height="))]
    return '" '.join(kept) + f' role="img" aria-label="{escape(label)}">' + rest


def render(template: str, folder: Path | None = None, **values: Any) -> str:
    """Return a page made of a template of a folder or of the package; all names it uses must be given."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    here = [FileSystemLoader(folder)] if folder else []
    environment = Environment(
        loader=ChoiceLoader([*here, PackageLoader("deltatheory.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(colours=COLOURS, count=count, whole=whole, **values)


def page_of(result: Result) -> str:
    """Return the page of a result: answer, what to know first, figure, tables, settings, command.

    Raises:
        TypeError: for a result that answers no question of its own.
    """
    from markupsafe import Markup

    said = answered(result)
    if said is None:
        raise TypeError(f"result={type(result).__name__}: has no page.")
    # A drawing that is scaled to a phone cannot be read: there is another one for it.
    figures = {
        name: Markup(svg(figure(result, narrow=name == "narrow"), said.caption, f"deltatheory-{name}"))
        for name in ("wide", "narrow")
    }
    about = dict(getattr(result, "provenance", {}))
    command = about.pop("command", None)
    settings = getattr(result, "settings", about.pop("settings", {}))
    return render(
        "answer.html",
        title=said.title,
        said=said,
        figures=figures,
        details={"Settings": list(flat(settings)), "Provenance": list(flat(about))},
        command=command_line(command),
    )


def named(result: Any) -> dict[str, str]:
    """Return the names of a result's task and model, as far as it says them."""
    about = getattr(result, "provenance", {})
    settings = getattr(result, "settings", {})
    found = {"task": about.get("task") or settings.get("task")}
    found["model"] = about.get("model") or settings.get("backbone") or settings.get("model")
    names = {key: x.get("name") if isinstance(x, Mapping) else x for key, x in found.items()}
    return {key: str(name) for key, name in names.items() if name}


def titled(question: str, result: Any) -> str:
    """Return what was asked, of which task and model."""
    names = named(result).values()
    return question + (f": {' with '.join(names)}" if names else "")


def record_of(result: Result, said: Answer) -> dict[str, Any]:
    """Return what a list of runs, and a comparison of several, reads of one."""
    about = getattr(result, "provenance", {})
    settings = getattr(result, "settings", about.get("settings", {}))
    costs = {}
    for name in ("passes", "seconds"):
        cost = getattr(result, name, None)
        costs[name] = sum(cost.values()) if isinstance(cost, Mapping) else cost
    return {
        "title": said.title,
        "answer": said.sentence,
        **named(result),
        "time": about.get("time"),
        "command": command_line(about.get("command")),
        **costs,
        "warnings": list(said.note.items) if said.missed else [],
        "settings": dict(flat(plain(settings))),
        "tables": [plain(one) for one in said.sections if one.brief],
    }


@drawn.register(Result)
def page_files(result: Result) -> dict[str, str]:
    """Return the page, and what a list of runs reads; nothing of a result that answers no question."""
    said = answered(result)
    if said is None:
        return {}
    record = json.dumps(record_of(result, said), indent=2, ensure_ascii=False) + "\n"
    return {PAGE: page_of(result), ANSWER: record}


def sentences(value: Any) -> list[str]:
    """Return a list of sentences, whether one or several or none were given."""
    return [value] if isinstance(value, str) else [str(item) for item in value or []]


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for every leaf of nested settings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
        return
    if isinstance(value, list | tuple):
        shown = ", ".join(_leaf(item) for item in value[:_LISTED])
        rest = f", ... ({len(value)} values; all are in result.json)" if len(value) > _LISTED else ""
        yield prefix, shown + rest
    else:
        yield prefix, _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def command_line(command: Any) -> str:
    """Write a command as it is typed."""
    return command if isinstance(command, str) else shlex.join(command or [])
