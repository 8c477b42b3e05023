"""Gradient checkpointing (Chen et al. 2016): blocks keep their inputs alone, and run again going back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deltatheory._memory import give_back
from deltatheory.autodiff import functional_call

__all__ = ["is_recomputed", "recomputed"]

_RECOMPUTED: ContextVar[bool] = ContextVar("inside a block that runs again", default=False)


def is_recomputed() -> bool:
    """Return whether what runs now keeps nothing for the way back, because it runs again there."""
    return _RECOMPUTED.get()


@contextmanager
def recomputed(
    block: nn.Module, parameters: Mapping[str, Tensor], acting: Callable[[], AbstractContextManager]
) -> Iterator[None]:
    """Let a block keep its inputs alone.

    Args:
        block: whose forward pass is taken again in the backward pass, which may come after this has ended.
        parameters: replacements of its own, in both.
        acting: what else must act while it runs, in both.
    """
    inner = _Forward(block)
    vars(block)["forward"] = partial(checkpoint, partial(_run, inner, parameters, acting), **_ONCE)
    try:
        yield
    finally:
        if inner.own is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = inner.own


# Nothing is drawn in a frozen block, so that no state of generators is kept.
_ONCE: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


class _Forward(nn.Module):
    """The forward pass of a block, without what hooks do around it; its parameters have the block's names."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._parameters, self._modules, self._buffers = block._parameters, block._modules, block._buffers
        self.own = vars(block).get("forward")
        self._forward = block.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)


def _run(
    inner: _Forward,
    parameters: Mapping[str, Tensor],
    acting: Callable[[], AbstractContextManager],
    *args: Any,
    **kwargs: Any,
) -> Any:
    if next(inner.parameters()).device.type == "cpu":
        give_back()  # what the block before has left: in pieces it would stay the process's, block by block
    token = _RECOMPUTED.set(True)
    try:
        with acting():
            return functional_call(inner, parameters, args, kwargs)
    finally:
        _RECOMPUTED.reset(token)
