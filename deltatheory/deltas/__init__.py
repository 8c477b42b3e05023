"""Deltas: small changes of a frozen backbone, θ = ψ(δ), with δ = 0 the backbone itself."""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from deltatheory.backbones import Backbone
from deltatheory.deltas.adapter import Adapter
from deltatheory.deltas.base import Delta, InPlaceDelta
from deltatheory.deltas.combined import Combined
from deltatheory.deltas.compacter import Compacter
from deltatheory.deltas.diff_pruning import DiffPruning
from deltatheory.deltas.fisher_mask import FisherMask
from deltatheory.deltas.ia3 import IA3
from deltatheory.deltas.intrinsic_prompt import IntrinsicPromptTuning
from deltatheory.deltas.ladder import LadderSide
from deltatheory.deltas.layerwise import LayerwiseSubspace
from deltatheory.deltas.lora import LoRA
from deltatheory.deltas.parallel_adapter import ParallelAdapter
from deltatheory.deltas.places import EditPlace, Place, WeightPlace
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import PromptTuning
from deltatheory.deltas.selected import BitFit, LastLayers, LayerNormOnly, Modules, RandomModules
from deltatheory.deltas.subspace import FullFineTuning, Subspace
from deltatheory.deltas.unified_subspace import UnifiedSubspace
from deltatheory.deltas.unilora import UniLoRA
from deltatheory.deltas.vera import VeRA
from deltatheory.deltas.with_head import WithHead

__all__ = [
    "DELTAS",
    "Delta",
    "EditPlace",
    "InPlaceDelta",
    "Place",
    "WeightPlace",
    "WithHead",
    "check_options",
    "make_delta",
    "parameter_counts",
    "seeded",
    "split_size",
]

DELTAS: dict[str, type[Delta]] = {
    kind.name: kind
    for kind in (
        Subspace,
        LayerwiseSubspace,
        FullFineTuning,
        LoRA,
        PromptTuning,
        PrefixTuning,
        IntrinsicPromptTuning,
        Modules,
        BitFit,
        LayerNormOnly,
        LastLayers,
        RandomModules,
        DiffPruning,
        FisherMask,
        UniLoRA,
        VeRA,
        UnifiedSubspace,
        Combined,
        Adapter,
        ParallelAdapter,
        Compacter,
        IA3,
        LadderSide,
    )
}


def make_delta(name: str, backbone: Backbone, **options: Any) -> Delta:
    """Return the delta of that name on a backbone.

    Args:
        name: a key of `DELTAS`.
        backbone: what it changes.
        options: the arguments of the class; where it joins deltas, each may be given as (name, options).

    Raises:
        ValueError: as `check_options`, or for a value that the class refuses.
    """
    check_options(name, options)
    if "deltas" in options:
        parts = _parts(options["deltas"])
        options["deltas"] = [p if isinstance(p, Delta) else make_delta(p[0], backbone, **p[1]) for p in parts]
    try:
        return DELTAS[name](backbone, **options)
    except (TypeError, LookupError, RuntimeError, MemoryError) as error:  # what it meets in values so strange
        cause = " ".join(str(error).split())
        raise ValueError(f"options={options} of delta={name!r}: {cause}.") from error


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Say which options a delta takes, before anything is loaded.

    Raises:
        ValueError: for an unknown name or option, one that is missing, or one of another type.
    """
    known = _options(name)
    allowed = ", ".join(known) or "no options"
    if unknown := [option for option in options if option not in known]:
        raise ValueError(
            f"option {unknown[0]!r}: the delta {name!r} has none of that name; it takes {allowed}."
        )
    if missing := [p.name for p in known.values() if p.default is p.empty and p.name not in options]:
        raise ValueError(f"option {missing[0]!r}: the delta {name!r} needs it; it takes {allowed}.")
    kinds = get_type_hints(_kind(name).__init__)
    for option, value in options.items():
        if option != "deltas" and not _fits(value, kinds[option]):  # those may be (name, options)
            kind = known[option].annotation
            raise ValueError(
                f"option {option}={value!r}: the delta {name!r} takes {kind}; numbers are finite, of 64 bits."
            )


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value is of an annotated type; what is given as a text may be anything.

    >>> [_fits(x, float | None) for x in (1, 0.5, None, "x", True, math.nan)]
    [True, True, True, False, False, False]
    >>> [_fits(x, Sequence[str]) for x in (["query"], "query", [3])]
    [True, False, False]
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, Integral):
        return kind in (int, float) and abs(int(value)) < 2**63  # what torch takes
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    if isinstance(value, str):
        return kind is str
    if not isinstance(value, origin or kind):
        return False
    items = value.values() if isinstance(value, Mapping) else value
    return not inner or all(_fits(item, inner[-1]) for item in items)


def seeded(name: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return options with the seed, where the delta or one of its parts draws and names none.

    >>> seeded("lora", {"r": 2}, seed=7), seeded("bitfit", {}, seed=7)
    ({'seed': 7, 'r': 2}, {})
    """
    chosen = {**({"seed": seed} if "seed" in _options(name) else {}), **options}
    if "deltas" in chosen:
        parts = _parts(chosen["deltas"])
        chosen["deltas"] = [p if isinstance(p, Delta) else (p[0], seeded(p[0], p[1], seed)) for p in parts]
    return chosen


def _parts(deltas: Any) -> Sequence[Any]:
    """Refuse what is no list of deltas or (name, options)."""
    if not isinstance(deltas, Sequence) or isinstance(deltas, str):
        raise ValueError(f"deltas={deltas!r}: give a list of deltas, or of (name, options).")
    for part in deltas:
        pair = isinstance(part, Sequence) and len(part) == 2
        named = pair and isinstance(part[0], str) and isinstance(part[1], Mapping)
        if not named and not isinstance(part, Delta):
            raise ValueError(f"deltas has {part!r}: give a delta, or (name, options).")
    return deltas


def _options(name: str) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(_kind(name)).parameters.values()
    return {p.name: p for p in signature if p.kind is p.KEYWORD_ONLY}


def _kind(name: str) -> type[Delta]:
    if name not in DELTAS:
        near = difflib.get_close_matches(name, DELTAS, cutoff=0.4) or list(DELTAS)
        raise ValueError(f"delta={name!r}: no such delta; nearest: {', '.join(near)}.")
    return DELTAS[name]


def split_size(text: str) -> tuple[str, dict[str, int]]:
    """Read "prefix:8" as the name of a delta and its size, the first option of its class: k, r, d, ...

    Raises:
        ValueError: for a size that is no positive number, an unknown name, or a delta without a size.

    >>> split_size("prefix:8"), split_size("bitfit")
    (('prefix', {'length': 8}), ('bitfit', {}))
    """
    name, colon, size = text.partition(":")
    if not colon:
        return name, {}
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"delta={text!r}: after the colon write a size of at least 1, as in 'prefix:8'.")
    options = list(_options(name).values())
    if not options or str(options[0].annotation) not in ("int", "int | None"):
        raise ValueError(f"delta={text!r}: {name!r} has no size; write {name!r} alone, with its options.")
    return name, {options[0].name: int(size)}


def parameter_counts(backbone: Backbone) -> dict[str, int | None]:
    """Return how many parameters each delta tunes in a backbone with its default arguments.

    `None` where there is no default (a subspace has the d it is given) or the architecture has no place for
    it (BitFit where nothing has a bias).
    """
    counts: dict[str, int | None] = {}
    for name, kind in DELTAS.items():
        given = [p for p in _options(name).values() if p.default is p.empty]
        try:
            counts[name] = None if given else kind(backbone).size
        except ValueError:
            counts[name] = None
    return counts
