"""Prefix tuning (Li & Liang 2021): keys and values before each block's own, raw or behind a zero gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Edit
from deltatheory.backbones.edit import AddedAttention, Attend, AttentionEdit, with_prefix
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.places import EditPlace, Place
from deltatheory.deltas.prompt import start_embeddings, start_tokens

__all__ = ["GATES", "PrefixTuning"]

GATES = ("zero", "values", "none")
ATTENTIONS = ("all", "self", "cross")


class PrefixTuning(Delta):
    """attention(q, K, V) + tanh(g) · attention(q, P_K, P_V) in every block, g = δ_g and P = P₀ + δ_P.

    That is `gate="zero"`, one g a head: δ = 0 is the frozen backbone, and the Jacobian there is not zero,
    because P₀ is not (LLaMA-Adapter: Zhang et al. 2023, section 3.2). But there the gates alone move the
    outputs; with `gate="values"`, attention(q, K, V) + attention(q, P_K, δ_V), all values do, and δ = 0 is
    the frozen backbone as well (the prefix as a parallel adapter with up-projection δ_V: He et al. 2022,
    eq. 5, without its factors λ). `gate="none"` is the raw prefix
    attention(q, [P_K; K], [P_V; V]) (Li & Liang 2021, eq. 3); it has no exact zero: δ = 0 is the backbone
    with the prefix P₀. P₀ are the keys and values that the frozen blocks compute for k random words of the
    vocabulary: on the scale of the block's own, and among activations, from where prefixes train best
    (Li & Liang 2021, section 7.4).

    With `hidden`, P = P₀ + MLP(E) - MLP₀(E₀), one tanh layer for all blocks (Li & Liang 2021, section 4.3).
    E, weights and biases are their start plus δ; E₀ are the words' embeddings, weights start at variance
    1/fan-in, and what the MLP starts with is subtracted so that this form, too, starts at P₀.

    In a decoder that reads a memory there is a prefix before its own keys and one before those of the memory.

    Args:
        backbone: what it changes.
        length: k.
        gate: "zero", "values" or "none".
        blocks: block numbers; `None` for all.
        shift: count the text's positions from k, as behind k real tokens and as peft does; raw gate only. In
            an encoder-decoder the positions of the decoder.
        hidden: width of the reparametrizing MLP; `None` for P itself.
        attention: of an encoder-decoder's blocks, "self", "cross" (to the memory) or "all".
        seed: of the words, and of E's MLP.

    Attributes:
        numbers: of the attentions that have a prefix (`Backbone.attention_modules`): those of the blocks.

    Raises:
        ValueError: for a length that the backbone does not take, an unknown gate, blocks that are not there,
            "cross" where none of them reads a memory, a width below 1, or a shift of a gated prefix (its
            δ = 0 must leave the positions alone).
    """

    name: ClassVar[str] = "prefix"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "h = attention(q, K, V) + tanh(g) attention(q, P_K, P_V)"
    acts: ClassVar[str] = "attention of chosen blocks"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = (
        {"length": 4, "gate": "values"},
        {"length": 2, "blocks": [1]},
        {"length": 2, "gate": "none", "shift": True},
        {"length": 2, "hidden": 3},
    )

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: int = 20,
        gate: str = "zero",
        blocks: Sequence[int] | None = None,
        shift: bool = False,
        hidden: int | None = None,
        attention: str = "all",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        for option, value, allowed in (("gate", gate, GATES), ("attention", attention, ATTENTIONS)):
            if value not in allowed:
                raise ValueError(f"{option}={value!r}: allowed are {', '.join(allowed)}.")
        if shift and gate != "none":
            raise ValueError("shift=True: allowed with gate='none' only; a shift alone changes the backbone.")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden={hidden}: must be at least 1, or None for no MLP.")
        self.length, self.gate, self.shift, self.hidden, self.seed = length, gate, shift, hidden, seed
        self.exact_zero = gate != "none"
        self.blocks, self.attention = _checked_blocks(blocks, len(backbone.layers)), attention
        each = [backbone.attentions_of(t) for t in self.blocks]
        own, cross = [n for n, *_ in each], [n for _, *rest in each for n in rest]
        if attention == "cross" and not cross:
            raise ValueError(
                f"attention='cross': none of the chosen blocks of {backbone.name!r} ({backbone.kind}) "
                "attends to a memory, as those of a decoder behind an encoder do; allowed are 'all', 'self'."
            )
        self.numbers = tuple({"all": own + cross, "self": own, "cross": cross}[attention])
        words = start_tokens(backbone, length, seed=seed)
        self._prefix, heads = _keys_values(backbone, words, self.numbers)
        if gate == "values":
            self._prefix = {t: (key, torch.zeros_like(value)) for t, (key, value) in self._prefix.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        if hidden is None:
            for t, (key, value) in self._prefix.items():
                shapes |= {f"{t}.key": tuple(key.shape), f"{t}.value": tuple(value.shape)}
        else:
            self._mlp = self._start_of_mlp(words, hidden)
            self._mlp_at_zero = _mlp(self._mlp)
            shapes |= {name: tuple(x.shape) for name, x in self._mlp.items()}
        if gate == "zero":
            shapes |= {f"{t}.gate": (heads[t],) for t in self.numbers}
        self.coordinates = Coordinates(shapes)
        self.size = self.coordinates.size

    def _start_of_mlp(self, words: Int[Tensor, " k"], hidden: int) -> dict[str, Tensor]:
        embedding = start_embeddings(self.backbone, words)
        width = embedding.shape[1]
        out = sum(x.shape[0] * x.shape[2] for pair in self._prefix.values() for x in pair)
        generator = torch.Generator().manual_seed(self.seed)
        first = torch.randn(hidden, width, generator=generator) / math.sqrt(width)
        second = torch.randn(out, hidden, generator=generator) / math.sqrt(hidden)
        return {
            "embedding": embedding,
            "weight_1": first.to(embedding),
            "bias_1": embedding.new_zeros(hidden),
            "weight_2": second.to(embedding),
            "bias_2": embedding.new_zeros(out),
        }

    def keys_values(self, delta: Float[Tensor, " m"]) -> dict[int, tuple[Tensor, Tensor]]:
        """Return number of an attention ↦ (P_K, P_V), both (key heads, k, e), differentiable in δ."""
        pieces = self.coordinates.split(delta)
        if self.hidden is None:
            change = {t: (pieces[f"{t}.key"], pieces[f"{t}.value"]) for t in self.numbers}
        else:
            moved = _mlp({n: x.to(delta.device) + pieces[n] for n, x in self._mlp.items()})
            change = self._cut(moved - self._mlp_at_zero.to(delta.device))
        return {t: self._moved(t, *change[t]) for t in self._prefix}

    def _moved(self, t: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return (P_K, P_V) of an attention from their changes, where those are."""
        start, other = self._prefix[t]
        return start.to(key.device) + key, other.to(value.device) + value

    def _cut(self, rows: Float[Tensor, "k out"]) -> dict[int, tuple[Tensor, Tensor]]:
        """Cut the MLP's outputs into keys and values of the blocks."""
        like = [x for pair in self._prefix.values() for x in pair]
        columns = torch.split(rows, [x.shape[0] * x.shape[2] for x in like], 1)
        parts = [
            c.view(len(rows), x.shape[0], x.shape[2]).transpose(0, 1)
            for c, x in zip(columns, like, strict=True)
        ]
        return dict(zip(self.numbers, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def delta_of(
        self, keys_values: Mapping[int, tuple[Tensor, Tensor]], gates: Mapping[int, Tensor] | None = None
    ) -> Float[Tensor, " m"]:
        """Return the δ of given keys and values (and of gates g, by default 0), the inverse of `keys_values`.

        Raises:
            ValueError: for a prefix with an MLP, which has no inverse, or blocks other than the delta's.
        """
        if self.hidden is not None:
            raise ValueError(f"hidden={self.hidden}: keys and values have no δ of their own behind an MLP.")
        if set(keys_values) != set(self.numbers):
            raise ValueError(f"keys_values has blocks {sorted(keys_values)}: allowed are {self.numbers}.")
        start = self.coordinates.split(self.initial())
        change = {**start, **{f"{t}.gate": g for t, g in (gates or {}).items()}}
        for t, (key, value) in self._prefix.items():
            change[f"{t}.key"], change[f"{t}.value"] = keys_values[t][0] - key, keys_values[t][1] - value
        return self.coordinates.join(change)

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Let every chosen block attend to its prefix."""
        pieces = self.coordinates.split(delta)
        attention = {
            t: self._change(t, key, value, pieces.get(f"{t}.gate"))
            for t, (key, value) in self.keys_values(delta).items()
        }
        return Edit(attention=attention, shift=self.length if self.shift else 0)

    def _change(self, t: int, key: Tensor, value: Tensor, gate: Tensor | None) -> AttentionEdit:
        if self.gate == "none":
            return with_prefix(key, value, self.backbone.scores_before(t, self.shift))
        return _beside(key, value, torch.ones_like(value[:1, 0, 0]) if gate is None else torch.tanh(gate))

    def tangent_places(self) -> list[Place] | None:
        """Return the blocks one by one, all as one behind an MLP, `None` for a prefix that acts at δ = 0."""
        if self.gate == "none":
            return None
        if self.hidden is not None:
            return [EditPlace(self.edit, self.size)]
        return [self._place(t) for t in self.numbers]

    def _place(self, t: int) -> EditPlace:
        named = {f"{t}.{part}": part for part in ("key", "value", "gate")}
        own = Coordinates(
            {part: self.coordinates.shapes[n] for n, part in named.items() if n in self.coordinates.shapes}
        )

        def edit(d: Tensor) -> Edit:
            at = own.split(d)
            return Edit(
                attention={t: self._change(t, *self._moved(t, at["key"], at["value"]), at.get("gate"))}
            )

        return EditPlace(edit, own.size)

    def specification(self) -> dict:
        """Length, gate, blocks, shift, hidden width and seed, and which attentions where not all."""
        return {
            "delta": self.name,
            "length": self.length,
            "gate": self.gate,
            "blocks": list(self.blocks),
            "shift": self.shift,
            "hidden": self.hidden,
            **({} if self.attention == "all" else {"attention": self.attention}),
            "seed": self.seed,
        }


def _checked_blocks(blocks: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count) if blocks is None else blocks)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= t < count for t in chosen):
        raise ValueError(f"blocks={blocks!r}: give distinct numbers in 0..{count - 1}, at least one.")
    return tuple(sorted(chosen))


@torch.no_grad()
def _keys_values(
    backbone: Backbone, words: Int[Tensor, " k"], numbers: Sequence[int]
) -> tuple[dict[int, tuple[Tensor, Tensor]], dict[int, int]]:
    """Return the keys and values, (key heads, k, e) each, that frozen attentions get for words, and heads.

    A decoder reads the words as its answer to them.
    """
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    heads: dict[int, int] = {}

    def watch(t: int) -> AttentionEdit:
        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            own = (x[0].to(backbone.device, backbone.wide_dtype) for x in (k, v))
            key, value = (x.clone(memory_format=torch.contiguous_format) for x in own)
            seen[t], heads[t] = (key, value), q.shape[1]
            return attend(q, k, v, mask)

        return change

    real = torch.ones(1, len(words), dtype=backbone.dtype)
    batch = backbone.batch(words[None], real, answers=(words[None], real))
    backbone.hidden_states(batch, Edit(attention={t: watch(t) for t in numbers}))
    return {t: seen[t] for t in numbers}, heads


def _mlp(pieces: Mapping[str, Tensor]) -> Float[Tensor, "k out"]:
    inner = torch.tanh(F.linear(pieces["embedding"], pieces["weight_1"], pieces["bias_1"]))
    return F.linear(inner, pieces["weight_2"], pieces["bias_2"])


def _beside(key: Tensor, value: Tensor, factor: Tensor) -> AttentionEdit:
    """Return attention(q, K, V) + factor · attention(q, P_K, P_V), one factor a head or one for all."""
    return AddedAttention(partial(_attention_to_prefix, key, value, factor))


def _attention_to_prefix(
    key: Tensor, value: Tensor, factor: Tensor, attend: Attend, q: Tensor, k: Tensor, _v: Tensor, mask: Tensor
) -> Tensor:
    own_k, own_v = (x.to(k.dtype).expand(len(k), -1, -1, -1) for x in (key, value))
    open_mask = mask.new_zeros(*mask.shape[:-1], key.shape[1])
    return factor[:, None] * attend(q, own_k, own_v, open_mask)
