"""Searches for k tokens before a text that make its target come first, one prompt for each text.

Vectors are found by gradient ascent, words by greedy swaps; both stop for a text as soon as its target comes
first. Every text counts for itself: what is found does not depend on which others are searched at once. A
prompt stands before all tokens of the text, marks of the tokenizer among them, so keys and values of the text
change with it and none can be kept from one trial to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.backbones.edit import with_prefix
from deltatheory.control.reach.question import Question, margins
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.deltas.prompt import start_embeddings, start_tokens
from deltatheory.problems import FORWARD

__all__ = [
    "Found",
    "PromptSearch",
    "draw_words",
    "find_vectors",
    "prompt_start",
    "repeat_target",
    "swap_words",
]

_CLOUD = 32  # words whose keys and values say how long those of a prefix may be
_ROWS = 64  # prompts of words that pass at once


@dataclass(frozen=True)
class PromptSearch:
    """How much is searched for one text at one length.

    Vectors: Adam on the cross-entropy of the target. Those of a prompt stay as short as the longest word
    embedding; those of a prefix as short as the longest key (value) of random words in the same head.

    Words: the greedy coordinate gradient (Zou et al. 2023). In each round the gradient of the loss with
    respect to one-hot words ranks them at every place, some of the swaps that it ranks first are tried, and
    the best is taken if it lowers the loss. The words of the next smaller length are kept; the first round
    then fills the new places before them alone, as in greedy back-generation (Bhargava et al. 2023).

    Attributes:
        margin: by how much the target's logit must exceed all others.
        steps: of Adam, per restart.
        rate: its learning rate, in root mean squares of what the prompt starts from.
        restarts: of Adam, from other random words.
        rounds: of swaps.
        candidates: swaps tried in a round.
        pool: words that the gradient ranks first at a place, of which these are drawn.
        chunk: texts that are searched at once.
    """

    margin: float = 0.0
    steps: int = 30
    rate: float = 0.3
    restarts: int = 1
    rounds: int = 6
    candidates: int = 16
    pool: int = 64
    chunk: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "rounds", "candidates", "pool", "chunk"):
            check_number(name, getattr(self, name), whole=True, above=0)
        check_number("rate", self.rate, above=0)
        check_number("margin", self.margin)

    @property
    def draws(self) -> int:
        """Passes that a search for words takes at most."""
        return self.rounds * (2 + self.candidates)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to.

    Attributes:
        margins: of the prompts kept, z_y - max_{c≠y} z_c, one a text.
        prompts: vectors (n, k, H), keys and values (n, attentions, 2, heads, k, e), or words (n, k).
        passes: forward-equivalents: a forward 1, a backward for activations only 1.
    """

    margins: Float[Tensor, " n"]
    prompts: Tensor
    passes: Float[Tensor, " n"]


def find_vectors(
    question: Question,
    chosen: Sequence[int],
    length: int,
    search: PromptSearch,
    seed: int = 0,
    *,
    kind: Literal["prompt", "prefix"] = "prompt",
) -> Found:
    """Look for vectors: virtual tokens before the word embeddings, or keys and values in every attention.

    Args:
        question: texts and targets.
        chosen: which of the texts.
        length: k.
        search: how much.
        seed: of the words that it starts from.
        kind: "prompt" or "prefix".
    """
    backbone, batch, wanted = question.backbone, question.batch(chosen), question.wanted(chosen)
    best = torch.full((len(batch),), -torch.inf, device=backbone.device, dtype=backbone.wide_dtype)
    kept, passes = torch.empty(0), torch.zeros_like(best)
    for restart in range(search.restarts):
        start, radius = prompt_start(backbone, length, kind, seed + restart)
        u = start.repeat(len(batch), *[1] * start.ndim)
        if restart == 0:
            kept = u.clone()
        optimizer = torch.optim.Adam([u], lr=search.rate * float(start.square().mean().sqrt()))
        for step in range(search.steps + 1):
            left = (best <= search.margin).nonzero().flatten()
            if not len(left):
                break
            leaf = u[left].requires_grad_(step < search.steps)
            logits = question.logits(batch.select(left), _edit(leaf, kind))
            found = margins(logits.detach(), wanted[left])
            better = found > best[left]
            best[left[better]], kept[left[better]] = found[better], leaf.detach()[better]
            passes[left] += FORWARD
            if step < search.steps:
                loss = cross_entropy(logits, wanted[left], reduction="sum")
                u.grad = torch.zeros_like(u)
                (u.grad[left],) = torch.autograd.grad(loss, leaf)
                optimizer.step()
                u *= (radius / u.norm(dim=-1, keepdim=True)).clamp(max=1)
                passes[left] += FORWARD  # back through the frozen net, activations only
    return Found(best, kept, passes)


def prompt_start(backbone: Backbone, length: int, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return where vectors start, and the largest norm of each of them."""
    if kind == "prompt":
        words: Any = backbone.model.get_input_embeddings()  # type: ignore[operator]
        longest = words(torch.arange(words.num_embeddings, device=backbone.device)).norm(dim=-1).max()
        return start_embeddings(backbone, start_tokens(backbone, length, seed=seed)), longest.detach()
    count = max(length, min(_CLOUD, backbone.max_length - 1))
    cloud = PrefixTuning(backbone, length=count, gate="none", seed=seed)
    pairs = cloud.keys_values(cloud.initial())
    shapes = {tuple(key.shape) for key, _ in pairs.values()}
    if len(shapes) > 1:
        raise ValueError(
            f"way='prefix': the attentions of {backbone.name!r} have keys of several shapes, "
            f"{sorted(shapes)}; take 'continuous' and 'discrete'."
        )
    # attentions, key or value, heads, k, e
    vectors = torch.stack([torch.stack(pairs[t]) for t in sorted(pairs)])
    return vectors[..., :length, :].clone(), vectors.norm(dim=-1, keepdim=True).amax(-2, keepdim=True)


def _edit(u: Tensor, kind: str) -> Edit:
    """Return the edit that gives each text vectors of its own."""
    if kind == "prompt":
        return Edit(prompt=u)
    return Edit(attention={t: with_prefix(u[:, t, 0], u[:, t, 1]) for t in range(u.shape[1])})


def swap_words(
    question: Question,
    chosen: Sequence[int],
    length: int,
    search: PromptSearch,
    seed: int = 0,
    starts: Sequence[Sequence[int]] = (),
) -> Found:
    """Look for words by the greedy coordinate gradient; the loss of what is kept never rises.

    Args:
        question: texts and targets.
        chosen: which of the texts.
        length: k.
        search: how much.
        seed: of the words that it starts from, and of the swaps that are tried.
        starts: of each text the words at the end of the prompt, as found at a smaller length.
    """
    lots = [np.random.default_rng((seed, i, length)) for i in chosen]
    ordinary, table = question.vocabulary, question.embeddings
    special = torch.ones(len(table), dtype=torch.bool, device=table.device)
    special[ordinary] = False
    starts = starts or [()] * len(chosen)
    rows = [
        [*ordinary[lot.integers(len(ordinary), size=length - len(end))].tolist(), *end]
        for lot, end in zip(lots, starts, strict=True)
    ]
    prompts = torch.tensor(rows, device=table.device)
    batch, wanted = question.batch(chosen), question.wanted(chosen)
    best = torch.full((len(rows),), -torch.inf, device=table.device, dtype=table.dtype)
    losses, passes = torch.full_like(best, torch.inf), torch.zeros_like(best)
    for turn in range(search.rounds):
        left = (best <= search.margin).nonzero().flatten()
        if not len(left):
            break
        leaf = table[prompts[left]].requires_grad_()
        logits = question.logits(batch.select(left), Edit(prompt=leaf))
        each = cross_entropy(logits, wanted[left], reduction="none")
        (slope,) = torch.autograd.grad(each.sum(), leaf)
        best[left], losses[left] = margins(logits.detach(), wanted[left]), each.detach()
        passes[left] += 2 * FORWARD
        for text in left[best[left] <= search.margin].tolist():
            new = length - len(starts[text]) if turn == 0 else 0
            # The change of the loss to first order, but for a constant at each place.
            change = slope[left.tolist().index(text), : new or length] @ table.T
            change[:, special] = torch.inf
            tried = _swaps(prompts[text], change, search, lots[text])
            found, loss = _judged(question, batch, text, wanted[text], tried)
            passes[text] += FORWARD * len(tried)
            at = int(found.argmax() if bool((found > search.margin).any()) else loss.argmin())
            if found[at] > search.margin or loss[at] < losses[text]:
                prompts[text], best[text], losses[text] = tried[at], found[at], loss[at]
    return Found(best, prompts, passes)


def _swaps(
    prompt: Int[Tensor, " k"], change: Float[Tensor, "p V"], search: PromptSearch, lot: np.random.Generator
) -> Int[Tensor, "n k"]:
    """Return prompts with one word swapped, by lot among those that the gradient ranks first."""
    finite = int(change[0].isfinite().sum())
    pool = change.topk(min(search.pool, finite), largest=False).indices
    drawn = torch.from_numpy(
        lot.choice(pool.numel(), min(search.candidates, pool.numel()), replace=False)
    ).to(pool.device)
    tried = prompt.repeat(len(drawn), 1)
    place = drawn // pool.shape[1]
    tried[torch.arange(len(drawn), device=pool.device), place] = pool.flatten()[drawn]
    return tried


@torch.no_grad()
def _judged(
    question: Question, batch: Batch, text: int, wanted: Tensor, prompts: Int[Tensor, "n k"]
) -> tuple[Tensor, Tensor]:
    """Return margins and losses of prompts before one text."""
    pieces = []
    for some in prompts.split(_ROWS):
        rows, same = torch.full((len(some),), text, device=some.device), wanted.expand(len(some))
        logits = question.logits(batch.select(rows), Edit(prompt=question.embeddings[some]))
        pieces.append((margins(logits, same), cross_entropy(logits, same, reduction="none")))
    found, losses = zip(*pieces, strict=True)
    return torch.cat(found), torch.cat(losses)


def draw_words(
    question: Question,
    chosen: Sequence[int],
    length: int,
    search: PromptSearch,
    seed: int = 0,
    budgets: Sequence[int] = (),
) -> Found:
    """Draw prompts of random words for each text, and keep the best: the baseline of a search for words.

    Args:
        question: texts and targets.
        chosen: which of the texts.
        length: k.
        search: its margin ends the draws.
        seed: of the draws.
        budgets: how many for each text; as many as a search may take by default.
    """
    ordinary, batch = question.vocabulary, question.batch(chosen)
    best, kept, passes = [], [], []
    for j, i in enumerate(chosen):
        lot = np.random.default_rng((seed, i, length, 1))  # not the words that a search starts from
        count = budgets[j] if budgets else search.draws
        words = ordinary[torch.from_numpy(lot.integers(len(ordinary), size=(count, length)))]
        margin, prompt, spent = torch.tensor(-torch.inf), words[0], 0
        for some in words.split(_ROWS):
            found, _ = _judged(question, batch, j, question.wanted([i])[0], some.to(batch.mask.device))
            spent += len(some)
            if found.max() > margin:
                margin, prompt = found.max(), some[found.argmax().cpu()]
            if margin > search.margin:
                break
        best.append(float(margin))
        kept.append(prompt)
        passes.append(FORWARD * spent)
    return Found(torch.tensor(best), torch.stack(kept), torch.tensor(passes))


@torch.no_grad()
def repeat_target(question: Question, chosen: Sequence[int], length: int) -> Found:
    """Say the target itself, again and again up to k tokens: a fixed habit, one pass a text."""
    rows = [[words[j % len(words)] for j in range(length)] for words in (question.words[i] for i in chosen)]
    prompts = torch.tensor(rows)
    words = start_embeddings(question.backbone, prompts.flatten()).unflatten(0, prompts.shape)
    logits = question.logits(question.batch(chosen), Edit(prompt=words))
    return Found(margins(logits, question.wanted(chosen)), prompts, FORWARD * torch.ones(len(prompts)))
