"""What is drawn of a result, by its class: one figure, and the files that people read.

A module of this room registers what it draws: `@figure.register(Class)` and `@drawn.register(Class)`.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAGE", "drawn", "figure"]

PAGE = "report.html"


@singledispatch
def figure(result: Any) -> Figure:
    """Return the figure of a result.

    Raises:
        TypeError: for a result that has none.
    """
    raise TypeError(f"result={type(result).__name__}: has no figure.")


@singledispatch
def drawn(result: Any) -> dict[str, str]:
    """Return what is written for people beside a result's numbers, name of the file ↦ content."""
    return {}
