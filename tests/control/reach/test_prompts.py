from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.backbones import Edit
from deltatheory.control.reach.prompts import (
    PromptSearch,
    _edit,
    draw_words,
    find_vectors,
    prompt_start,
    repeat_target,
    swap_words,
)
from deltatheory.control.reach.question import margins, pose
from deltatheory.deltas import make_delta
from deltatheory.problems import Setup
from deltatheory.problems.tokens import batch_of

QUICK = PromptSearch(steps=25, restarts=1, rounds=3, candidates=6, pool=6, chunk=4)


def one_at_a_time(backbone, batch, u, kind) -> torch.Tensor:
    """Pooled states through the deltas, of which each has one prompt: another route to the same."""
    rows = []
    for i, own in enumerate(u):
        if kind == "prompt":
            edit = Edit(prompt=own)
        else:
            delta = make_delta("prefix", backbone, length=own.shape[-2], gate="none")
            edit = delta.edit(delta.delta_of({t: (key, value) for t, (key, value) in enumerate(own)}))
        rows.append(backbone.pooled(batch.select([i]), edit)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "gemma2", "t5"])
def test_every_text_has_a_prompt_of_its_own(family, kind):
    backbone = tiny(family, dtype=torch.float64)
    batch = backbone.encode(["a b c", "d", "e f g h"])
    start, _ = prompt_start(backbone, 2, kind, 0)
    generator = torch.Generator().manual_seed(0)
    u = start + torch.randn(3, *start.shape, generator=generator, dtype=torch.float64)
    got = backbone.pooled(batch, _edit(u, kind))
    torch.testing.assert_close(got, one_at_a_time(backbone, batch, u, kind), rtol=0, atol=1e-9)
    swapped = backbone.pooled(batch, _edit(u[[1, 0, 2]], kind))
    assert (swapped - got)[:2].abs().max() > 1e-3  # each text sees its own


@pytest.fixture(scope="module")
def classes():
    """Three classes of nine texts, by an encoder; every text has the next class as its target."""
    asked = pose(Setup(tiny("bert", dtype=torch.float64), toy_task(3, test=9)))
    return replace(asked, targets=tuple((c + 1) % 3 for c in asked.targets))


@pytest.fixture(scope="module")
def tokens():
    """Nine texts and their next tokens, by a causal model."""
    return pose(Setup(tiny("gpt2", dtype=torch.float64), toy_task(3, test=9)), "next")


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_what_is_called_reached_is_reached(classes, kind):
    search, chosen = replace(QUICK, margin=0.1), list(range(9))
    found = find_vectors(classes, chosen, 2, search, kind=kind)
    batch = classes.batch(chosen)
    pooled = one_at_a_time(classes.backbone, batch, found.prompts, kind)
    logits = classes.read.args[1](pooled)
    again = margins(logits, classes.wanted(chosen))
    torch.testing.assert_close(again, found.margins, rtol=0, atol=1e-8)
    _, radius = prompt_start(classes.backbone, 2, kind, 0)
    assert (found.prompts.norm(dim=-1, keepdim=True) <= radius * (1 + 1e-9)).all()
    assert int((found.margins > 0.1).sum()) > 4
    assert found.passes.max() <= 2 * QUICK.steps + 1


def exhaustive(question, i, starts=()) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins and losses of every word before (starts and) a text, read as token numbers."""
    rows = [[word, *starts, *question.rows[i]] for word in question.vocabulary.tolist()]
    logits = question.logits(batch_of(question.backbone, rows))
    wanted = question.wanted([i] * len(rows))
    return margins(logits, wanted), torch.nn.functional.cross_entropy(logits, wanted, reduction="none")


def test_words_are_read_as_they_would_be_in_the_text(tokens):
    search = replace(QUICK, margin=1e6)  # never reached
    for found in (swap_words(tokens, [2, 5], 3, search), draw_words(tokens, [2, 5], 3, search)):
        rows = [words + tokens.rows[i] for words, i in zip(found.prompts.tolist(), (2, 5), strict=True)]
        again = margins(tokens.logits(batch_of(tokens.backbone, rows)), tokens.wanted([2, 5]))
        torch.testing.assert_close(found.margins.to(again), again, rtol=0, atol=1e-6)
        assert set(found.prompts.flatten().tolist()) <= set(tokens.vocabulary.tolist())


def test_one_round_of_all_swaps_is_the_search_of_the_whole_vocabulary(tokens):
    everything = replace(QUICK, margin=1e6, rounds=1, candidates=99, pool=99)
    chosen = list(range(4))
    first = swap_words(tokens, chosen, 1, everything)
    for i, words in zip(chosen, first.prompts.tolist(), strict=True):
        _, losses = exhaustive(tokens, i)
        assert words == [int(tokens.vocabulary[losses.argmin()])]
    # Greedy back-generation: the next word stands before those that were found, which stay.
    second = swap_words(tokens, chosen, 2, everything, starts=first.prompts.tolist())
    for i, words in zip(chosen, second.prompts.tolist(), strict=True):
        _, losses = exhaustive(tokens, i, starts=words[1:])
        assert words == [int(tokens.vocabulary[losses.argmin()]), int(first.prompts[i, 0])]
    assert (first.passes == 2 + len(tokens.vocabulary)).all()


def test_the_loss_of_the_words_that_are_kept_never_rises(tokens):
    def loss(rounds):
        found = swap_words(tokens, list(range(9)), 2, replace(QUICK, margin=1e6, rounds=rounds))
        rows = [words + row for words, row in zip(found.prompts.tolist(), tokens.rows, strict=True)]
        logits = tokens.logits(batch_of(tokens.backbone, rows))
        return torch.nn.functional.cross_entropy(logits, tokens.wanted(range(9)), reduction="none")

    losses = torch.stack([loss(rounds) for rounds in (1, 2, 4)])
    assert (losses.diff(dim=0) <= 1e-12).all()
    assert losses[2].mean() < losses[0].mean() - 0.05


def test_soft_prompts_reach_what_words_reach(classes):
    chosen = list(range(9))
    by_words = [bool((exhaustive(classes, i)[0] > 0).any()) for i in chosen]
    found = find_vectors(classes, chosen, 1, PromptSearch(steps=30))
    reached = (found.margins > 0).tolist()
    assert sum(by_words) > 1
    assert sum(reached) >= sum(by_words)
    assert sum(w and not r for w, r in zip(by_words, reached, strict=True)) <= 1


@pytest.mark.parametrize("find", [swap_words, draw_words, find_vectors])
def test_a_text_counts_for_itself(tokens, find):
    together = find(tokens, [1, 4, 7], 2, QUICK, 3)
    alone = find(tokens, [4], 2, QUICK, 3)
    assert float(together.margins[1]) == pytest.approx(float(alone.margins[0]), abs=1e-9)
    torch.testing.assert_close(together.prompts[1], alone.prompts[0], rtol=0, atol=1e-9)
    assert together.passes[1] == alone.passes[0]


def test_other_seeds_draw_other_words(tokens):
    drawn = [draw_words(tokens, [0], 3, replace(QUICK, margin=1e6), seed).prompts for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_draws_end_with_their_budget_or_where_the_target_is_first(tokens):
    never = draw_words(tokens, [0, 1], 2, replace(QUICK, margin=1e6), budgets=[3, 70])
    assert never.passes.tolist() == [3, 70]
    assert draw_words(tokens, [0], 2, replace(QUICK, margin=-1e6), budgets=[130]).passes.tolist() == [64]


def test_the_target_is_repeated_up_to_k_tokens(tokens):
    asked = replace(tokens, words=((5, 6), *tokens.words[1:]))
    assert repeat_target(asked, [0, 1], 3).prompts.tolist() == [[5, 6, 5], [tokens.targets[1]] * 3]


@pytest.mark.parametrize(
    "setting", [{"steps": 0}, {"rate": 0.0}, {"restarts": 0}, {"rounds": 0}, {"candidates": 0}, {"pool": 0}]
)
def test_bad_searches_are_refused(setting):
    with pytest.raises(ValueError, match="must be above 0"):
        PromptSearch(**setting)
