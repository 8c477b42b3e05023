"""Frozen pretrained transformers whose blocks are the time steps of a controlled system."""

from __future__ import annotations

from deltatheory.backbones.backbone import Backbone
from deltatheory.backbones.batch import Batch
from deltatheory.backbones.edit import Edit
from deltatheory.backbones.families import SUPPORTED, prepare
from deltatheory.backbones.kv_cache import CachedTexts, RereadTexts
from deltatheory.backbones.load import EMBEDDED, HUB_NAMES, embedded_is_here, load_backbone, load_checkpoint
from deltatheory.backbones.wrap import wrap_model

__all__ = [
    "EMBEDDED",
    "HUB_NAMES",
    "SUPPORTED",
    "Backbone",
    "Batch",
    "CachedTexts",
    "Edit",
    "RereadTexts",
    "embedded_is_here",
    "load_backbone",
    "load_checkpoint",
    "prepare",
    "wrap_model",
]
