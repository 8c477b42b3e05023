"""What is compared: methods with their sizes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deltatheory._options import options_of
from deltatheory.adapters import native, open_adapter
from deltatheory.deltas import DELTAS, split_size

__all__ = ["CANDIDATES", "Candidate"]


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
            known = inspect.signature(DELTAS[specification["delta"]]).parameters
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
