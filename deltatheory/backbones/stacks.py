"""Where the blocks of a model lie, and their attentions: of one stack, or of an encoder and its decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float, Int
from deltatheory.autodiff import functional_call
from deltatheory.backbones.batch import Batch
from deltatheory.backbones.families import Family, Part, family_of

__all__ = ["Stacks"]


class Stacks:
    """Numbers and names of the blocks of a `transformers` base model, and of their attentions.

    The blocks of an encoder-decoder are numbered through, those of the decoder behind those of the encoder.
    The attention of a block to its own tokens has its number; the attentions of the decoder's blocks to the
    encoder's states, the memory, have the numbers behind all blocks.

    Attributes:
        model: the base model.
        name: of it, for messages.
    """

    model: nn.Module
    name: str
    _family: Family
    _stacks: tuple[Family, ...]

    def _find_stacks(self) -> None:
        self._family = family_of(self.model.config)
        decoder = self._family.decoder
        self._stacks = (self._family,) if decoder is None else (self._family, decoder)

    @property
    def device(self) -> torch.device:
        """Where batches, δ and heads are: with the embeddings, where a `device_map` has spread the blocks."""
        return next(self.model.parameters()).device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the weights are, `device` first."""
        return tuple(dict.fromkeys(p.device for p in self.model.parameters()))

    def check_on_one_device(self, what: str) -> None:
        """Refuse what cannot be done on a model that is spread over devices.

        Raises:
            ValueError: if it is.
        """
        if len(self.devices) > 1:
            raise ValueError(
                f"{what}: not supported on {self.name!r}, which its device_map has spread over "
                f"{', '.join(map(str, self.devices))}; load it on one device. On several there are kernels, "
                "dimension by method='predict', advise, and logits and training of a δ that is no subspace"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.model.parameters()).dtype

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, one per time step; those of an encoder before those of its decoder."""
        stacks = [cast(nn.ModuleList, attrgetter(stack.layers)(self.model)) for stack in self._stacks]
        return stacks[0] if len(stacks) == 1 else nn.ModuleList([*stacks[0], *stacks[1]])

    @property
    def encoder_blocks(self) -> int:
        """How many blocks come before the decoder of an encoder-decoder."""
        return len(attrgetter(self._family.layers)(self.model)) if len(self._stacks) > 1 else 0

    @property
    def words(self) -> str:
        """The name of the module that turns the texts' token numbers into embeddings."""
        if len(self._stacks) > 1:  # each stack has one of its own, on the weight of `get_input_embeddings()`
            return f"{self._family.layers.partition('.')[0]}.embed_tokens"
        own = cast(Any, self.model).get_input_embeddings()
        return next(name for name, module in self.model.named_modules() if module is own)

    def real_at(self, name: str, batch: Batch) -> Float[Tensor, "B T"]:
        """Return which of the tokens that a module gets are real: those of the texts, or of a decoder."""
        t = self.block_of(name)
        if batch.decoder is None or t is None or t < self.encoder_blocks:
            return batch.mask
        cross = self.attentions_of(t)[1:]
        of_memory = name in {self.module_name(n, part) for n in cross for part in ("key", "value")}
        return batch.mask if of_memory else batch.decoder.mask

    def own_tokens(self, t: int, batch: Batch) -> tuple[slice, Float[Tensor, "B T"]]:
        """Return where the tokens that block t moves stand in a state x_t, and which of them are real."""
        if batch.decoder is None:
            return slice(None), batch.mask
        first = batch.mask.shape[1]
        if t < self.encoder_blocks:
            return slice(first), batch.mask
        return slice(first, None), batch.decoder.mask

    @property
    def within(self) -> str:
        """What stands before the names of its modules in a language model of `transformers` ("model.")."""
        return "" if self._family.bare else f"{cast(Any, self.model).base_model_prefix}."

    def _address(self, number: int) -> tuple[Family, int, bool]:
        """Return the stack of a block or an attention, its number there, and whether it reads the memory."""
        first, blocks = self.encoder_blocks, len(self.layers)
        if number < first or len(self._stacks) == 1:
            return self._family, number, False
        return self._stacks[1], number - (first if number < blocks else blocks), number >= blocks

    def module_name(self, t: int, part: Part) -> str:
        """Return the name, in the model, of a part of block t, or of attention t (`attention_modules`).

        Raises:
            ValueError: for a part that this architecture fuses with others (GPT-2's query, key and value).
        """
        family, block, cross = self._address(t)
        name = family.part(part)
        if not name:
            raise ValueError(f"part={part!r}: {self.name!r} has no such module of its own in its blocks.")
        if cross:
            name = family.cross_attention + name.removeprefix(family.attention)
        return f"{family.layers}.{block}.{name}"

    def module_names(self, t: int, part: Part) -> list[str]:
        """Return the names of the modules that are a part of block t: two where it attends to a memory."""
        numbers = [t] if part in ("ffn_in", "ffn_out") else self.attentions_of(t)
        return [self.module_name(number, part) for number in numbers]

    def attentions_of(self, t: int) -> list[int]:
        """Return the numbers of the attentions in block t, its own and, in a decoder, that to the memory."""
        first = self.encoder_blocks
        return [t, t - first + len(self.layers)] if len(self._stacks) > 1 and t >= first else [t]

    def block_of_attention(self, number: int) -> int:
        """Return the number of the block that an attention lies in: the inverse of `attentions_of`."""
        _, place, cross = self._address(number)
        return self.encoder_blocks + place if cross else number

    def block_of(self, name: str) -> int | None:
        """Return the number of the block that a module or parameter of the model lies in, if it does.

        The last normalisation of an encoder with a decoder behind it counts to its last block.
        """
        for first, stack in zip((0, self.encoder_blocks), self._stacks, strict=False):
            start = f"{stack.layers}."
            if name.startswith(start):
                return first + int(name[len(start) :].partition(".")[0])
        if len(self._stacks) > 1 and self._family.norm and name.startswith(self._family.norm):
            return self.encoder_blocks - 1
        return None

    @property
    def attention_modules(self) -> dict[int, nn.Module]:
        """The attention module of every block by its number; behind them a decoder's to the memory."""
        blocks = list(self.layers)
        modules = {t: attrgetter(self._address(t)[0].attention)(layer) for t, layer in enumerate(blocks)}
        for t, layer in enumerate(blocks):
            for number in self.attentions_of(t)[1:]:
                modules[number] = attrgetter(self._stacks[1].cross_attention)(layer)
        return modules

    def position_table(self, t: int) -> str:
        """Return the name of the embedding of relative positions that block t adds to its scores, or ""."""
        stack, _, cross = self._address(t)
        return "" if cross else stack.position_bias

    def relative_positions(self, t: int, queries: int, keys: int) -> Int[Tensor, "queries keys"]:
        """Return which entry of `position_table(t)` is that of each query, the last of the keys, and key."""
        attention: Any = self.model.get_submodule(self.position_table(t).rpartition(".")[0])
        there = torch.arange(keys, device=attention.relative_attention_bias.weight.device)
        return attention._relative_position_bucket(
            there[None] - there[keys - queries :, None],
            bidirectional=not attention.is_decoder,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )

    def position_scores(
        self, t: int, queries: int, keys: int, parameters: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "1 heads queries keys"]:
        """Return what relative positions add to the scores of block t.

        Arguments:
            t: a block, or an attention, with a `position_table`.
            queries: how many, the last of the keys.
            keys: how many.
            parameters: as in `hidden_states`.
        """
        name = self.position_table(t)
        weight = (parameters or {}).get(f"{name}.weight")
        new = {} if weight is None else {"weight": weight}
        places = self.relative_positions(t, queries, keys)
        values = functional_call(self.model.get_submodule(name), new, (places,))
        return values.to(self.dtype).permute(2, 0, 1)[None]

    @property
    def cached_attentions(self) -> range:
        """The numbers of the attentions to a model's own earlier tokens: a decoder's, or those of all."""
        return range(self.encoder_blocks, len(self.layers))

    def scores_before(self, t: int, shift: bool) -> Callable[[int, int], Tensor] | None:
        """Return (queries, keys) ↦ `position_scores`, where a prefix of attention t is to have them.

        That is behind a shift, in a decoder's attention to its own tokens.
        """
        moved = shift and t >= self.encoder_blocks and self.position_table(t)
        return partial(self.position_scores, t) if moved else None
