"""States behind the blocks of any `transformers` model, read and moved through plain forward hooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float, Int
from deltatheory.backbones.batch import Pooling, read_position
from deltatheory.backbones.edit import widened

__all__ = ["Pass", "spread", "stacks_of", "watching"]


@dataclass(eq=False)
class Pass:
    """The forward pass that is on.

    Attributes:
        before: how many real tokens of each text a cache holds, which stand before those of the pass.
    """

    before: Int[Tensor, " B"]


@contextmanager
def watching(
    model: nn.Module,
    layers: Iterable[nn.Module],
    act: Callable[[int, Tensor, Tensor], Tensor | None],
) -> Iterator[Pass]:
    """Call act(t, x, mask) behind every block, and let what it returns replace the block's output x.

    Args:
        model: any `transformers` model, called with its attention mask, 2-D or 4-D, padding on either side;
            without one all tokens are real. In `generate` the T tokens of a pass are those that the cache
            does not hold. The tokens of an encoder-decoder's encoder and decoder pass apart.
        layers: its blocks, in order.
        act: t, shapes (B, T, H) and (B, T) ↦ the new state, or `None` to leave it as it is; in float32 for a
            model in half precision.
    """
    now = Pass(torch.zeros(0, dtype=torch.long))

    def behind(t: int, call: _Call) -> Callable:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            own = output[0] if isinstance(output, tuple) else output
            x = widened(own)
            mask, now.before = _real_tokens(call.mask, x, call.cached)
            new = act(t, x, mask)
            if new is None:
                return None
            new = new.to(own.dtype)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    handles = []
    try:
        for stack, blocks in stacks_of(model, list(layers)):
            call = _Call(inspect.signature(stack.forward))
            handles.append(stack.register_forward_pre_hook(call.note, with_kwargs=True))
            handles += [layer.register_forward_hook(behind(t, call)) for t, layer in blocks]
        yield now
    finally:
        for handle in handles:
            handle.remove()


def stacks_of(model: Any, layers: Sequence[nn.Module]) -> list[tuple[nn.Module, list[tuple[int, nn.Module]]]]:
    """Return what is called with the mask of some blocks: the model, or its encoder and its decoder."""
    numbered = list(enumerate(layers))
    if not model.config.is_encoder_decoder:
        return [(model, numbered)]
    stacks = (model.get_encoder(), model.get_decoder())
    insides = [set(stack.modules()) for stack in stacks]
    return [
        (stack, [one for one in numbered if one[1] in inside])
        for stack, inside in zip(stacks, insides, strict=True)
    ]


@dataclass(eq=False)
class _Call:
    """What a stack of blocks was last called with: its mask, and how many tokens a cache held."""

    signature: inspect.Signature
    mask: Tensor | None = None
    cached: int = 0

    def note(self, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = self.signature.bind_partial(*args, **kwargs).arguments
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        self.mask = mask.get("full_attention") if isinstance(mask, Mapping) else mask
        self.cached = 0 if cache is None else int(cache.get_seq_length())


def _real_tokens(
    mask: Tensor | None, x: Float[Tensor, "B T H"], cached: int
) -> tuple[Float[Tensor, "B T"], Int[Tensor, " B"]]:
    """Return 1 where a token of x is real, and how many real ones a cache holds before them."""
    if mask is None:
        return x.new_ones(x.shape[:2]), torch.full((len(x),), cached, device=x.device)
    tokens, end = x.shape[1], mask.shape[-1]
    if mask.dim() == 4:  # the last query's row: it sees all real tokens, also where the future is hidden
        mask = mask[:, 0, -1] if mask.dtype == torch.bool else mask[:, 0, -1] == 0
        if end > tokens:  # a cache may be longer than the text: the last query sees itself, and nothing later
            end = int(read_position(mask.to(x.dtype), "last").max()) + 1
    return mask[:, end - tokens : end].to(x.dtype), mask[:, : end - tokens].long().sum(1)


def spread(
    x: Float[Tensor, "B T H"], u: Float[Tensor, "B H"], mask: Float[Tensor, "B T"], pooling: Pooling
) -> Float[Tensor, "B T H"]:
    """Return the state with u added to the tokens that z = pool(x) is read from, so that z moves by u."""
    if pooling == "mean":
        return x + u[:, None]
    x = x.clone()
    x[torch.arange(len(mask), device=mask.device), read_position(mask, pooling)] += u
    return x
