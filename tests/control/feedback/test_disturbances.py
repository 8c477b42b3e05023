from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem

from deltatheory.control.feedback.disturbances import (
    DISTURBANCES,
    ActivationNoise,
    Disturbance,
    Substitutions,
    Trigger,
    Typos,
    disturbed_batches,
    find_trigger,
    make_disturbance,
    prepended,
    writable_tokens,
)
from deltatheory.tasks import Examples

TEXT = "the quick brown fox jumps over 1 lazy dog"


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_typos_change_words_by_one_letter(rate):
    texts = Examples((TEXT,) * 200, pairs=(TEXT,) * 200, labels=(0,) * 200)
    changed = Typos(rate=rate, seed=1).texts(texts)
    assert changed == Typos(rate=rate, seed=1).texts(texts)
    assert changed.labels == texts.labels
    words = [w.split(" ") for w in (*changed.texts, *changed.pairs)]
    assert {len(w) for w in words} == {9}
    assert all(w[6] == "1" for w in words)
    pairs = [(a, b) for w in words for a, b in zip(TEXT.split(), w, strict=True) if a != "1"]
    differing = sum(a != b for a, b in pairs) / len(pairs)
    # A replaced letter may be the same letter: 1 in 4 · 26.
    assert differing == pytest.approx(rate * (1 - 1 / 104), abs=0.05)
    for a, b in pairs:
        swapped = any(b == a[:i] + a[i + 1] + a[i] + a[i + 2 :] for i in range(len(a) - 1))
        replaced = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) <= 1
        dropped = any(b == a[:i] + a[i + 1 :] for i in range(len(a)))
        doubled = any(b == a[:i] + a[i] + a[i:] for i in range(len(a)))
        assert swapped or replaced or dropped or doubled
    if rate:
        assert changed != Typos(rate=rate, seed=2).texts(texts)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_substitutions_replace_a_share_of_the_own_tokens(family):
    backbone = tiny(family)
    batch = backbone.encode(["a b c d e f g h", "i j k"] * 200)
    changed = Substitutions(rate=0.4, seed=3).tokens(batch, backbone, 0)
    own = batch.mask.bool() & (batch.input_ids > 3)  # the first four are [PAD], [UNK], [CLS], [SEP]
    assert torch.equal(changed.input_ids[~own], batch.input_ids[~own])
    share = (changed.input_ids != batch.input_ids)[own].double().mean()
    assert share == pytest.approx(0.4 * 15 / 16, abs=0.03)  # 16 letters: one in 16 draws is the same
    again = Substitutions(rate=0.4, seed=3)
    assert torch.equal(again.tokens(batch, backbone, 0).input_ids, changed.input_ids)
    assert not torch.equal(again.tokens(batch, backbone, 1).input_ids, changed.input_ids)
    assert torch.isin(changed.input_ids[own], writable_tokens(backbone)).all()


def test_writable_tokens_are_the_words_without_the_special_ones():
    backbone = tiny("bert")
    assert writable_tokens(backbone).tolist() == list(range(4, 20))


@pytest.mark.parametrize(("family", "texts"), [("bert", "[CLS] o p a b c [SEP]"), ("gpt2", "o p a b c")])
def test_a_trigger_stands_before_the_text_as_if_it_were_written_there(family, texts):
    backbone = tiny(family)
    trigger = tuple(backbone.tokenizer("o p", add_special_tokens=False)["input_ids"])
    batch = Trigger(trigger=trigger).tokens(backbone.encode(["a b c", "d"]), backbone, 0)
    written = backbone.encode(["o p a b c", "o p d"])
    assert backbone.tokenizer.decode(batch.input_ids[0]) == texts
    assert torch.equal(batch.input_ids * batch.mask.long(), written.input_ids * written.mask.long())
    torch.testing.assert_close(backbone.pooled(batch), backbone.pooled(written))
    with pytest.raises(ValueError, match="tokens: 40 before 5"):
        prepended(backbone.encode(["a b c" if family == "bert" else "a b c d e"]), backbone, (4,) * 40)


def loss_behind(problem, delta, trigger):
    batch, labels = problem.batch(problem.train, range(len(problem.train)))
    logits = problem.logits(delta, prepended(batch, problem.backbone, trigger))
    return float(torch.nn.functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_trigger_found_is_the_worst_of_all(family):
    problem = toy_problem("prefix", family=family, length=2, gate="values", dtype=torch.float64)
    delta = 0.1 * torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0)).double()
    losses = {i: loss_behind(problem, delta, (i,)) for i in writable_tokens(problem.backbone).tolist()}
    found = find_trigger(problem, delta, length=1, rounds=1, candidates=16, examples=24)
    assert found == (max(losses, key=losses.get),)


def test_the_gradient_ranks_the_candidates():
    problem = toy_problem("prefix", length=2, gate="values", dtype=torch.float64)
    delta = problem.delta.initial()
    letters = writable_tokens(problem.backbone).tolist()
    losses = [loss_behind(problem, delta, pair) for pair in itertools.product(letters[::2], letters[1::2])]
    few = find_trigger(problem, delta, length=2, rounds=1, candidates=2, examples=24)
    # Two candidates at each place must come among the worst of many pairs: the gradient has to choose them.
    assert loss_behind(problem, delta, few) > torch.tensor(losses).quantile(0.9)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_noise_has_its_scale_and_is_the_same_for_the_same_seed(scale):
    backbone = tiny("bert")
    batch = backbone.encode(["a b c d e f g h"] * 64)
    clean = backbone.hidden_states(batch)

    def noisy(seed):  # behind the last block alone, where nothing follows
        with torch.no_grad(), ActivationNoise(scale=scale, seed=seed).acting(backbone.layers[1:]):
            return backbone.hidden_states(batch)

    noise = noisy(1) - clean
    assert float(noise.std()) == pytest.approx(scale * float(clean.square().mean().sqrt()), rel=0.05)
    assert torch.equal(noisy(1), noisy(1))
    assert (scale == 0) == torch.equal(noisy(1), noisy(2))
    torch.testing.assert_close(backbone.hidden_states(batch), clean, rtol=0, atol=0)


def test_batches_hold_every_text_once_with_its_label():
    problem = toy_problem("prefix", length=2, gate="values")
    batches = disturbed_batches(problem, problem.test, Disturbance(), 5)
    assert [len(b) for b, _ in batches] == [5, 5, 2]
    rows = sorted(
        (problem.backbone.tokenizer.decode(ids[m.bool()]), int(y))
        for batch, labels in batches
        for ids, m, y in zip(batch.input_ids, batch.mask, labels, strict=True)
    )
    examples = problem.test.examples
    assert rows == sorted(
        (f"[CLS] {x} [SEP]", y) for x, y in zip(examples.texts, examples.labels, strict=True)
    )


def test_by_name():
    problem = toy_problem("prefix", length=2, gate="values")
    delta = problem.delta.initial()
    for name in DISTURBANCES:
        options = {"length": 1, "candidates": 2, "rounds": 1} if name == "trigger" else {}
        assert make_disturbance(name, problem, delta, seed=4, **options).name == name
    assert make_disturbance("noise", problem, delta, seed=4, scale=0.1) == ActivationNoise(seed=4, scale=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: make_disturbance("rain", p, p.delta.initial()), "disturbance='rain'"),
        (lambda p: Typos(rate=1.5), "rate=1.5"),
        (lambda p: Substitutions(rate=-0.1), "rate=-0.1"),
        (lambda p: ActivationNoise(scale=-1.0), "scale=-1.0"),
        (lambda p: find_trigger(p, p.delta.initial(), length=0), "length=0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(toy_problem("prefix", length=2, gate="values"))
