"""A frozen backbone, a task, a head and a delta as pure functions of δ: classification and generation."""

from deltatheory.problems.base import BACKWARD, FORWARD, NOT_FINITE, Problem, epochs, like_lengths
from deltatheory.problems.classification import ClassificationProblem, Split
from deltatheory.problems.classifier import Classifier
from deltatheory.problems.folds import folds
from deltatheory.problems.generation import GenerationProblem
from deltatheory.problems.heads import HEADS, Head, make_head
from deltatheory.problems.losses import LOSSES, CrossEntropy, Loss, make_loss
from deltatheory.problems.setup import Setup

__all__ = [
    "BACKWARD",
    "FORWARD",
    "HEADS",
    "LOSSES",
    "NOT_FINITE",
    "ClassificationProblem",
    "Classifier",
    "CrossEntropy",
    "GenerationProblem",
    "Head",
    "Loss",
    "Problem",
    "Setup",
    "Split",
    "epochs",
    "folds",
    "like_lengths",
    "make_head",
    "make_loss",
]
