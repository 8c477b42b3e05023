"""States behind the blocks of any `transformers` model, read and moved through plain forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.backbones.batch import Pooling

__all__ = ["spread", "watching"]


@contextmanager
def watching(
    model: nn.Module,
    layers: Iterable[nn.Module],
    act: Callable[[int, Tensor, Tensor], Tensor | None],
) -> Iterator[None]:
    """Call act(t, x, mask) behind every block, and let what it returns replace the block's output x.

    Args:
        model: any `transformers` model that is called with its attention mask, 2-D or additive 4-D, by name;
            without one all tokens are real.
        layers: its blocks, in order.
        act: t, shapes (B, T, H) and (B, T) ↦ the new state, or `None` to leave it as it is.
    """
    given: list[Tensor | None] = [None]

    def note(_module: nn.Module, _args: tuple, kwargs: dict) -> None:
        given[0] = kwargs.get("attention_mask")

    def behind(t: int) -> Callable:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            new = act(t, x, _real_tokens(given[0], x))
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    handles = [model.register_forward_pre_hook(note, with_kwargs=True)]
    handles += [layer.register_forward_hook(behind(t)) for t, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _real_tokens(mask: Tensor | None, x: Float[Tensor, "B T H"]) -> Float[Tensor, "B T"]:
    if mask is None:
        return x.new_ones(x.shape[:2])
    if mask.dim() == 4:  # the last query's row: it sees all real tokens, also where the future is hidden
        mask = mask[:, 0, -1] == 0
    return mask.to(x.dtype)


def spread(
    x: Float[Tensor, "B T H"], u: Float[Tensor, "B H"], mask: Float[Tensor, "B T"], pooling: Pooling
) -> Float[Tensor, "B T H"]:
    """Return the state with u added to the tokens that z = pool(x) is read from, so that z moves by u."""
    if pooling == "mean":
        return x + u[:, None]
    position = mask.long().sum(1) - 1 if pooling == "last" else torch.zeros_like(mask[:, 0]).long()
    x = x.clone()
    x[torch.arange(len(mask), device=mask.device), position] += u
    return x
