"""A frozen backbone, a task, a head and a delta as pure functions of δ: classification and generation."""

from deltatheory.problems.classification import ClassificationProblem, Problem, Split, load_problem
from deltatheory.problems.generation import GenerationProblem
from deltatheory.problems.heads import HEADS, Head, make_head

__all__ = [
    "HEADS",
    "ClassificationProblem",
    "GenerationProblem",
    "Head",
    "Problem",
    "Split",
    "load_problem",
    "make_head",
]
