"""What a language model's states say of a contrast: means, probes and half-spaces from labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Bool, Float
from deltatheory._texts import check_texts
from deltatheory.backbones import Backbone, Batch
from deltatheory.control.feedback.hooks import watching
from deltatheory.control.generation.policies import Tokens, blocks_of
from deltatheory.problems.folds import folds
from deltatheory.problems.tokens import batch_of
from deltatheory.results import wilson

__all__ = ["Contrast", "check_generates", "check_made_for", "contrast", "fingerprint", "read_texts"]

_SHRINKAGE = 0.9  # of the within-class covariance, towards its diagonal: some coordinates are far larger
_FLOOR = 1e-6  # of a variance, beside the mean one
_ROUNDING = 1e-6  # of a mean: states of equal texts in batches of other shapes differ by less
_LEAST = 4  # texts of each kind
_FOLDS = 4


def fingerprint(backbone: Backbone) -> dict[str, Any]:
    """Return what a policy made for a backbone must find again: its sizes and its weights."""
    known = backbone.provenance
    weights = known.get("weights_sha256") or known.get("contents_sha256") or known.get("revision")
    encoder = {"encoder_blocks": backbone.encoder_blocks} if backbone.kind == "encoder-decoder" else {}
    return {
        "name": backbone.name,
        "hidden_size": backbone.hidden_size,
        "blocks": len(backbone.layers),
        **encoder,
        "weights": weights,
    }


def check_made_for(made: Mapping[str, Any], backbone: Backbone) -> None:
    """Refuse a backbone of other sizes or weights than those that something was made for.

    Raises:
        ValueError: that says in what they differ.
    """
    here = fingerprint(backbone)
    for name in ("hidden_size", "blocks", "weights"):
        if here[name] != made.get(name):
            raise ValueError(
                f"backbone={backbone.name!r}: the policy was made for {made.get('name')!r} with "
                f"{name}={made.get(name)}, and here it is {here[name]}; make it anew from labelled texts."
            )


def check_generates(backbone: Backbone) -> None:
    """Refuse what does not generate, before anything is run.

    Raises:
        ValueError: for an encoder, a model without lm_head, or one that is spread over devices.
    """
    if backbone.kind == "encoder" or backbone.lm_head is None:
        raise ValueError(
            f"backbone={backbone.name!r} ({backbone.kind}): policies act while a model generates; "
            "allowed are causal checkpoints and encoder-decoders with an lm_head."
        )
    backbone.check_on_one_device("generation")


@dataclass(frozen=True, eq=False)
class Contrast:
    """States of texts of two kinds behind every block, and for each a linear probe that tells them apart.

    The probe w·x is linear discriminant analysis, w = Σ⁻¹(m₊ - m₋), with the within-class covariance Σ
    shrunk by nine tenths to its diagonal. Scores count in gaps: 0 at the mean m₋ of the other texts, 1 at
    that of the target texts, whatever the block and the direction that reads them. So a strength means the
    same for all.

    Attributes:
        states: of the n texts behind L blocks: the mean over a text's tokens, without the first where there
            are others (many models park large numbers there). The decoder of an encoder-decoder says the text
            that the encoder has read; its start is left out.
        target: which of the texts are of the target.
        upper: m₊ of every block.
        lower: m₋.
        probes: w, scaled to w·(m₊ - m₋) = 1: they read in gaps.
        accuracy: of each block's probe on texts that it was not fitted on, each text held out once.
        majority: the share of the texts' more frequent kind, which no probe is better than by chance.
        texts: that were read.
        model: `fingerprint` of the backbone.
    """

    states: Float[Tensor, "L n H"] = field(repr=False)
    target: Bool[Tensor, " n"] = field(repr=False)
    upper: Float[Tensor, "L H"] = field(repr=False)
    lower: Float[Tensor, "L H"] = field(repr=False)
    probes: Float[Tensor, "L H"] = field(repr=False)
    accuracy: list[float]
    majority: float
    texts: list[str] = field(repr=False)
    model: dict[str, Any]

    @property
    def held_out(self) -> int:
        """How many held-out texts an accuracy is of."""
        return len(self.texts)

    def separates(self, t: int) -> bool:
        """Return whether block t's probe beats the majority: the low end of Wilson's 95 % interval does."""
        right = round(self.accuracy[t] * self.held_out)
        return wilson(right, self.held_out)[0] > self.majority

    def default_layers(self, tokens: Tokens = "last") -> tuple[int, ...]:
        """Return where policies act if nothing else is said: of the third of the blocks that begins half way
        those whose probes separate the texts, or where none does, of all blocks.

        Args:
            tokens: that are moved; in an encoder-decoder the blocks are those of the encoder for "prompt",
                else the decoder's.

        Raises:
            ValueError: where no block's does.
        """
        blocks = blocks_of(self.model, "answer" if tokens == "all" else tokens)
        good = [t for t in blocks if self.separates(t)]
        middle = blocks[len(blocks) // 2]
        chosen = [t for t in good if middle <= t < middle + max(1, len(blocks) // 3)] or good
        if not chosen:
            self.check_separates(blocks)
        return tuple(chosen)

    def check_separates(self, layers: Sequence[int]) -> None:
        """Refuse blocks whose probes do not separate the texts.

        Raises:
            ValueError: with the first of them, its held-out accuracy and which blocks separate.
        """
        for t in layers:
            check_number("layer", t, whole=True, least=0, most=len(self.accuracy) - 1)
            if not self.separates(t):
                good = [str(k) for k in range(len(self.accuracy)) if self.separates(k)]
                there = (
                    f"those of {', '.join(good)} do" if good else "no block's does; give more or other texts"
                )
                raise ValueError(
                    f"layer={t}: its probe does not separate the texts (held-out accuracy "
                    f"{self.accuracy[t]:.2f} of {self.held_out}, majority {self.majority:.2f}); {there}."
                )


def _fitted(states: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return m₊, m₋ and the probes."""
    uppers, lowers, probes = [], [], []
    for x in states:
        kinds = x[target].double(), x[~target].double()
        upper, lower = (one.mean(0) for one in kinds)
        deviations = torch.cat([one - one.mean(0) for one in kinds])
        covariance = deviations.T @ deviations / len(x)
        size, gap = covariance.diagonal(), upper - lower
        covariance = (1 - _SHRINKAGE) * covariance + torch.diag(_SHRINKAGE * size + _FLOOR * size.mean())
        w = torch.linalg.solve(covariance, gap) if size.any() else gap  # all texts of a kind alike
        if not float(gap.norm()) > _ROUNDING * float(upper.norm() + lower.norm()) or not float(w @ gap) > 0:
            raise ValueError("texts: the states of the two kinds do not differ; give texts that do.")
        uppers, lowers, probes = [*uppers, upper], [*lowers, lower], [*probes, w / (w @ gap)]
    upper, lower, probe = (torch.stack(part).to(states.dtype) for part in (uppers, lowers, probes))
    return upper, lower, probe


@torch.no_grad()
def contrast(
    backbone: Backbone,
    texts: Sequence[str],
    target: Sequence[bool],
    *,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> Contrast:
    """Read the states of labelled texts, fit a probe behind every block, and try it on texts it has not seen.

    Half-spaces, setpoints and directions of `deltatheory.control.generation` are all made of what comes out.

    Args:
        backbone: causal or an encoder-decoder, frozen.
        texts: of both kinds.
        target: which are what generated text should be like.
        max_length: longer texts are cut at so many tokens; by default at 64, or what the model takes.
        batch_size: of a pass.
        seed: of the draw of the folds.

    Raises:
        ValueError: for a backbone that does not generate, what is no text, labels of another number or kind,
            fewer than four texts of a kind, states that do not differ, or numbers out of range.
    """
    check_generates(backbone)
    check_texts("texts", texts)
    max_length = min(64, backbone.max_length) if max_length is None else max_length
    check_number("max_length", max_length, whole=True, least=1, most=backbone.max_length)
    check_number("batch_size", batch_size, whole=True, least=1)
    if len(target) != len(texts) or any(label not in (False, True) for label in target):
        raise ValueError(f"target: has {len(target)} labels; {len(texts)} texts need as many, True or False.")
    labels = np.array(target, dtype=bool)
    if (few := min(int(labels.sum()), int((~labels).sum()))) < _LEAST:
        raise ValueError(f"texts: one of the two kinds has {few}; at least {_LEAST} of each are needed.")
    states = _states(backbone, texts, max_length, batch_size)
    order = np.argsort(np.random.default_rng(seed).random(len(labels)) + labels, kind="stable")
    marks, right = torch.from_numpy(labels).to(states.device), []
    for kept, held in folds(len(order), _FOLDS):
        fitted, unseen = order[kept], order[held]
        _, lower, probes = _fitted(states[:, fitted], marks[fitted])
        scores = ((states[:, unseen] - lower[:, None]) @ probes[:, :, None])[..., 0]
        right.append((scores > 0.5) == marks[unseen])
    accuracy = torch.cat(right, 1).double().mean(1).tolist()
    share = float(labels.mean())
    return Contrast(
        states,
        marks,
        *_fitted(states, marks),
        accuracy,
        max(share, 1 - share),
        list(texts),
        fingerprint(backbone),
    )


def _states(
    backbone: Backbone, texts: Sequence[str], max_length: int, batch_size: int
) -> Float[Tensor, "L n H"]:
    """Return the mean state of every text behind every block, without its first token where it has others."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length pass together
    chunks = []
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        seen: list[Tensor] = []
        with watching(backbone.model, backbone.layers, partial(_keep, backbone, seen)):
            backbone.hidden_states(read_texts(backbone, [texts[i] for i in rows], max_length))
        chunks.append(torch.stack(seen))
    place = torch.tensor(order, device=chunks[0].device).argsort()
    return torch.cat(chunks, 1)[:, place]


def _keep(backbone: Backbone, seen: list[Tensor], t: int, x: Tensor, mask: Tensor) -> None:
    first = len(backbone.start) if backbone.encoder_blocks and t >= backbone.encoder_blocks else 1
    alone = mask[:, first:].sum(1, keepdim=True) == 0
    weights = torch.cat([mask[:, :first] * alone, mask[:, first:]], 1)[:, :, None]
    seen.append((x * weights).sum(1) / weights.sum(1))


def read_texts(backbone: Backbone, texts: Sequence[str], max_length: int) -> Batch:
    """Return texts as their states are read: an encoder-decoder reads them and says them again.

    Args:
        backbone: causal or an encoder-decoder.
        texts: at least one.
        max_length: longer ones are cut.
    """
    if backbone.kind == "causal":
        return backbone.encode(texts, max_length=max_length)
    room = min(max_length, backbone.max_length - len(backbone.start))
    read, said = (
        backbone.tokenizer(list(texts), truncation=True, max_length=most, add_special_tokens=marks)
        for most, marks in ((max_length, True), (room, False))
    )
    answers = [[*backbone.start, *row] for row in said["input_ids"]]
    return batch_of(backbone, read["input_ids"], answers=answers)
