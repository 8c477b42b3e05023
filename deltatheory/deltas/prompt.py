"""Prompt tuning (Lester et al. 2021): virtual tokens before the word embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["PromptTuning", "check_length", "ordinary_tokens", "start_embeddings", "start_tokens"]


def check_length(backbone: Backbone, length: int) -> None:
    """Check that k virtual tokens leave room for one token of text.

    Raises:
        ValueError: if they do not, or for k below 1.
    """
    if not 1 <= length < backbone.max_length:
        raise ValueError(
            f"length={length}: must lie in 1..{backbone.max_length - 1}, "
            f"which leaves {backbone.name!r} room for one token of text."
        )


def start_tokens(
    backbone: Backbone, length: int, start: str | None = None, seed: int = 0
) -> Int[Tensor, " k"]:
    """Return the k tokens that virtual tokens start from.

    Args:
        backbone: whose tokenizer and vocabulary.
        length: k.
        start: a text, repeated or cut to k tokens; `None` draws from the vocabulary without special tokens.
        seed: of the draw.

    Raises:
        ValueError: for a length that the backbone does not take, or a start without a token.
    """
    check_length(backbone, length)
    tokenizer = backbone.tokenizer
    if start is not None:
        words = tokenizer(start, add_special_tokens=False)["input_ids"]
        if not words:
            raise ValueError(f"start={start!r}: gives no token; write a word, or leave it out.")
        return torch.tensor([words[i % len(words)] for i in range(length)])
    allowed = ordinary_tokens(backbone)
    generator = torch.Generator().manual_seed(seed)
    return allowed[torch.randint(len(allowed), (length,), generator=generator)]


def ordinary_tokens(backbone: Backbone) -> Int[Tensor, " n"]:
    """Return the tokens of the vocabulary that are no special ones, ascending."""
    # Rows beyond the tokenizer pad the table to a round size and were never trained.
    rows = min(len(backbone.tokenizer), _words(backbone).num_embeddings)
    special = set(backbone.tokenizer.all_special_ids)
    return torch.tensor([i for i in range(rows) if i not in special])


@torch.no_grad()
def start_embeddings(backbone: Backbone, tokens: Int[Tensor, " k"]) -> Float[Tensor, "k H"]:
    """Return the word embeddings of tokens, as the model computes them, in the type of δ."""
    return _words(backbone)(tokens.to(backbone.device)).to(backbone.wide_dtype)


def _words(backbone: Backbone) -> Any:
    model: Any = backbone.model
    words = model.get_input_embeddings()
    if not hasattr(words, "num_embeddings"):
        raise ValueError(f"{backbone.name!r} has no table of word embeddings, where words are drawn from.")
    return words


class PromptTuning(Delta):
    """x_0 = [e₀ + δ; e(text)], k virtual tokens before the word embeddings (Lester et al. 2021, section 2).

    No δ takes the virtual tokens out of attention's denominators, so there is no exact zero: δ = 0 is the
    frozen backbone that reads the start e₀ before each text. The start is words, because random vectors off
    the vocabulary train badly (Lester et al. 2021, figure 3b). Where the backbone normalizes its embeddings
    (BERT), x_0 is not affine in δ.

    Args:
        backbone: what it changes.
        length: k.
        start: text whose tokens are e₀, repeated or cut to k; `None` draws k words of the vocabulary.
        seed: of that draw.

    Raises:
        ValueError: for a length that the backbone does not take, or a start without a token.
    """

    name: ClassVar[str] = "prompt"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "x_0 = [e₀ + δ; e(text)]"
    acts: ClassVar[str] = "virtual tokens before the word embeddings"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"length": 4},)
    exact_zero: bool = False

    def __init__(
        self, backbone: Backbone, *, length: int = 20, start: str | None = None, seed: int = 0
    ) -> None:
        super().__init__(backbone)
        self.length, self.start, self.seed = length, start, seed
        self._start = start_embeddings(backbone, start_tokens(backbone, length, start, seed))
        self.coordinates = Coordinates({"prompt": tuple(self._start.shape)})
        self.size = self.coordinates.size

    def prompt(self, delta: Float[Tensor, " m"]) -> Float[Tensor, "k H"]:
        """Return e₀ + δ."""
        return self._start + self.coordinates.split(delta)["prompt"]

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Put the prompt before the text."""
        return Edit(prompt=self.prompt(delta))

    def specification(self) -> dict:
        """Length, start and seed."""
        return {"delta": self.name, "length": self.length, "start": self.start, "seed": self.seed}
