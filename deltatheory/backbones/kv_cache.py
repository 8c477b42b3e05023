"""Texts that grow token by token, with the keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.backbones.backbone import Backbone
from deltatheory.backbones.batch import Batch, pool
from deltatheory.backbones.edit import Edit

__all__ = ["CachedTexts"]


class CachedTexts:
    """Texts read by a causal model: another token costs its own pass alone, not one over the whole text.

    What an edit does stays true for tokens that are kept, since it is the same for all of them: prompts are
    read once, prefixes are seen by every query, positions go on behind the last real token.

    Args:
        backbone: causal.
        batch: the texts, padded on the right.
        edit: what the passes do differently.

    Attributes:
        last: the last hidden state behind the newest token of every text.
    """

    last: Float[Tensor, "B O"]

    def __init__(self, backbone: Backbone, batch: Batch, edit: Edit) -> None:
        from transformers import DynamicCache

        prompt = 0 if edit.prompt is None else len(edit.prompt)
        self._backbone, self._edit, self._cache = backbone, replace(edit, prompt=None), DynamicCache()
        self._keys = (backbone.prompted(batch, prompt) if prompt else batch).mask.bool()
        self._position = self._keys.sum(1)
        self.last = pool(backbone.hidden_states(batch, edit, cache=self._cache), batch.mask, "last")

    def read(self, tokens: Int[Tensor, " B"]) -> None:
        """Append a token to every text."""
        one = torch.ones_like(self._keys[:, :1])
        self._keys = torch.cat([self._keys, one], 1)
        dtype = self._backbone.dtype
        hidden_keys = torch.zeros(self._keys.shape, dtype=dtype, device=one.device)
        hidden_keys = hidden_keys.masked_fill(~self._keys, torch.finfo(dtype).min)[:, None, None]
        newest = Batch(tokens[:, None], one.to(dtype), hidden_keys, self._position[:, None])
        self._position = self._position + 1
        self.last = self._backbone.hidden_states(newest, self._edit, cache=self._cache)[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the texts."""
        chosen = torch.tensor(rows, device=self._keys.device)
        self._cache.batch_select_indices(chosen)
        self._keys, self._position, self.last = (x[chosen] for x in (self._keys, self._position, self.last))
