"""What a run came to, for people: figures and self-contained pages, found by the class of a result.

A module of this room registers what it draws: `@figure.register(Class)` and `@drawn.register(Class)`.
"""

from deltatheory.report.advice import advice_figure
from deltatheory.report.checks import checks_figure
from deltatheory.report.control import control_figure, control_page
from deltatheory.report.dimension import dimension_figure, dimension_page, estimate, sharpest, span
from deltatheory.report.page import count, whole

__all__ = [
    "advice_figure",
    "checks_figure",
    "control_figure",
    "control_page",
    "count",
    "dimension_figure",
    "dimension_page",
    "estimate",
    "sharpest",
    "span",
    "whole",
]
