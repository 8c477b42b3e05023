"""Dimension results made by hand: whole ones, and every way a part can be missing."""

import dataclasses

import numpy as np

from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.dimension.result import CurvePoint, DimensionResult

PREDICTED = DimensionEstimate(190.0, 90.0, 400.0, "predicted")
MEASURED = DimensionEstimate(240.0, 180.0, 310.0, "reached")
UNREACHED = DimensionEstimate(None, 3300.0, None, "the level 0.8 is not reached at d <= 4096")
REFUSED = DimensionEstimate(None, None, None, "refused: the Jacobian has rank 3")
OPEN = DimensionEstimate(2500.0, 900.0, None, "reached; the interval passes the largest d, 4096")
FROZEN_IS_ENOUGH = DimensionEstimate(0.0, 0.0, 12.0, "the frozen model reaches the level already")


def accuracy(d: int) -> float:
    return 0.62 + 0.27 / (1 + (90 / d) ** 0.9)


def a_result(
    predicted: DimensionEstimate | None = PREDICTED, measured: DimensionEstimate | None = MEASURED, **changes
) -> DimensionResult:
    size = 10_646_784
    curve = [CurvePoint(0, "frozen", 0, None, None, 0.62)]
    if predicted is not None and predicted is not REFUSED:
        curve += [
            CurvePoint(2**k, "predict", s, 0.5, 0.9, accuracy(2**k) + 0.01 * np.sin(s + k))
            for k in range(2, 13)
            for s in range(8)
        ]
    if measured is not None:
        curve += [CurvePoint(d, "measure", d % 3, 0.4, None, accuracy(d)) for d in (64, 256, 128, 181)]
        curve += [CurvePoint(512, "measure", 1, None, None, None)]  # diverged
        curve += [CurvePoint(size, "baseline", s, 0.1, None, 0.9 - 0.01 * s) for s in (0, 1)]
    given = [name for name, part in (("predicted", predicted), ("measured", measured)) if part is not None]
    verbs = {"predicted": "predict", "measured": "measure"}
    whole = DimensionResult(
        predicted=predicted,
        measured=measured,
        level={name: 0.0 if predicted is REFUSED and name == "predicted" else 0.8 for name in given},
        baseline={name: 0.0 if predicted is REFUSED and name == "predicted" else 0.89 for name in given},
        chance=0.31,
        frozen=0.62,
        size=size,
        curve=curve,
        passes={verbs[name]: {"predicted": 3500.0, "measured": 70000.0}[name] for name in given},
        full_runs=5.0 if measured else 0.0,
        seconds={verbs[name]: {"predicted": 41.0, "measured": 612.0}[name] for name in given},
        diagnostics={
            "missed": ["Linearization: <b>12 %</b> & more."],
            "assumptions": ["The head is frozen."],
            "rank": 448,
            "spectrum": list(range(50)),
        },
        settings={
            "criterion": {"fraction": 0.9, "baseline": None, "corrected": False},
            "training": {"steps": 120},
        },
        provenance={
            "model": {"name": "minilm"},
            "task": {"name": "stdlib-topics"},
            "command": ["deltatheory", "dimension", "--out", "a folder"],
        },
    )
    return dataclasses.replace(whole, **changes)


EVERY_RESULT = {
    "both": a_result(),
    "predicted only": a_result(measured=None),
    "measured only": a_result(predicted=None),
    "not reached": a_result(measured=UNREACHED),
    "nothing reached": a_result(predicted=None, measured=UNREACHED),
    "refused": a_result(predicted=REFUSED),
    "no upper end": a_result(predicted=OPEN),
    "frozen is enough": a_result(predicted=FROZEN_IS_ENOUGH),
    "bare": a_result(diagnostics={}, settings={}, provenance={}),
}
