from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from contrasted import texts
from tiny_models import WORDS, tiny, tiny_model

from deltatheory.control.generation import (
    STATE_POLICIES,
    AddedDirection,
    HalfSpaces,
    Memory,
    ScoreFeedback,
    acting,
    contrast,
    generate,
    half_spaces,
    load_policy,
    make_state_policy,
    perplexity,
    projection,
    save_policy,
)
from deltatheory.control.generation.generate import prompt_tokens
from deltatheory.deltas.files import read_tensors

PROMPTS = ["a b c d", "e f", "g h i j k l", "m"]
NEW = 6


@pytest.fixture(scope="module")
def backbone():
    return tiny("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def found(backbone):
    return contrast(backbone, *texts())


def made(name, backbone, found, strength=3.0, **options):
    return make_state_policy(name, backbone, found, strength, layers=(0, 1), **options)


def test_a_contrast_tells_how_well_unseen_texts_are_told_apart(found, backbone):
    assert found.held_out == 48
    assert min(found.accuracy) >= 0.8
    for t in (0, 1):
        scores = (found.states[t] - found.lower[t]) @ found.probes[t]
        assert float(scores[found.target].mean()) == pytest.approx(1)
        assert float(scores[~found.target].mean()) == pytest.approx(0, abs=1e-9)
    words = backbone.encode(["a b c"])
    alone = contrast(backbone, ["a b c"] * 8 + ["p"] * 8, [False] * 8 + [True] * 8)
    seen = []
    hook = backbone.layers[1].register_forward_hook(lambda m, a, out: seen.append(out))
    backbone.hidden_states(words)
    hook.remove()
    state = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(alone.lower[1], state.view(3, -1)[1:].mean(0).detach())


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        *((name, "last") for name in STATE_POLICIES if name not in ("cache-edit", "reft", "prefix")),
        *(("pid", rule) for rule in ("all", "prompt", "answer")),
    ],
)
def test_cache_and_batches_change_no_text(name, tokens, backbone, found):
    """Every policy, and every rule for tokens: with a cache, without, and texts one by one."""
    policy = made(name, backbone, found, tokens=tokens)
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    assert generate(backbone, PROMPTS, policy, max_new_tokens=NEW, cache=False).tokens == told.tokens
    if name in ("pid", "barrier"):
        alone = generate(backbone, PROMPTS, policy, max_new_tokens=NEW, batch_size=1)
        assert alone.tokens == told.tokens
        assert alone.energy == pytest.approx(told.energy)
    assert told.energy > 0


@pytest.mark.parametrize(("family", "name"), [("gpt2", "barrier"), ("llama", "pid")])
def test_generate_of_transformers_says_the_same_whatever_the_padding(family, name):
    """Plain hooks on left-padded batches, with a cache and without, against our generation."""
    own = tiny(family, dtype=torch.float64)
    policy = made(name, own, contrast(own, *texts()), 4.0)
    told = generate(own, PROMPTS, policy, max_new_tokens=NEW)
    assert told.tokens != generate(own, PROMPTS, max_new_tokens=NEW).tokens
    model = tiny_model(family).double().eval()
    blocks = model.base_model.h if family == "gpt2" else model.base_model.layers
    rows = [[WORDS.index(w) for w in prompt.split()] for prompt in PROMPTS]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    how = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": 3, "pad_token_id": 0}
    for cache in (True, False):
        with torch.no_grad(), acting(model, blocks, policy):
            out = model.generate(input_ids=ids, attention_mask=mask, use_cache=cache, **how)[:, width:]
        for row, answer in zip(out.tolist(), told.tokens, strict=True):
            assert row[: len(answer)] == answer


def test_no_state_of_any_token_lies_outside_the_half_space(backbone, found):
    """LiSeCo's guarantee, read by hooks of the test behind the steered blocks."""
    policy = made("liseco", backbone, found, 2.0, tokens="all")
    lowest, count = [], []

    def look(i, _module, _args, out):
        x = out[0] if isinstance(out, tuple) else out
        lowest.append(float((x @ policy.direction[i, 0] - policy.bound[i, 0])[real()].min()))
        count.append(1)

    def real():  # the first pass is padded on the right, later ones are the newest tokens
        lengths = [len(p.split()) for p in PROMPTS]
        first = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return first if len(count) < 2 else slice(None)

    with acting(backbone.model, backbone.layers, policy) as at_work, torch.no_grad():
        hooks = [
            backbone.layers[t].register_forward_hook(lambda m, a, o, i=i: look(i, m, a, o))
            for i, t in enumerate(policy.layers)
        ]
        batch = backbone.encode(PROMPTS)
        backbone.hidden_states(batch)
    for hook in hooks:
        hook.remove()
    assert min(lowest) > -1e-9
    assert float(at_work.meter.squares) > 0
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    free = generate(backbone, PROMPTS, None, max_new_tokens=NEW)
    assert told.tokens != free.tokens


def test_liseco_in_closed_form_and_nothing_where_nothing_is_missing():
    policy = HalfSpaces(
        direction=torch.tensor([[[3.0, 4.0]]]),
        bound=torch.tensor([[5.0]]),
        layers=(0,),
        model={"hidden_size": 2, "blocks": 1},
    )
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    u = policy.correction(0, x, torch.ones(1, 2, dtype=torch.bool), None)
    torch.testing.assert_close(u, torch.tensor([[[0.6, 0.8], [0.0, 0.0]]]))


@pytest.mark.parametrize("m", [2, 4])
def test_the_projection_is_that_of_a_quadratic_program(m):
    rng = np.random.default_rng(m)
    normals, missing = rng.standard_normal((m, 5)), rng.standard_normal((12, m))
    normals[1] = -normals[0]  # a band: parallel half-spaces
    missing[:, 1] = -np.abs(missing[:, 0]) - 0.1
    u = projection(torch.from_numpy(normals), torch.from_numpy(missing)).numpy()
    for row, found in zip(missing, u, strict=True):
        x = cp.Variable(5)
        cp.Problem(cp.Minimize(cp.sum_squares(x)), [normals @ x >= row]).solve(cp.CLARABEL)
        np.testing.assert_allclose(found, x.value, atol=1e-6)
        assert (normals @ found >= row - 1e-8).all()


def test_a_barrier_moves_by_its_decay_and_stays_where_it_is_kept():
    model = {"hidden_size": 1, "blocks": 3}
    policy = HalfSpaces(
        direction=torch.ones(3, 1, 1), bound=torch.zeros(3, 1), decay=0.5, layers=(0, 1, 2), model=model
    )
    memory, where, x = Memory(), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[[-8.0], [8.0]]])
    for i, expected in enumerate(([-4.0, 8.0], [-2.0, 4.0], [-1.0, 2.0])):
        x = x + policy.correction(i, x, where, memory)
        assert x.flatten().tolist() == pytest.approx(expected)
        x = torch.tensor([[[expected[0]], [0.0]]])  # the block takes what the second has away
    assert projection(torch.ones(1, 1), torch.tensor([[-1.0]])).tolist() == [[0.0]]


def test_pid_by_hand_over_blocks_and_tokens(backbone):
    policy = ScoreFeedback(
        direction=torch.ones(2, 1),
        target=torch.tensor([1.0, 2.0]),
        gain=torch.tensor([[1.0], [10.0]]),
        proportional=0.5,
        integral=0.25,
        token_integral=2.0,
        derivative=4.0,
        layers=(0, 1),
        model={"hidden_size": 1, "blocks": 2},
    )
    where, memory = torch.tensor([[False, True, True]]), Memory()
    x = torch.tensor([[[9.0], [0.0], [-1.0]]])  # errors - 1 2, then - 2 3
    first = policy.correction(0, x, where, memory)[0, 1:, 0]
    second = policy.correction(1, x, where, memory)[0, 1:, 0]
    assert first.tolist() == pytest.approx([0.5 + 0.25 + 2, 1 + 0.5 + 3])
    assert second.tolist() == pytest.approx([10 * (1 + 0.75 + 4 + 4), 10 * (1.5 + 1.25 + 5 + 4)])
    memory.blocks.clear()  # the next pass, one token behind the two that are kept
    third = policy.correction(0, torch.tensor([[[-2.0]]]), torch.tensor([[True]]), memory)
    assert float(third) == pytest.approx(1.5 + 0.75 + 4)


def test_a_value_function_is_climbed_to_its_target_along_its_gradient(backbone, found):
    policy = made("value", backbone, found, 1.2)

    def value(x):
        features = (x @ policy.direction[0].T + policy.offset[0]).relu()
        return policy.base[0] + features @ policy.weight[0]

    assert float(value(found.states[0])[found.target].mean()) > 0.7 > 0.3
    assert float(value(found.states[0])[~found.target].mean()) < 0.3
    x = found.lower[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    where = torch.ones(1, 1, dtype=torch.bool)
    u = policy.correction(0, x.detach().view(1, 1, -1), where, Memory())[0, 0]
    assert float(u @ gradient) > 0
    assert float(value(x.detach() + u)) == pytest.approx(1.2, abs=0.1)
    high = policy.correction(0, (x.detach() + 3 * u).view(1, 1, -1), where, Memory())
    assert float(high.norm()) < float(u.norm()) / 10


def test_fixed_directions_move_a_state_by_the_gap_and_the_random_one_as_far(backbone, found):
    gap = (found.upper - found.lower)[:2]
    mean, drawn, probe, leading = (
        made(f"{name}", backbone, found, 2.0).gain
        for name in ("mean-difference", "random-direction", "probe-direction", "principal-direction")
    )
    torch.testing.assert_close(mean, gap)  # half of two gaps at each of two layers
    for other in (drawn, leading):
        torch.testing.assert_close(other.norm(dim=1), gap.norm(dim=1))
    torch.testing.assert_close((probe * found.probes[:2]).sum(1), torch.ones(2, dtype=torch.float64))
    assert ((leading * gap).sum(1) > 0).all()


def test_lqr_pushes_with_the_gains_of_the_dense_recursion(backbone, found):
    """One layer: g = S (S + I)⁻¹ v with S = V Vᵀ, so that held directions are halved at r = 1."""
    policy = make_state_policy("lqr", backbone, found, 1.0, layers=(1,))
    gap = (found.upper - found.lower)[1]
    torch.testing.assert_close(policy.gain[0], gap / 2)
    both = made("lqr", backbone, found)
    assert float(both.gain[0] @ gap) != pytest.approx(float(gap @ gap) / 2)


@pytest.mark.parametrize("name", ["mean-difference", "barrier", "pid", "value", "cache-edit"])
def test_a_file_holds_what_plain_hooks_need(name, backbone, found, tmp_path):
    policy = made(name, backbone, found, 9.0, tokens="all")
    save_policy(tmp_path / "policy.safetensors", policy)
    again = load_policy(tmp_path / "policy.safetensors")
    assert type(again) is type(policy)
    assert again.numbers() == policy.numbers()
    assert generate(backbone, PROMPTS, again, max_new_tokens=NEW).tokens == (
        generate(backbone, PROMPTS, policy, max_new_tokens=NEW).tokens
    )
    tensors, note = read_tensors(tmp_path / "policy.safetensors")
    assert note["layers"] == [0, 1]
    assert note["settings"].get("tokens") == (None if name == "cache-edit" else "all")
    if name != "mean-difference":
        return
    model = tiny_model("llama").double().eval()
    handles = [
        model.base_model.layers[t].register_forward_hook(
            lambda m, a, out, g=gain: (out[0] + g, *out[1:]) if isinstance(out, tuple) else out + g
        )
        for t, gain in zip(note["layers"], tensors["gain"], strict=True)
    ]
    ids = torch.tensor([[WORDS.index(w) for w in PROMPTS[0].split()]])
    out = model.generate(ids, max_new_tokens=NEW, do_sample=False, eos_token_id=3, pad_token_id=0)
    for handle in handles:
        handle.remove()
    expected = generate(backbone, PROMPTS[:1], policy, max_new_tokens=NEW).tokens[0]
    assert out[0, ids.shape[1] :].tolist() == expected


def test_the_cache_is_edited_once_at_the_end_of_each_prompt(backbone, found):
    """Against the cache of `transformers`, edited by hand text by text, with what the file holds."""
    policy = made("cache-edit", backbone, found, 9.0)
    told = generate(backbone, PROMPTS, policy, max_new_tokens=NEW)
    assert told.tokens != generate(backbone, PROMPTS, max_new_tokens=NEW).tokens
    model = tiny_model("llama").double().eval()
    for prompt, answer in zip(PROMPTS, told.tokens, strict=True):
        ids = torch.tensor([[WORDS.index(w) for w in prompt.split()]])
        with torch.no_grad():
            out = model(ids, use_cache=True)
            cache, said = out.past_key_values, [int(out.logits[0, -1].argmax())]
            for t, key, value in zip(policy.layers, policy.key, policy.value, strict=True):
                cache.layers[t].keys[:, :, -1] += key
                cache.layers[t].values[:, :, -1] += value
            while len(said) < len(answer):
                out = model(torch.tensor([said[-1:]]), past_key_values=cache, use_cache=True)
                said.append(int(out.logits[0, -1].argmax()))
        assert said == answer
    with pytest.raises(ValueError, match="cache=False"):
        generate(backbone, PROMPTS, policy, cache=False)


def test_perplexity_is_that_of_each_text_alone(backbone):
    told = generate(backbone, PROMPTS, max_new_tokens=4)
    rows = prompt_tokens(backbone, PROMPTS, 4)
    losses = []
    for row, answer in zip(rows, told.tokens, strict=True):
        ids = torch.tensor([[*row, *answer]])
        with torch.no_grad():
            logits = tiny_model("llama").double().eval()(ids).logits[0].log_softmax(-1)
        losses += [-float(logits[len(row) - 1 + k, token]) for k, token in enumerate(answer)]
    assert perplexity(backbone, rows, told.tokens, 3) == pytest.approx(np.exp(np.mean(losses)))


def test_bad_input_is_refused_before_the_work(backbone, found):
    some, target = texts()
    narrow = AddedDirection(gain=torch.ones(1, 8), layers=(0,), model={"hidden_size": 8, "blocks": 2})
    for said, act in {
        "does not separate": lambda: made("liseco", backbone, noise(backbone)),
        "no point in common": lambda: half_spaces([found], [(2.0, 1.0)], layers=(0,)),
        "have no end": lambda: half_spaces([found], [(None, None)], layers=(0,)),
        "blocks=": lambda: generate(backbone, PROMPTS, replaced(found, backbone, blocks=3)),
        "weights=": lambda: generate(backbone, PROMPTS, replaced(found, backbone, weights="0")),
        "hidden_size=8": lambda: opened(backbone, narrow),
        "takes at most 40": lambda: generate(backbone, PROMPTS, max_new_tokens=40),
        r"prompts=\[\]": lambda: generate(backbone, []),
        "max_new_tokens=0": lambda: generate(backbone, PROMPTS, max_new_tokens=0),
        "policy='x'": lambda: made("x", backbone, found),
        "tokens='x'": lambda: made("pid", backbone, found, tokens="x"),
        "strength=nan": lambda: made("pid", backbone, found, float("nan")),
        "layer=7": lambda: make_state_policy("pid", backbone, found, layers=(7,)),
        "layers=": lambda: make_state_policy("pid", backbone, found, layers=(1, 0)),
        "at least 4": lambda: contrast(backbone, some[:7], target[:7]),
        "target: has": lambda: contrast(backbone, some, target[:3]),
        "do not differ": lambda: contrast(backbone, ["a b"] * 16, [True, False] * 8),
        "encoder": lambda: contrast(tiny("bert"), some, target),
        "gain: is for states of 2": lambda: AddedDirection(
            gain=torch.ones(1, 2), layers=(0,), model={"hidden_size": 1, "blocks": 1}
        ),
        "gain: must be finite": lambda: AddedDirection(
            gain=torch.tensor([[torch.nan]]), layers=(0,), model={"hidden_size": 1, "blocks": 1}
        ),
    }.items():
        with pytest.raises(ValueError, match=said):
            act()
    with acting(backbone.model, backbone.layers, made("pid", backbone, found)):
        backbone.hidden_states(backbone.encode(PROMPTS[:2]))
        with pytest.raises(ValueError, match="began with 2 texts"):
            backbone.hidden_states(backbone.encode(PROMPTS))


def noise(backbone):
    """A contrast of labels that mean nothing."""
    some, _ = texts()
    return contrast(backbone, some, [bool(i % 4 > 1) for i in range(len(some))])


def replaced(found, backbone, **what):
    return replace(made("pid", backbone, found), model={**found.model, **what})


def opened(backbone, policy):
    with acting(backbone.model, backbone.layers, policy):
        raise AssertionError("a policy of another size must not act")
