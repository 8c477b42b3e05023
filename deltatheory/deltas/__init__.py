"""Deltas: small changes of a frozen backbone, θ = ψ(δ), with δ = 0 the backbone itself."""

from __future__ import annotations

import difflib
from typing import Any

from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta, InPlaceDelta
from deltatheory.deltas.layerwise import LayerwiseSubspace
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.subspace import FullFineTuning, Subspace

__all__ = ["DELTAS", "Delta", "InPlaceDelta", "make_delta"]

DELTAS: dict[str, type[Delta]] = {
    kind.name: kind for kind in (Subspace, LayerwiseSubspace, FullFineTuning, LoRA)
}


def make_delta(name: str, backbone: Backbone, **options: Any) -> Delta:
    """Return the delta of that name on a backbone.

    Args:
        name: a key of `DELTAS`.
        backbone: what it changes.
        options: the arguments of the class.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in DELTAS:
        near = difflib.get_close_matches(name, DELTAS, cutoff=0.4) or list(DELTAS)
        raise ValueError(f"delta={name!r}: no such delta; nearest: {', '.join(near)}.")
    return DELTAS[name](backbone, **options)
