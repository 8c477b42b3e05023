"""Adapters of `peft` in and out, and what a trained one really uses."""

from deltatheory.adapters.explanation import Explanation, explain
from deltatheory.adapters.peft_format import PeftDelta, from_peft, load_adapter, to_peft

__all__ = ["Explanation", "PeftDelta", "explain", "from_peft", "load_adapter", "to_peft"]
