"""Texts that grow token by token, with the keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.backbones.backbone import Backbone
from deltatheory.backbones.batch import Batch, pool, read_position
from deltatheory.backbones.edit import Edit

__all__ = ["CachedTexts", "RereadTexts"]


class CachedTexts:
    """Texts read by a causal model: another token costs its own pass alone, not one over the whole text.

    In an encoder-decoder it is the answers that grow: the encoder runs once, and the keys and values that the
    decoder takes from its states are computed once.

    What an edit does stays true for tokens that are kept, since it is the same for all of them: prompts are
    read once, prefixes are seen by every query, positions go on behind the last real token.

    Args:
        backbone: causal, or an encoder-decoder.
        batch: the texts, padded on the right.
        edit: what the passes do differently.

    Attributes:
        last: the last hidden state behind the newest token of every text.
    """

    last: Float[Tensor, "B O"]

    def __init__(self, backbone: Backbone, batch: Batch, edit: Edit) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        prompt = 0 if edit.prompt is None else edit.prompt.shape[-2]
        self._backbone, self._edit = backbone, replace(edit, prompt=None)
        self._source = backbone.prompted(batch, prompt) if prompt else batch
        self._cache: Any = DynamicCache()
        self._memory = None
        if batch.decoder is not None:
            self._cache = EncoderDecoderCache(self._cache, DynamicCache())
            self._memory = backbone.memory(batch, edit)
            batch, edit = self._source, self._edit
        self._keys = self._source.final.mask.bool()
        self._position = self._keys.sum(1)
        self.last = pool(self._states(batch, edit), batch.final.mask, "last")

    def _states(self, batch: Batch, edit: Edit) -> Float[Tensor, "B T O"]:
        kept = {"cache": self._cache, "memory": self._memory}
        return self._backbone.hidden_states(batch, edit, **kept)

    def read(self, tokens: Int[Tensor, " B"]) -> None:
        """Append a token to every text."""
        one = torch.ones_like(self._keys[:, :1])
        self._keys = torch.cat([self._keys, one], 1)
        dtype = self._backbone.dtype
        hidden_keys = torch.zeros(self._keys.shape, dtype=dtype, device=one.device)
        hidden_keys = hidden_keys.masked_fill(~self._keys, torch.finfo(dtype).min)[:, None, None]
        newest = Batch(tokens[:, None], one.to(dtype), hidden_keys, self._position[:, None])
        if self._memory is not None:
            newest = replace(self._source, decoder=newest)
        self._position = self._position + 1
        self.last = self._states(newest, self._edit)[:, 0]

    def newest(self, t: int) -> tuple[Float[Tensor, "B h e"], Float[Tensor, "B h e"]]:
        """Return the keys and values that block t keeps of each text's newest token.

        A block of a decoder keeps those of an encoder's tokens, whose newest is the text's last.
        """
        layer, place = self._kept_of_texts(t)
        return layer.keys[place], layer.values[place]

    def shift(self, t: int, key: Float[Tensor, "h e"], value: Float[Tensor, "h e"]) -> None:
        """Add to what `newest` returns, for good."""
        layer, place = self._kept_of_texts(t)
        layer.keys[place] += key.to(layer.keys)
        layer.values[place] += value.to(layer.values)

    def _kept_of_texts(self, t: int) -> tuple[Any, tuple[Tensor, slice, Tensor]]:
        layers, real = self._cache, self._keys
        if self._memory is not None:
            layers, real = self._cache.cross_attention_cache, self._source.mask
        ends = read_position(real.to(self.last), "last")
        layer = layers.layers[t - self._backbone.encoder_blocks]
        return layer, (torch.arange(len(ends)), slice(None), ends)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the texts."""
        chosen = torch.tensor(rows, device=self._keys.device)
        self._cache.batch_select_indices(chosen)
        self._keys, self._position, self.last = (x[chosen] for x in (self._keys, self._position, self.last))
        if self._memory is not None:  # with its padding, which keys and values have too
            self._memory = self._memory[chosen]
            self._source = self._source.rows(chosen)


class RereadTexts:
    """Texts read without a cache: another token costs a pass over the whole text, and over its answer.

    Args:
        backbone: causal, or an encoder-decoder.
        batch: the texts, padded on the right.
        edit: what the passes do differently.

    Attributes:
        last: as in `CachedTexts`.
    """

    last: Float[Tensor, "B O"]

    def __init__(self, backbone: Backbone, batch: Batch, edit: Edit) -> None:
        self._backbone, self._edit, self._source = backbone, edit, batch
        self._ids, self._mask = batch.final.input_ids, batch.final.mask  # what grows
        self._run()

    def _run(self) -> None:
        read, source = (self._ids, self._mask), self._source
        if source.decoder is None:
            batch = self._backbone.batch(*read)
        else:
            batch = self._backbone.batch(source.input_ids, source.mask, answers=read)
        self.last = pool(self._backbone.hidden_states(batch, self._edit), self._mask, "last")

    def read(self, tokens: Int[Tensor, " B"]) -> None:
        """Append a token to every text."""
        ends = self._mask.long().sum(1)[:, None]
        self._ids = F.pad(self._ids, (0, 1)).scatter(1, ends, tokens[:, None])
        self._mask = F.pad(self._mask, (0, 1)).scatter(1, ends, 1.0)
        self._run()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the texts."""
        chosen = torch.tensor(rows, device=self._ids.device)
        self._ids, self._mask, self.last = (x[chosen] for x in (self._ids, self._mask, self.last))
        self._source = self._source.rows(chosen)
