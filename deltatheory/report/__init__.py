"""What a run came to, for people: figures, words and self-contained pages, found by the class of a result.

A module of this room registers what it draws and says: `@figure.register(Class)` and
`@answered.register(Class)`; from both `page_of` makes the page.
"""

from deltatheory.report.advice import advice_figure
from deltatheory.report.checks import checks_figure
from deltatheory.report.control import control_figure, diagnosis_figure, steering_figure
from deltatheory.report.dimension import dimension_figure, estimate, sharpest, span
from deltatheory.report.generation import generation_figure
from deltatheory.report.page import count, page_of, whole
from deltatheory.report.reach import reach_figure
from deltatheory.report.training import explanation_figure, training_figure

__all__ = [
    "advice_figure",
    "checks_figure",
    "control_figure",
    "count",
    "diagnosis_figure",
    "dimension_figure",
    "estimate",
    "explanation_figure",
    "generation_figure",
    "page_of",
    "reach_figure",
    "sharpest",
    "span",
    "steering_figure",
    "training_figure",
    "whole",
]
