"""Policies that are learned, and trained deltas: their texts, their plain tensors, what they learn."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from contrasted import texts
from tiny_models import WORDS, tiny, tiny_model
from torch.nn.functional import cross_entropy

from deltatheory.control.generation import (
    Prefix,
    StatePolicy,
    TunedDelta,
    acting,
    contrast,
    generate,
    learning,
    load_policy,
    make_state_policy,
    save_policy,
)
from deltatheory.control.generation.generate import prompt_tokens
from deltatheory.deltas import WithHead, make_delta
from deltatheory.deltas.files import load_delta, read_tensors
from deltatheory.problems.tokens import NO_ANSWER, answered

PROMPTS = ["a b c d", "e f", "g h i j k l", "m"]
NEW = 6


@pytest.fixture(scope="module", params=["llama", "t5"])
def case(request):
    backbone = tiny(request.param, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_STEPS", 8)
        yield backbone, contrast(backbone, *texts(32))


@pytest.fixture(scope="module")
def llama():
    backbone = tiny("llama", dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_STEPS", 2)
        yield backbone, contrast(backbone, *texts(32))


def made(name, case, strength=1.0, tokens="last"):
    layers = (0, 1) if case[0].kind == "causal" else (2, 3)
    return make_state_policy(name, *case, strength, layers=layers, tokens=tokens)


def loss(case, policy):
    """Of the second halves of the target's texts behind the first."""
    backbone, found = case
    rows = [found.texts[i].split() for i in found.target.nonzero().flatten().tolist()]
    ids = [[WORDS.index(w) for w in row] for row in rows]
    end = [] if backbone.kind == "causal" else [3]
    halves = [([*row[: len(row) // 2], *end], [*row[len(row) // 2 :], *end]) for row in ids]
    batch, labels = answered(backbone, *zip(*halves, strict=True))
    where = labels != NO_ANSWER
    at_work = nullcontext()
    if isinstance(policy, StatePolicy):
        at_work = acting(backbone.model, backbone.layers, policy, where.long().argmax(1) + 1)
    with torch.no_grad(), at_work:
        hidden = backbone.hidden_states(batch, policy.edit())[where]
        return float(cross_entropy(backbone.vocabulary_logits(hidden), labels[where]))


@pytest.mark.parametrize("name", ["reft", "prefix"])
def test_what_is_learned_makes_the_targets_texts_likelier(name, case):
    assert loss(case, made(name, case)) < loss(case, made(name, case, 0.0))
    backbone, policy = case[0], made(name, case, 3.0)
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    assert told.tokens != generate(backbone, PROMPTS, made(name, case, 0.0), max_new_tokens=NEW).tokens
    for how in ({"cache": False}, {"batch_size": 1}):
        assert generate(backbone, PROMPTS, policy, max_new_tokens=NEW, **how).tokens == told.tokens
    assert (told.energy > 0) == (name == "reft")


def test_reft_from_a_file_in_plain_hooks(llama, tmp_path):
    policy = made("reft", llama, 3.0, "all")
    save_policy(tmp_path / "policy", policy)
    tensors, note = read_tensors(tmp_path / "policy")
    rotation, source, offset = (tensors[name] for name in ("direction", "source", "offset"))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(4).expand(2, 4, 4).double())
    model = tiny_model("llama").double().eval()

    def act(i, x):
        return x + (x @ source[i].T + offset[i] - x @ rotation[i].T) @ rotation[i]

    for i, t in enumerate(note["layers"]):
        model.base_model.layers[t].register_forward_hook(
            lambda m, a, out, i=i: (act(i, out[0]), *out[1:]) if isinstance(out, tuple) else act(i, out)
        )
    expected = generate(llama[0], PROMPTS[:1], load_policy(tmp_path / "policy"), max_new_tokens=NEW)
    ids = torch.tensor(prompt_tokens(llama[0], PROMPTS[:1], NEW))
    out = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=3, pad_token_id=0)
    assert out[0, ids.shape[1] :].tolist() == expected.tokens[0]
    still = made("reft", llama, 0.0)
    assert generate(llama[0], PROMPTS, still, max_new_tokens=NEW).energy == pytest.approx(0, abs=1e-20)


def test_a_prefix_from_a_file_in_a_plain_cache(llama, tmp_path):
    from transformers import DynamicCache

    save_policy(tmp_path / "policy", made("prefix", llama, 3.0))
    tensors, note = read_tensors(tmp_path / "policy")
    cache, length = DynamicCache(), tensors["key"].shape[2]
    for t, key, value in zip(note["layers"], tensors["key"], tensors["value"], strict=True):
        cache.update(key[None], value[None], t)
    model = tiny_model("llama").double().eval()
    policy = load_policy(tmp_path / "policy")
    assert isinstance(policy, Prefix)
    (expected,) = generate(llama[0], PROMPTS[:1], policy, max_new_tokens=NEW).tokens
    read, said = prompt_tokens(llama[0], PROMPTS[:1], NEW)[0], []
    with torch.no_grad():
        while len(said) < len(expected):
            first = cache.get_seq_length() - length
            places = torch.arange(first, first + len(read))[None]
            out = model(torch.tensor([read]), past_key_values=cache, position_ids=places, use_cache=True)
            read = [int(out.logits[0, -1].argmax())]
            said += read
    assert said == expected


@pytest.mark.parametrize(("name", "options"), [("lora", {"r": 2}), ("prompt", {"length": 2})])
def test_a_tuned_delta_says_what_the_tuned_model_says(name, options, llama, tmp_path):
    backbone, _ = llama
    delta = make_delta(name, backbone, **options)
    torch.manual_seed(0)
    values = torch.randn(delta.size, dtype=torch.float64) * (0.1 if name == "lora" else 2.0)
    policy = TunedDelta(delta, values, 2.0)
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW).tokens
    assert told != generate(backbone, PROMPTS, max_new_tokens=NEW).tokens
    assert generate(backbone, PROMPTS, policy, max_new_tokens=NEW, cache=False).tokens == told
    save_policy(tmp_path / "delta", policy)
    again = TunedDelta(*load_delta(tmp_path / "delta", backbone))
    assert generate(backbone, PROMPTS, again, max_new_tokens=NEW).tokens == told
    if name == "prompt":
        with pytest.raises(ValueError, match="takes at most 40"):
            generate(backbone, PROMPTS, policy, max_new_tokens=33)
        return
    model = tiny_model("llama").double().eval()
    new = delta.parameters(2.0 * values)
    model.base_model.load_state_dict({n: x.detach() for n, x in new.items()}, strict=False)
    for prompt, answer in zip(PROMPTS, told, strict=True):
        ids = torch.tensor(prompt_tokens(backbone, [prompt], NEW))
        out = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=3, pad_token_id=0)
        assert out[0, ids.shape[1] :].tolist() == answer


def test_what_cannot_be_is_refused(llama):
    backbone, found = llama
    delta = make_delta("bitfit", tiny("gpt2"))
    short = replace(found, texts=["a"] * len(found.texts))
    for said, act in {
        "weights=": lambda: generate(backbone, PROMPTS, TunedDelta(delta, delta.initial())),
        "has a trained head": lambda: TunedDelta(WithHead(delta, "x", {"w": torch.zeros(1)}), torch.zeros(1)),
        "strength=nan": lambda: TunedDelta(delta, delta.initial(), float("nan")),
        "one token each": lambda: made("reft", (backbone, short)),
    }.items():
        with pytest.raises(ValueError, match=said):
            act()
