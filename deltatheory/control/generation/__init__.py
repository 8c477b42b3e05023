"""Policies that move the states of a language model while it generates."""

from deltatheory.control.generation.acting import Acting, acting
from deltatheory.control.generation.contrast import Contrast, contrast
from deltatheory.control.generation.files import load_policy, save_policy
from deltatheory.control.generation.generate import Continuations, generate, perplexity
from deltatheory.control.generation.intervention import LowRankIntervention
from deltatheory.control.generation.making import STATE_POLICIES, half_spaces, make_state_policy
from deltatheory.control.generation.policies import (
    AddedDirection,
    CacheEdit,
    GenerationPolicy,
    HalfSpaces,
    LayerPolicy,
    Memory,
    ScoreFeedback,
    StatePolicy,
    ValueGuidance,
    projection,
)
from deltatheory.control.generation.tuned import Prefix, TunedDelta

__all__ = [
    "STATE_POLICIES",
    "Acting",
    "AddedDirection",
    "CacheEdit",
    "Continuations",
    "Contrast",
    "GenerationPolicy",
    "HalfSpaces",
    "LayerPolicy",
    "LowRankIntervention",
    "Memory",
    "Prefix",
    "ScoreFeedback",
    "StatePolicy",
    "TunedDelta",
    "ValueGuidance",
    "acting",
    "contrast",
    "generate",
    "half_spaces",
    "load_policy",
    "make_state_policy",
    "perplexity",
    "projection",
    "save_policy",
]
