"""What a language model's states say of a contrast: means, probes and half-spaces from labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Bool, Float
from deltatheory._texts import check_texts
from deltatheory.backbones import Backbone
from deltatheory.control.feedback.hooks import watching

__all__ = ["Contrast", "check_causal", "check_made_for", "contrast", "fingerprint"]

_SHRINKAGE = 0.5  # of the within-class covariance, towards the isotropic one
_LEAST = 8  # texts of each label
_Z = 1.96


def fingerprint(backbone: Backbone) -> dict[str, Any]:
    """Return what a policy made for a backbone must find again: its sizes and its weights."""
    known = backbone.provenance
    weights = known.get("weights_sha256") or known.get("contents_sha256") or known.get("revision")
    return {
        "name": backbone.name,
        "hidden_size": backbone.hidden_size,
        "blocks": len(backbone.layers),
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


def check_causal(backbone: Backbone) -> None:
    """Refuse what does not generate from one stack of blocks, before anything is run.

    Raises:
        ValueError: for an encoder, an encoder-decoder, or a causal model without lm_head.
    """
    if backbone.kind != "causal" or backbone.lm_head is None:
        raise ValueError(
            f"backbone={backbone.name!r} ({backbone.kind}): policies act while a model generates; "
            "allowed are causal checkpoints with an lm_head."
        )


@dataclass(frozen=True, eq=False)
class Contrast:
    """States of texts of two kinds behind every block, and for each a linear probe that tells them apart.

    The probe w·x is linear discriminant analysis, w = Σ⁻¹(m₊ - m₋), with the within-class covariance Σ shrunk
    half way to the isotropic one. Scores count in gaps: 0 at the mean m₋ of the other texts, 1 at that of the
    target texts, whatever the block and the direction that reads them. So a strength means the same for all.

    Attributes:
        states: of the n texts that were fitted on, behind L blocks: the mean over a text's tokens, without
            the first where there are others (many models park large numbers there).
        target: which of them are of the target.
        accuracy: of each block's probe on the held-out texts.
        held_out: how many those are.
        majority: the share of their more frequent label, which no probe is better than by chance.
        texts: that were fitted on.
        model: `fingerprint` of the backbone.
    """

    states: Float[Tensor, "L n H"] = field(repr=False)
    target: Bool[Tensor, " n"] = field(repr=False)
    accuracy: list[float]
    held_out: int
    majority: float
    texts: list[str] = field(repr=False)
    model: dict[str, Any]

    @cached_property
    def means(self) -> tuple[Float[Tensor, "L H"], Float[Tensor, "L H"]]:
        """m₊ and m₋."""
        return self.states[:, self.target].mean(1), self.states[:, ~self.target].mean(1)

    @cached_property
    def probes(self) -> Float[Tensor, "L H"]:
        """The probes w, scaled to w·(m₊ - m₋) = 1: they read in gaps."""
        return _discriminants(self.states, self.target)

    def separates(self, t: int) -> bool:
        """Return whether block t's probe beats the majority label, by the low end of Wilson's interval."""
        n, p = self.held_out, self.accuracy[t]
        centre, spread = p + _Z**2 / (2 * n), _Z * sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return (centre - spread) / (1 + _Z**2 / n) > self.majority

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


def _discriminants(states: Tensor, target: Tensor) -> Float[Tensor, "L H"]:
    found = []
    for x in states.double():
        upper, lower = x[target], x[~target]
        gap = upper.mean(0) - lower.mean(0)
        deviations = torch.cat([upper - upper.mean(0), lower - lower.mean(0)])
        covariance = deviations.T @ deviations / len(x)
        size = float(covariance.diagonal().mean())
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * size * torch.eye(len(covariance)).to(x)
        w = torch.linalg.solve(covariance, gap) if size > 0 else gap  # all texts of a kind alike
        found.append(w / (w @ gap))
    return torch.stack(found).to(states.dtype)


@torch.no_grad()
def contrast(
    backbone: Backbone,
    texts: Sequence[str],
    target: Sequence[bool],
    *,
    held_out: float = 0.25,
    max_length: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> Contrast:
    """Read the states of labelled texts, fit a probe behind every block, and hold it against other texts.

    Half-spaces, setpoints and directions of `deltatheory.control.generation` are all made of what comes out.

    Args:
        backbone: causal, frozen.
        texts: of both kinds.
        target: which are what generated text should be like.
        held_out: share of either kind that is kept from the fit.
        max_length: longer texts are cut at so many tokens; by default at 64, or what the model takes.
        batch_size: of a pass.
        seed: of the draw of the held-out texts.

    Raises:
        ValueError: for a backbone that does not generate, what is no text, labels of another number or kind,
            fewer than eight texts of a kind, states that do not differ, or numbers out of range.
    """
    check_causal(backbone)
    check_texts("texts", texts)
    check_number("held_out", held_out, above=0, most=0.9)
    max_length = min(64, backbone.max_length) if max_length is None else max_length
    check_number("max_length", max_length, whole=True, least=1, most=backbone.max_length)
    check_number("batch_size", batch_size, whole=True, least=1)
    if len(target) != len(texts) or any(label not in (False, True) for label in target):
        raise ValueError(f"target: has {len(target)} labels; {len(texts)} texts need as many, True or False.")
    labels = np.array(target, dtype=bool)
    if (few := min(int(labels.sum()), int((~labels).sum()))) < _LEAST:
        raise ValueError(f"texts: one of the two kinds has {few}; at least {_LEAST} of each are needed.")
    states = _states(backbone, texts, max_length, batch_size)
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    held: list[int] = []
    for rows in (np.flatnonzero(labels), np.flatnonzero(~labels)):
        rows = rng.permutation(rows)
        count = min(max(1, round(held_out * len(rows))), len(rows) - 2)
        held += rows[:count].tolist()
        kept += rows[count:].tolist()
    fitted, marks = states[:, kept], torch.from_numpy(labels[kept]).to(states.device)
    found = Contrast(
        fitted, marks, [], len(held), _majority(labels[held]), [texts[i] for i in kept], fingerprint(backbone)
    )
    if not found.probes.isfinite().all():
        raise ValueError("texts: the states of the two kinds do not differ; give texts that do.")
    lower = found.means[1]
    scores = ((states[:, held] - lower[:, None]) @ found.probes[:, :, None])[..., 0]
    right = (scores > 0.5) == torch.from_numpy(labels[held]).to(scores.device)
    found.accuracy.extend(right.double().mean(1).tolist())
    return found


def _majority(labels: np.ndarray) -> float:
    share = float(labels.mean())
    return max(share, 1 - share)


def _states(
    backbone: Backbone, texts: Sequence[str], max_length: int, batch_size: int
) -> Float[Tensor, "L n H"]:
    """Return the mean state of every text behind every block, without its first token where it has others."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length pass together
    chunks = []
    for start in range(0, len(texts), batch_size):
        rows = order[start : start + batch_size]
        batch = backbone.encode([texts[i] for i in rows], max_length=max_length)
        mask = batch.mask.clone()
        mask[:, 0] = (mask.sum(1) == 1).to(mask)
        seen: list[Tensor] = []

        def keep(_: int, x: Tensor, __: Tensor, mask: Tensor = mask, seen: list[Tensor] = seen) -> None:
            weights = mask.to(x.dtype)[:, :, None]
            seen.append((x * weights).sum(1) / weights.sum(1))

        with watching(backbone.model, backbone.layers, keep):
            backbone.hidden_states(batch)
        chunks.append(torch.stack(seen))
    place = torch.tensor(order, device=chunks[0].device).argsort()
    return torch.cat(chunks, 1)[:, place]
