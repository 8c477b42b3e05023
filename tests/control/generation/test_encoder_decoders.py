"""Policies in encoder-decoders: the prompt passes the encoder, what is said the decoder."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from contrasted import texts
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from transformers import AutoModel

from deltatheory.backbones import CachedTexts, Edit, wrap_model
from deltatheory.control.generation import (
    acting,
    contrast,
    generate,
    half_spaces,
    load_policy,
    make_state_policy,
    perplexity,
)
from deltatheory.control.generation.comparison import GenerationProtocol, steer_generation
from deltatheory.control.generation.generate import prompt_tokens
from deltatheory.problems.tokens import batch_of

PROMPTS = ["a b c d", "e f", "g h i j k"]
NEW = 4
CASES = {
    "t5": ("t5", {}),
    "gated t5": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", {"decoder_layers": 2}),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return made(request.param)


@pytest.fixture(scope="module")
def t5():
    return made("t5")


def made(name):
    family, options = CASES[name]
    backbone = tiny(family, dtype=torch.float64, **options)
    quiet(backbone.model)
    return name, backbone, contrast(backbone, *texts(32))


def quiet(model):
    """Let answers have words, and not always one length."""
    with torch.no_grad():
        model.get_input_embeddings().weight[:4] *= 0.3
    return model


RULES = {"last": (2, 3), "answer": (3,), "prompt": (0, 1), "all": (0, 1, 2, 3)}
POLICIES = {  # of every kind one or two
    "t5": [("pid", "all"), ("barrier", "last"), ("value", "answer")],
    "gated t5": [("lqr", "all"), ("pid", "prompt"), ("cache-edit", "last")],
    "bart": [("pid", "last"), ("liseco", "all"), ("mean-difference", "answer")],
}


def policy_of(case, name="pid", tokens="last", strength=3.0):
    return make_state_policy(name, *case[1:], strength, layers=RULES[tokens], tokens=tokens)


def test_cache_and_batches_change_no_text(case):
    """Every kind of policy and rule for tokens: with a cache, without, and texts one by one."""
    name, backbone, _ = case
    free = generate(backbone, PROMPTS, max_new_tokens=NEW)
    assert generate(backbone, PROMPTS, max_new_tokens=NEW, cache=False).tokens == free.tokens
    for kind, tokens in POLICIES[name]:
        policy = policy_of(case, kind, tokens, 20.0 if kind == "cache-edit" else 3.0)
        told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
        assert told.tokens != free.tokens, kind
        if kind != "cache-edit":
            assert told.energy > 0, kind
            assert generate(backbone, PROMPTS, policy, max_new_tokens=NEW, cache=False).tokens == told.tokens
        if kind in ("pid", "cache-edit"):
            alone = generate(backbone, PROMPTS, policy, max_new_tokens=NEW, batch_size=1)
            assert alone.tokens == told.tokens
            assert alone.energy == pytest.approx(told.energy)


def test_generate_of_transformers_says_the_same(case):
    """Plain hooks, with a cache and without, against our generation; T5 may be padded on the left."""
    name, backbone, _ = case
    policy = policy_of(case, tokens="last" if name == "t5" else "all")
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    assert told.tokens != generate(backbone, PROMPTS, max_new_tokens=NEW).tokens
    family, options = CASES[name]
    model = quiet(tiny_model(family, **options).double().eval())
    stacks = [model.get_encoder(), model.get_decoder()]
    blocks = [block for stack in stacks for block in (stack.layers if family == "bart" else stack.block)]
    rows = prompt_tokens(backbone, PROMPTS, NEW)
    width = max(map(len, rows))
    before = [(width - len(row)) * (name == "t5") for row in rows]
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (row, first) in enumerate(zip(rows, before, strict=True)):
        ids[i, first : first + len(row)] = torch.tensor(row)
        mask[i, first : first + len(row)] = 1
    how = {"max_new_tokens": NEW, "do_sample": False, "num_beams": 1, "forced_eos_token_id": None}
    start = torch.tensor([backbone.start] * len(rows))
    for cache in (True, False):
        with torch.no_grad(), acting(model, blocks, policy):
            out = model.generate(
                input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=cache, **how
            )
        for row, answer in zip(out[:, start.shape[1] :].tolist(), told.tokens, strict=True):
            assert row[: len(answer)] == answer


def test_no_state_of_any_token_lies_outside_the_half_space(case):
    """LiSeCo's guarantee in both stacks, read by hooks of the test behind the steered blocks."""
    _, backbone, _ = case
    policy = policy_of(case, "liseco", "all")
    lowest: list[list[float]] = [[] for _ in policy.layers]
    lengths = torch.tensor([len(row) for row in prompt_tokens(backbone, PROMPTS, NEW)])
    read = torch.arange(int(lengths.max())) < lengths[:, None]

    def look(i, _module, _args, out):
        x = out[0] if isinstance(out, tuple) else out
        over = x @ policy.direction[i, 0] - policy.bound[i, 0]
        lowest[i].append(float((over[read] if policy.layers[i] < 2 else over).min()))

    hooks = []
    with torch.no_grad(), acting(backbone.model, backbone.layers, policy) as at_work:
        for i, t in enumerate(policy.layers):  # behind the policy's own
            hooks.append(backbone.layers[t].register_forward_hook(partial(look, i)))
        told = CachedTexts(backbone, batch_of(backbone, prompt_tokens(backbone, PROMPTS, NEW)), Edit())
        for step in range(2):
            told.read(torch.tensor([4, 5, 6]) + step)
    for hook in hooks:
        hook.remove()
    assert [len(found) for found in lowest] == [1, 1, 3, 3]
    assert min(map(min, lowest)) > -1e-9
    assert float(at_work.meter.squares) > 0


def test_the_prompts_cache_is_edited_once(t5):
    """Against the cache of `transformers`, edited by hand text by text, with what the file holds."""
    _, backbone, _ = t5
    policy = policy_of(t5, "cache-edit", strength=20.0)
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    assert told.tokens != generate(backbone, PROMPTS, max_new_tokens=NEW).tokens
    model = quiet(tiny_model("t5").double().eval())
    for row, answer in zip(prompt_tokens(backbone, PROMPTS, NEW), told.tokens, strict=True):
        with torch.no_grad():
            memory = model.get_encoder()(input_ids=torch.tensor([row]))
            ids = torch.tensor([backbone.start])
            out = model(encoder_outputs=memory, decoder_input_ids=ids, use_cache=True)
            cache, said = out.past_key_values, [int(out.logits[0, -1].argmax())]
            for t, key, value in zip(policy.layers, policy.key, policy.value, strict=True):
                layer = cache.cross_attention_cache.layers[t - policy.model["encoder_blocks"]]
                layer.keys[:, :, -1] += key
                layer.values[:, :, -1] += value
            while len(said) < len(answer):
                newest = torch.tensor([said[-1:]])
                out = model(
                    encoder_outputs=memory, decoder_input_ids=newest, past_key_values=cache, use_cache=True
                )
                said.append(int(out.logits[0, -1].argmax()))
        assert said == answer


def test_a_contrast_is_of_what_the_encoder_reads_and_the_decoder_says(case):
    _, backbone, _ = case
    alone = contrast(backbone, ["a b c"] * 8 + ["p"] * 8, [False] * 8 + [True] * 8)
    row = backbone.tokenizer("a b c")["input_ids"]
    batch = batch_of(backbone, [row], answers=[[*backbone.start, *row[-4:-1]]])
    seen = []
    hooks = [
        backbone.layers[t].register_forward_hook(
            lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for t in (1, 3)
    ]
    backbone.hidden_states(batch)
    for hook in hooks:
        hook.remove()
    for t, states, first in zip((1, 3), seen, (1, len(backbone.start)), strict=True):
        torch.testing.assert_close(alone.lower[t], states[0, first:].mean(0).detach())
    assert alone.default_layers("prompt") == (1,)
    assert alone.default_layers() == alone.default_layers("all") == (3,)


def test_perplexity_is_that_of_each_answer_alone(t5):
    _, backbone, _ = t5
    told = generate(backbone, PROMPTS, max_new_tokens=NEW)
    rows = prompt_tokens(backbone, PROMPTS, NEW)
    model, losses = quiet(tiny_model("t5").double().eval()), []
    for row, answer in zip(rows, told.tokens, strict=True):
        said = torch.tensor([[*backbone.start, *answer[:-1]]])
        with torch.no_grad():
            logits = model(torch.tensor([row]), decoder_input_ids=said).logits[0, -len(answer) :]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none").tolist()
    assert perplexity(backbone, rows, told.tokens, 3) == pytest.approx(np.exp(np.mean(losses)))


def test_policies_are_compared_and_their_files_are_read_again(t5, tmp_path):
    _, backbone, _ = t5
    protocol = GenerationProtocol(prompts=2, words=2, max_new_tokens=3)
    result = steer_generation(
        backbone, toy_task(2, train=60), ["liseco", "cache-edit"], [2.0], protocol=protocol
    )
    assert [row.policy for row in result.rows] == ["none", "instruction", "liseco", "cache-edit"]
    assert result.layers == [3]
    result.save_beside(tmp_path)
    for name, policy in result.policies.items():
        again = load_policy(tmp_path / f"{name}.safetensors")
        told = [generate(backbone, PROMPTS, one, max_new_tokens=NEW).tokens for one in (policy, again)]
        assert told[0] == told[1]


def test_what_makes_no_sense_is_refused(t5):
    _, backbone, found = t5
    asked = {"max_new_tokens": NEW}
    causal = tiny("llama", num_hidden_layers=4)
    policy = policy_of(t5)
    for said, act in {
        r"layer=0: no token of tokens='last' passes it; blocks 2 to 3 are the decoder's": lambda: half_spaces(
            [found], [(1.0, None)], layers=(0, 3)
        ),
        "layer=3: no token of tokens='prompt' passes it; blocks 0 to 1 are the encoder's": lambda: (
            make_state_policy("pid", backbone, found, layers=(3,), tokens="prompt")
        ),
        "layer=0: no token of tokens='answer'": lambda: policy_of(t5, "cache-edit", "all"),
        "allowed are 1 to 40, what the decoder": lambda: generate(backbone, PROMPTS, max_new_tokens=41),
        r"prompts\[0\] has 41 tokens": lambda: generate(backbone, ["a " * 40], **asked),
        "with encoder_blocks=2; this one has 0": lambda: entered(causal, policy),
        "with an lm_head": lambda: contrast(headless(), *texts(32)),
    }.items():
        with pytest.raises(ValueError, match=said):
            act()


def entered(backbone, policy):
    with acting(backbone.model, backbone.layers, policy):
        raise AssertionError("a policy of another model must not act")


def headless():
    return wrap_model(tiny_model("t5", AutoModel), tiny_tokenizer("t5"), name="x")
