"""Intrinsic dimension: how many dimensions a task needs, predicted before training and measured by it."""

from deltatheory.dimension.criterion import Criterion, DimensionEstimate
from deltatheory.dimension.intrinsic import intrinsic_dimension
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.dimension.settings import DimensionSettings

__all__ = [
    "Criterion",
    "CurvePoint",
    "DimensionEstimate",
    "DimensionResult",
    "DimensionSettings",
    "intrinsic_dimension",
]
