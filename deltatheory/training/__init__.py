"""Training of any delta: one plain trainer, on one device or on several."""

from deltatheory.training.trainer import Training, TrainingResult, train

__all__ = ["Training", "TrainingResult", "train"]
