"""Encoded texts: everything a transformer needs, made explicit so that no model code branches on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from deltatheory._shapes import Float, Int

__all__ = ["Batch", "Pooling", "additive_mask", "pool", "read_position"]

Pooling = Literal["mean", "last", "cls"]


def read_position(mask: Float[Tensor, "B T"], pooling: Literal["last", "cls"]) -> Int[Tensor, " B"]:
    """Return where the last real token of each text is, or the first, padding on either side.

    >>> mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> read_position(mask, "last").tolist(), read_position(mask, "cls").tolist()
    ([1, 2], [0, 2])
    """
    real = mask.long()
    return real.argmax(1) if pooling == "cls" else real.shape[1] - 1 - real.flip(1).argmax(1)


def pool(
    hidden: Float[Tensor, "B T H"], mask: Float[Tensor, "B T"], pooling: Pooling
) -> Float[Tensor, "B H"]:
    """Reduce the tokens of each text to one vector.

    Args:
        hidden: their states.
        mask: 1 for real tokens, 0 for padding.
        pooling: "mean" over real tokens, "last" of them, or "cls", the first.

    >>> import torch
    >>> hidden, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])
    >>> [float(pool(hidden, mask, pooling)) for pooling in ("mean", "last", "cls")]
    [2.0, 3.0, 1.0]
    """
    if pooling != "mean":
        return hidden[torch.arange(len(mask), device=mask.device), read_position(mask, pooling)]
    lengths = mask.long().sum(1)  # as integers: bfloat16 counts only to 256
    return (hidden * mask.to(hidden.dtype)[:, :, None]).sum(1) / lengths[:, None]


def additive_mask(mask: Float[Tensor, "B T"], causal: bool) -> Float[Tensor, "B 1 T T"]:
    """Return the 4-D mask added to attention scores: 0 where query i may see key j, else the lowest float.

    Key j is visible if it is a real token and, for a causal model, j <= i.

    Arguments:
        mask: 1 for real tokens, 0 for padding.
        causal: forbid j > i.

    >>> import torch
    >>> (additive_mask(torch.tensor([[1.0, 1.0, 0.0]]), causal=True) == 0).int().tolist()
    [[[[1, 0, 0], [1, 1, 0], [1, 1, 0]]]]
    """
    length = mask.shape[1]
    visible = mask.bool()[:, None, None, :].expand(-1, 1, length, length)
    if causal:
        visible = visible & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    lowest = torch.finfo(mask.dtype).min  # not -inf: a row without a visible key must not become NaN
    return torch.where(visible, torch.zeros((), dtype=mask.dtype, device=mask.device), lowest)


@dataclass(frozen=True, eq=False)
class Batch:
    """B texts of at most T tokens, padded on the right.

    Arguments:
        input_ids: token numbers.
        mask: 1 for real tokens, 0 for padding.
        attention_mask: what is added to the attention scores (`additive_mask`); S = T keys, or
            more where a cache holds those of earlier tokens. Of an encoder-decoder's source one row for all
            queries, which are also those of the decoder.
        position_ids: explicit positions, with the offset of RoBERTa-like models.
        token_type_ids: segment numbers where the model has them.
        decoder: what the decoder of an encoder-decoder has read so far of each text's answer.
    """

    input_ids: Int[Tensor, "B T"]
    mask: Float[Tensor, "B T"]
    attention_mask: Float[Tensor, "B 1 _ S"]
    position_ids: Int[Tensor, "B T"]
    token_type_ids: Int[Tensor, "B T"] | None = None
    decoder: Batch | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def final(self) -> Batch:
        """The tokens that the last hidden states belong to: those of the decoder, or the texts themselves."""
        return self if self.decoder is None else self.decoder

    @property
    def width(self) -> int:
        """The tokens of a state x_t: those of the texts and, behind them, of the decoder."""
        return self.mask.shape[1] + (0 if self.decoder is None else self.decoder.mask.shape[1])

    def tensors(self) -> list[Tensor]:
        """Return all its tensors, each with a row for every text."""
        own = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return own + ([] if self.decoder is None else self.decoder.tensors())

    def rows(self, chosen: Int[Tensor, " n"]) -> Batch:
        """Return some of the texts with all their padding."""
        own = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **own, decoder=None if self.decoder is None else self.decoder.rows(chosen))

    def alone(self, rows: Sequence[Tensor]) -> Batch:
        """Return the batch of one text, from its rows of `tensors()`."""
        left = iter(rows)
        own = {name: next(left)[None] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **own, decoder=None if self.decoder is None else self.decoder.alone(list(left)))

    def inputs(self) -> dict[str, Tensor]:
        """Return the keyword arguments of the model's forward."""
        if self.decoder is not None:
            return {
                "input_ids": self.input_ids,
                "attention_mask": self.attention_mask,
                "decoder_input_ids": self.decoder.input_ids,
                "decoder_attention_mask": self.decoder.attention_mask,
            }
        inputs = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids
        return inputs

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Move to a device; cast the two masks to a dtype."""
        attention_mask, types = self.attention_mask.to(device), self.token_type_ids
        if dtype not in (None, attention_mask.dtype):
            # The lowest float32 is -inf in bfloat16: clamp to that type's own lowest.
            attention_mask = attention_mask.to(dtype).clamp(min=torch.finfo(dtype).min)
        return Batch(
            self.input_ids.to(device),
            self.mask.to(device, dtype or self.mask.dtype),
            attention_mask,
            self.position_ids.to(device),
            None if types is None else types.to(device),
            None if self.decoder is None else self.decoder.to(device, dtype),
        )

    def select(self, indices: Sequence[int] | Int[Tensor, " n"] | slice) -> Batch:
        """Take some of the texts, in the order given, and drop the padding that no text needs any more.

        Raises:
            ValueError: when nothing is selected.
        """
        rows = indices
        if not isinstance(indices, slice | Tensor):
            rows = torch.tensor(indices, dtype=torch.long, device=self.mask.device)
        mask = self.mask[rows]
        if len(mask) == 0:
            raise ValueError(f"indices={indices!r} select no text of this batch of {len(self)}")
        length = int(mask.long().sum(1).max())  # as integers: bfloat16 counts only to 256
        types = self.token_type_ids
        return Batch(
            self.input_ids[rows][:, :length],
            mask[:, :length],
            self.attention_mask[rows][:, :, :length, :length],
            self.position_ids[rows][:, :length],
            None if types is None else types[rows][:, :length],
            None if self.decoder is None else self.decoder.select(rows),
        )
