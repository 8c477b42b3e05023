"""Prompts: where they start, what they count, and the subspace that several of them span."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import WORDS, tiny

from deltatheory.deltas import make_delta
from deltatheory.deltas.intrinsic_prompt import IntrinsicPromptTuning, PromptSubspace, fit_prompt_subspace
from deltatheory.deltas.prompt import PromptTuning, start_tokens

TEXTS = ["a b c d", "e f"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_at_zero_a_prompt_is_its_start_read_before_the_text(family):
    backbone = tiny(family, dtype=torch.float64)
    delta = PromptTuning(backbone, length=3, start="p o")
    read = backbone.hidden_states(backbone.encode([f"p o p {text}" for text in TEXTS]))[:, 3:]
    tuned = backbone.hidden_states(backbone.encode(TEXTS), delta.edit(delta.initial()))
    torch.testing.assert_close(tuned, read)
    other = PromptTuning(backbone, length=3, start="o p")
    swapped = backbone.hidden_states(backbone.encode(TEXTS), other.edit(other.initial()))
    assert not torch.allclose(swapped, read, atol=1e-3)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_a_random_start_is_words_of_the_vocabulary(family):
    backbone = tiny(family)
    tokens = start_tokens(backbone, 30, seed=1)
    special = set(backbone.tokenizer.all_special_ids)
    assert not special & set(tokens.tolist())
    assert int(tokens.max()) < len(WORDS)
    assert torch.equal(tokens, start_tokens(backbone, 30, seed=1))
    assert not torch.equal(tokens, start_tokens(backbone, 30, seed=2))
    delta = PromptTuning(backbone, length=5, seed=1)
    rows = backbone.model.get_input_embeddings().weight
    assert torch.equal(delta.prompt(delta.initial()), rows[start_tokens(backbone, 5, seed=1)])
    assert delta.size == 5 * 16
    assert not delta.exact_zero


@pytest.mark.parametrize("length", [0, 40])
def test_the_length_is_checked_against_the_context(length):
    for name in ("prompt", "prefix", "intrinsic-prompt"):
        with pytest.raises(ValueError, match=rf"length={length}: must lie in 1\.\.39, .* room for one token"):
            make_delta(name, tiny("gpt2"), length=length)


def test_a_start_without_a_token_is_refused():
    with pytest.raises(ValueError, match="start='': gives no token"):
        PromptTuning(tiny("gpt2"), length=3, start="")


def test_prompts_of_a_subspace_are_found_and_reached():
    generator = torch.Generator().manual_seed(0)
    basis, centre = (torch.randn(n, 48, generator=generator, dtype=torch.float64) for n in (2, 1))
    weights = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    prompts = (weights @ basis + centre).view(7, 3, 16)
    found = fit_prompt_subspace(prompts, 2)
    assert found.explained == pytest.approx(1.0)
    rows = found.basis.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(2, dtype=torch.float64))
    delta = IntrinsicPromptTuning(tiny("bert", dtype=torch.float64), subspace=found)
    assert (delta.size, delta.length) == (2, 3)
    point = rows @ (prompts[4] - found.centre).flatten()
    torch.testing.assert_close(delta.prompt(point), prompts[4])
    # one dimension is not enough, and two is all there is
    less = fit_prompt_subspace(prompts, 1)
    assert less.explained < 0.999
    with pytest.raises(ValueError, match=r"d=3: must lie in 1\.\.2, the rank of 7 prompts"):
        fit_prompt_subspace(prompts, 3)


def test_a_fitted_subspace_is_in_the_specification():
    generator = torch.Generator().manual_seed(0)
    found = fit_prompt_subspace(torch.randn(4, 3, 16, generator=generator), 2)
    backbone = tiny("gpt2", dtype=torch.float64)
    delta = IntrinsicPromptTuning(backbone, subspace=found)
    stored = json.loads(json.dumps(delta.specification()))
    twin = make_delta(stored.pop("delta"), backbone, **stored)
    point = torch.randn(2, generator=generator, dtype=torch.float64)
    assert torch.equal(twin.prompt(point), delta.prompt(point))
    with pytest.raises(ValueError, match="length=4: leave it out"):
        IntrinsicPromptTuning(backbone, subspace=found, length=4)
    narrow = fit_prompt_subspace(torch.randn(4, 3, 8, generator=generator), 2)
    with pytest.raises(ValueError, match="width 8: 'tiny-gpt2' takes 16"):
        IntrinsicPromptTuning(backbone, subspace=narrow)
    with pytest.raises(ValueError, match=r"data has 144 numbers: shape=\[3, 3, 16\] needs 192"):
        PromptSubspace.from_json(found.to_json() | {"shape": [3, 3, 16]})


def test_all_dimensions_of_a_random_basis_are_prompt_tuning():
    backbone = tiny("gpt2", dtype=torch.float64)
    free = PromptTuning(backbone, length=2, seed=3)
    turned = IntrinsicPromptTuning(backbone, d=32, length=2, seed=3)
    batch = backbone.encode(TEXTS)
    point = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = free.prompt(point) - free.prompt(free.initial())
    same = turned._basis @ wanted.flatten()
    torch.testing.assert_close(
        backbone.hidden_states(batch, turned.edit(same)), backbone.hidden_states(batch, free.edit(point))
    )
    with pytest.raises(ValueError, match=r"d=33: must lie in 1\.\.32, the size of 2 virtual tokens"):
        IntrinsicPromptTuning(backbone, d=33, length=2)
