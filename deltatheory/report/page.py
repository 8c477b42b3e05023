"""What all figures and pages share: colours, style, numbers in words, and how a template becomes a page."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "command_line",
    "count",
    "flat",
    "literal",
    "new_figure",
    "plain_svg",
    "render",
    "sentences",
    "style",
    "svg",
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
}
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
            "svg.hashsalt": "deltatheory",  # the same drawing, the same bytes
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


def plain_svg(figure: Figure) -> str:
    """Return a figure as the content of an SVG file; the same drawing gives the same bytes."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def svg(figure: Figure, label: str) -> str:
    """Return the drawing alone, with the colours of the page and a width that follows the window."""
    text = plain_svg(figure)
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
