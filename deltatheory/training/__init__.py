"""Training of any delta: one plain trainer, on one device or on several."""

from deltatheory.training.costs import full_costs
from deltatheory.training.learning_rate import RatePrediction, predict_learning_rate
from deltatheory.training.result import TrainingCosts, TrainingResult
from deltatheory.training.scores import HeldOutScores, held_out_scores
from deltatheory.training.trainer import Training, train

__all__ = [
    "HeldOutScores",
    "RatePrediction",
    "Training",
    "TrainingCosts",
    "TrainingResult",
    "full_costs",
    "held_out_scores",
    "predict_learning_rate",
    "train",
]
