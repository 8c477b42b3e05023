"""A disturbance that moves all states alike."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from deltatheory.control.feedback.disturbances import Disturbance


@dataclass(frozen=True, kw_only=True)
class Drift(Disturbance):
    """The same vector is added behind every block."""

    name: ClassVar[str] = "drift"
    size: float = 6.0

    @contextmanager
    def acting(self, layers):
        generator = torch.Generator().manual_seed(self.seed)
        handles = []
        for layer in layers:
            push = self.size * torch.randn(16, generator=generator).double()
            handles.append(layer.register_forward_hook(partial(_pushed, push)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _pushed(push, _module, _args, out):
    return (out[0] + push, *out[1:]) if isinstance(out, tuple) else out + push
