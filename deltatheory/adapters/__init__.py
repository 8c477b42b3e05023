"""Adapters of `peft` in and out, and what a trained one really uses."""

from deltatheory.adapters.adapter import TrainedAdapter, open_adapter
from deltatheory.adapters.explanation import Explanation, explain
from deltatheory.adapters.exported import base_of, has_peft_form, peft_config, to_peft
from deltatheory.adapters.handed_on import (
    Predictions,
    classifier_of,
    is_for_peft,
    merge,
    predict,
    write_adapter,
)
from deltatheory.adapters.imported import PeftDelta, from_peft
from deltatheory.adapters.loaded import load_adapter
from deltatheory.adapters.native import native, opened, tuned_problem

__all__ = [
    "Explanation",
    "PeftDelta",
    "Predictions",
    "TrainedAdapter",
    "base_of",
    "classifier_of",
    "explain",
    "from_peft",
    "has_peft_form",
    "is_for_peft",
    "load_adapter",
    "merge",
    "native",
    "open_adapter",
    "opened",
    "peft_config",
    "predict",
    "to_peft",
    "tuned_problem",
    "write_adapter",
]
