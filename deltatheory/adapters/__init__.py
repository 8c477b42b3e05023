"""Adapters of `peft` in and out, and what a trained one really uses."""

from deltatheory.adapters.adapter import TrainedAdapter, open_adapter
from deltatheory.adapters.explanation import Explanation, explain
from deltatheory.adapters.exported import has_peft_form, peft_config, to_peft
from deltatheory.adapters.imported import PeftDelta, from_peft
from deltatheory.adapters.loaded import load_adapter

__all__ = [
    "Explanation",
    "PeftDelta",
    "TrainedAdapter",
    "explain",
    "from_peft",
    "has_peft_form",
    "load_adapter",
    "open_adapter",
    "peft_config",
    "to_peft",
]
