"""What is compared: methods with their sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from deltatheory._options import options_of
from deltatheory.adapters import native, open_adapter
from deltatheory.backbones import Backbone
from deltatheory.deltas import DELTAS, check_options, split_size
from deltatheory.deltas.targets import linear_modules, name_of

__all__ = ["CANDIDATES", "Candidate", "in_each_block"]


@dataclass(frozen=True)
class Candidate:
    """A method with its size.

    Attributes:
        method: key in `deltatheory.deltas.DELTAS`.
        options: the arguments of its class.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Candidate | str) -> Candidate:
        """Return a candidate that is written as a delta with its size and options, or that of an adapter.

        >>> Candidate.of("lora:8 alpha=16.0"), Candidate.of("bitfit").label
        (Candidate(method='lora', options={'r': 8, 'alpha': 16.0}), 'bitfit')
        """
        if isinstance(given, Candidate):
            return given
        if os.path.exists(given):
            specification = native(open_adapter(given)).delta.specification()
            known = signature(DELTAS[specification["delta"]]).parameters
            return cls(specification["delta"], {n: x for n, x in specification.items() if n in known})
        name, *options = given.split() or [""]
        method, size = split_size(name)
        return cls(method, {**size, **options_of(options)})

    @property
    def label(self) -> str:
        """Return method and options in one line.

        >>> Candidate("lora", {"r": 8}).label
        'lora r=8'
        """
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def in_each_block(candidate: Candidate | str, backbone: Backbone) -> list[Candidate]:
    """Return a candidate in every block alone, for those blocks where it acts.

    Args:
        candidate: of a method with linear targets (LoRA and its kin), or with blocks (prefix).
        backbone: whose blocks.

    Raises:
        ValueError: for another method, or one that has blocks already.
    """
    given = Candidate.of(candidate)
    method, options = given.method, dict(given.options)
    check_options(method, options)
    taken = {name for name, kind in DELTAS.items() if {"targets", "blocks"} & {*signature(kind).parameters}}
    if method not in taken or "blocks" in options:
        raise ValueError(
            f"candidate={given.label!r}: cannot be put into each block; allowed are, without blocks of their "
            f"own, {', '.join(sorted(taken))}."
        )
    if "blocks" in signature(DELTAS[method]).parameters:
        return [Candidate(method, {**options, "blocks": [t]}) for t in range(len(backbone.layers))]
    targets = linear_modules(backbone, options.get("targets"))

    def short(name: str, block: str) -> str:
        """Return the end of a name from the block's number on, where that names no other module."""
        end = block.rsplit(".", 1)[-1] + name.removeprefix(block)
        return end if len(linear_modules(backbone, [end])) == 1 else name

    names = [name_of(backbone, block) for block in backbone.layers]
    inside = [[short(name, block) for name in targets if name.startswith(f"{block}.")] for block in names]
    return [Candidate(method, {**options, "targets": own}) for own in inside if own]


CANDIDATES = (
    Candidate("layernorm"),
    Candidate("bitfit"),
    Candidate("ia3"),
    Candidate("prefix", {"length": 4, "gate": "values"}),
    Candidate("prefix", {"length": 16, "gate": "values"}),
    Candidate("lora", {"r": 1}),
    Candidate("lora", {"r": 8}),
    Candidate("lora", {"r": 32}),
    Candidate("lora", {"r": 8, "targets": ["all-linear"]}),
    Candidate("adapter", {"bottleneck": 8}),
    Candidate("adapter", {"bottleneck": 64}),
    Candidate("full"),
)
