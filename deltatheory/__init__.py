"""Executable theory of parameter-efficient fine-tuning.

The names below are the public interface. Each is imported when it is first used, so that `import deltatheory`
and `deltatheory --help` cost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatheory.adapters import explain, from_peft, load_adapter, predict, to_peft
    from deltatheory.advice import advise
    from deltatheory.backbones import load_backbone, load_checkpoint, prepare
    from deltatheory.control.reach import reach
    from deltatheory.deltas import make_delta
    from deltatheory.deltas.files import load_delta, save_delta
    from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension
    from deltatheory.linearization import tangent_rows
    from deltatheory.problems import ClassificationProblem, GenerationProblem, Setup
    from deltatheory.projections import make_projection
    from deltatheory.results import ResultLog
    from deltatheory.tasks import Task, load_task
    from deltatheory.training import Training, predict_learning_rate, train

__version__ = "0.1.0"

__all__ = [
    "ClassificationProblem",
    "Criterion",
    "DimensionSettings",
    "GenerationProblem",
    "ResultLog",
    "Setup",
    "Task",
    "Training",
    "__version__",
    "advise",
    "explain",
    "from_peft",
    "intrinsic_dimension",
    "load_adapter",
    "load_backbone",
    "load_checkpoint",
    "load_delta",
    "load_task",
    "make_delta",
    "make_projection",
    "predict",
    "predict_learning_rate",
    "prepare",
    "reach",
    "save_delta",
    "tangent_rows",
    "to_peft",
    "train",
]

_MODULES = {
    "Criterion": "dimension",
    "DimensionSettings": "dimension",
    "GenerationProblem": "problems",
    "ClassificationProblem": "problems",
    "ResultLog": "results",
    "Setup": "problems",
    "Task": "tasks",
    "Training": "training",
    "advise": "advice",
    "explain": "adapters",
    "from_peft": "adapters",
    "intrinsic_dimension": "dimension",
    "load_adapter": "adapters",
    "load_backbone": "backbones",
    "load_checkpoint": "backbones",
    "load_delta": "deltas.files",
    "load_task": "tasks",
    "make_delta": "deltas",
    "make_projection": "projections",
    "predict": "adapters",
    "predict_learning_rate": "training",
    "prepare": "backbones",
    "reach": "control.reach",
    "save_delta": "deltas.files",
    "tangent_rows": "linearization",
    "to_peft": "adapters",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
