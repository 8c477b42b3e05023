"""Results made by hand: of every kind that has a page, and of dimensions every way a part can be missing."""

import dataclasses
import math

import numpy as np
import torch

from deltatheory.adapters import Explanation
from deltatheory.adapters.module_use import ModuleUse
from deltatheory.advice import Advice, Decision, Estimate
from deltatheory.advice.result import Difference, Run
from deltatheory.control.design import ControlledLayer, ControlResult
from deltatheory.control.diagnosis import Attempt, Diagnosis
from deltatheory.control.faults import Finding
from deltatheory.control.feedback.steering import SteeringResult, SteeringRow
from deltatheory.control.reach.controllability import ReachResult, WayThere
from deltatheory.control.reach.prefix_bound import FirstBlockBound
from deltatheory.deltas import LoRA
from deltatheory.dimension.criterion import DimensionEstimate
from deltatheory.dimension.result import CurvePoint, DimensionResult
from deltatheory.results import Result
from deltatheory.testing.on_models import ModelCheck, ModelChecks
from deltatheory.theorems import get_theorem
from deltatheory.training import HeldOutScores, TrainingCosts, TrainingResult
from deltatheory.training.scores import ClassScore

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


LONG = "a class whose name is as long as some names of classes are, in a language with compounds"
NO_DELTA, NO_VALUE = object.__new__(LoRA), torch.zeros(1)  # no page reads them


def _about(command: str) -> dict:
    return {
        "time": "2026-01-02T03:04:05.678+00:00",
        "command": ["deltatheory", command, "--task", "a file.csv"],
        "model": {"name": "an-organization/a-model-with-a-long-name-in-several-parts"},
        "task": {"name": "reviews"},
    }


_MODULES = [f"encoder.layer.{t}.attention.self.{name}" for t in range(6) for name in ("query", "value")]
_LAYERS = ["embedding", *(f"block {t}" for t in range(12)), "head"]

_WAYS = ("continuous", "discrete", "prefix", "random", "repeat")

TRAINING = TrainingResult(
    delta=NO_VALUE,
    last=NO_VALUE,
    train_loss=0.3,
    train_accuracy=0.9,
    test={"accuracy": 0.784, "loss": 0.61},
    movement=1.5,
    passes=28_800.0,
    seconds=41.0,
    status="finished",
    losses=[1.2 * math.exp(-k / 40) + 0.1 * math.sin(k) for k in range(120)],
    dev=[{"step": k, "accuracy": 0.7, "loss": 1.1 - k / 200} for k in (40, 80, 120)],
    stopped_early=False,
    tuned_parameters=73_728,
    optimizer_state_bytes=589_832,
    peak_memory=None,
    seconds_per_step=0.12,
    full=TrainingCosts(10_646_784, 85_174_280, None, 0.31, {"accuracy": 0.93, "loss": 0.2}),
    settings={"delta": {"delta": "lora", "r": 8}, "device": "cpu", "head": "label-words"},
    provenance=_about("train"),
    tuned=NO_DELTA,
    classifier=None,
    scores=HeldOutScores(
        "accuracy", 0.784, 0.738, 0.825, 0.4, 0.919, LONG, 240, 0.44,
        [ClassScore(LONG, 0.8, 0.97, 0.88, 220), ClassScore("rare", 0.0, 0.0, 0.0, 20)],
    ),
)  # fmt: skip

ONE_OF_EACH: dict[str, Result] = {
    "dimension": a_result(),
    "advise": Advice(
        decision=Decision("lora r=8", 73_728, 2.1e-3, 884_736, 0.9, 0.71),
        ranked=[
            Estimate(
                name, options, 0.8 + k / 100, 0.7, 0.9, 0.8, 4**k * 100, 4**k * 1200, 0.5, k < 5,
                Difference(k / 100 - 0.03, -0.05, 0.06, 0.3), 1e-2 / (k + 1), 1e-3, 1e-1,
            )
            for k, (name, options) in enumerate(
                [
                    ("bitfit", {}),
                    ("ia3", {}),
                    ("prefix", {"length": 16, "gate": "values"}),
                    ("lora", {"r": 8}),
                    ("lora", {"r": 8, "targets": ["all-linear"]}),
                    ("full", {}),
                ]
            )
        ],
        runs=[Run("lora r=8", 0.875, 64)],
        frozen=0.5,
        winner="lora r=8",
        adapter_config=None,
        training_arguments=None,
        adapter_training_arguments=None,
        findings=["Ties: two candidates are as good as each other."],
        passes=2860.0,
        seconds=17.0,
        provenance={**_about("advise"), "settings": {"steps": 120}},
    ),
    "train": TRAINING,
    "explain": Explanation(
        modules=[
            ModuleUse(name, (384, 384), 1.0, 10.0, 0.1 * (k + 1), 8, [1.0], 1 + k % 8, 7 - k % 8, 1.5, k % 8)
            for k, name in enumerate(_MODULES)
        ],
        movement=0.4,
        total_rank=96,
        used_rank=40,
        kept_rank=33,
        rank_pattern={},
        curve=[(0, 0.0), (20, 0.93), (33, 0.991), (96, 1.0)],
        effect_kept=0.99,
        frozen=0.4,
        full=0.78,
        truncated=0.775,
        findings=["Waste: 56 of the total rank 96 is not used by the spectra of ΔW."],
        passes=1200.0,
        seconds=3.0,
        provenance={**_about("explain"), "adapter": {"path": "my-adapter"}, "settings": {"keep": 0.99}},
    ),
    "control": ControlResult(
        solver="gauss-newton",
        status="budget spent",
        remedy="raise the budget, or take fewer examples a step",
        cost=0.000847,
        history=[{"cost": 1.2 / k, "metric": 0.5, "passes": 100.0 * k, "seconds": k} for k in range(1, 25)],
        frozen={"accuracy": 0.6},
        test={"accuracy": 0.9},
        energy=1920.0,
        layers=[
            ControlledLayer(name, 128, 100.0 * k, 3e-4, 2e-4, 1e-4, 0.4, None, "f_t is not affine", k / 91)
            for k, name in enumerate(_LAYERS)
        ],
        spectrum=[10.0 / k**2 for k in range(1, 65)],
        rank=64,
        reachability={"status": "converged", "energy": 1020.0, "target_margin": 1.0, "remedy": ""},
        linearization_error=3.87,
        passes={"solver": 2420.0, "evaluation": 80.0},
        seconds={"solver": 1.5, "evaluation": 0.05},
        files=["delta.safetensors"],
        settings={"solver": {"name": "gauss-newton"}},
        provenance=_about("control"),
        delta=NO_DELTA,
        value=NO_VALUE,
    ),
    "steer": SteeringResult(
        rows=[
            SteeringRow(controller, disturbance, 0.9 - 0.1 * i - 0.03 * k, 1.0, 240)
            for i, disturbance in enumerate(("clean", "substitutions", "typos", "trigger", "noise"))
            for k, controller in enumerate(("tuned", "robust-prefix", "pid", "lqr"))
        ],
        latency={n: {"seconds": 0.1, "added": 0.2} for n in ("tuned", "robust-prefix", "pid", "lqr")},
        settings={name: {} for name in ("tuned", "robust-prefix", "pid", "lqr")},
        disturbances={name: {} for name in ("substitutions", "typos", "trigger", "noise")},
        chance=0.5,
        passes=6180.0,
        seconds=2.6,
        provenance=_about("steer"),
        delta=NO_DELTA,
        value=NO_VALUE,
    ),
    "reach": ReachResult(
        lengths=[1, 2, 4, 10],
        goal="label",
        among="vocabulary",
        texts=["a text" for _ in range(32)],
        targets=[" great" for _ in range(32)],
        ranks=[1 + i**3 for i in range(32)],
        ways=[
            WayThere(name, [(0, 1, 2, 10, None)[i % 5] for i in range(32)], [0.5] * 32, [" x"] * 32, 9e5, 6.0)
            for name in _WAYS
        ],
        bounds=[FirstBlockBound(k, (0.1, 0.5, 0.9), (0.2, 1.0, 3.0)) for k in (1, 2, 4, 10)],
        remarks=["Label words of several tokens count by their first: unacceptable."],
        passes=dict.fromkeys(("no control", *_WAYS), 9e5),
        seconds=dict.fromkeys(("no control", *_WAYS), 60.0),
        settings={"k": [1, 2, 4, 10], "goal": "label"},
        provenance=_about("reach"),
    ),
    "diagnose": Diagnosis(
        findings=[
            Finding("masks or positions", "not found", 1e-7, 1e-3, "padding changes outputs by 1.0e-07"),
            Finding("start off the cloud of real activations", "not found", 1.4, 3.0, "they lie near"),
            Finding(
                "step size", "found", 36.0, 5.0, "0.01 is too small", "Raise the rate.", "it is small"
            ),
        ],
        attempts=[
            Attempt("", "", 20, 0.7, 0.69),
            Attempt("step size", "a learning rate of 0.36", 20, 0.7, 0.31),
        ],
        predicted_rate=0.36,
        passes=260.0,
        seconds=0.5,
        settings={"steps": 100},
        provenance=_about("diagnose"),
        delta=NO_DELTA,
    ),
    "check": ModelChecks(
        rows=tuple(
            ModelCheck(x.id, x.name, "searched(9)", x.kind, "met", 0.6, 9.0, r, ok, r < 0.01)
            for x, r, ok in (
                (get_theorem("T02"), 0.002, True),
                (get_theorem("T39"), 0.18, True),
                (get_theorem("T41"), math.nan, None),
            )
        ),
        settings={"seed": 0},
        provenance=_about("check"),
    ),
}  # fmt: skip
