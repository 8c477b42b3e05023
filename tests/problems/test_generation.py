from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny
from tiny_problems import copy_task, origin, same_run, toy_task

from deltatheory.backbones import Backbone
from deltatheory.deltas import make_delta
from deltatheory.problems.generation import GenerationProblem, scores, token_f1
from deltatheory.problems.tokens import batch_of
from deltatheory.tasks import Examples
from deltatheory.training.trainer import Training, train

KINDS = [("full", {"scope": "all"}), ("subspace", {"d": 60}), ("lora", {"r": 4})]


def copying(family: str = "gpt2", delta: str = "lora", backbone: Backbone | None = None, **options):
    backbone = backbone or tiny(family)
    made = make_delta(delta, backbone, **options.pop("delta_options", {"r": 4} if delta == "lora" else {}))
    settings = {"max_new_tokens": 3, "check": False} | options
    return GenerationProblem(backbone, copy_task(), made, **settings)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_learns_to_copy(family):
    problem = copying(family, "full", delta_options={"scope": "all"}, suffix=" p")
    before = origin(problem.backbone)
    frozen = problem.evaluate(problem.delta.initial(), problem.test)
    problem.restore()
    result = train(problem, Training(steps=200, batch_size=16, learning_rate=5e-3, evaluate_every=100))
    assert result.status == "finished"
    assert frozen["exact_match"] < 0.3
    assert result.test["exact_match"] > 0.9
    assert result.test["rouge_l"] > 0.9
    assert result.test["loss"] < 0.3 * frozen["loss"]
    assert result.dev[-1].keys() == {"step", "exact_match", "rouge_l", "token_f1", "loss"}
    assert all(torch.equal(p, before[n]) for n, p in problem.backbone.model.named_parameters())
    assert problem.evaluate(result.delta, problem.test) == result.test


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("delta", "options"), KINDS)
def test_the_loss_is_that_of_the_target_tokens_one_text_at_a_time(family, delta, options):
    problem = copying(family, delta, delta_options=options)
    backbone = problem.backbone
    generator = torch.Generator().manual_seed(0)
    point = 0.05 * torch.randn(problem.delta.size, generator=generator)
    batch, labels = problem.batch(problem.train, range(5))
    value, accuracy, gradient = problem.loss_and_gradient(point, batch, labels)
    losses, hits = [], []
    edit = problem.delta.edit(point)
    for i in range(5):
        source, target = problem.train.examples.texts[i], problem.train.examples.targets[i]
        ids = backbone.tokenizer(f"{source} {target} [SEP]")["input_ids"]
        hidden = backbone.hidden_states(backbone.encode([f"{source} {target} [SEP]"]), edit)[0]
        log_p = backbone.vocabulary_logits(hidden, edit.parameters).log_softmax(-1)
        for k in range(len(source.split()), len(ids)):
            losses.append(-log_p[k - 1, ids[k]])
            hits.append(float(log_p[k - 1].argmax() == ids[k]))
    assert len(losses) == 5 * 3
    assert value == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)
    assert accuracy == pytest.approx(np.mean(hits))
    problem.restore()
    leaf = point.clone().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(leaf, batch, labels), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert problem.passes == 3 * 5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_answers_are_those_of_transformers(family):
    """Batches of unequal lengths against `generate` on each text alone."""
    from tiny_models import tiny_model

    problem = copying(family, max_new_tokens=5)
    answers = problem.predict(problem.delta.initial(), problem.test)
    model = tiny_model(family).eval()
    for text, answer in zip(problem.test.examples.texts, answers, strict=True):
        ids = problem.backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=3, pad_token_id=0)
        expected = problem.backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer == expected.strip()
    assert len(set(answers)) > 1


def test_passes_of_answers_are_counted():
    problem = copying(max_new_tokens=4)
    calls, tokens = [], []
    hidden_states = problem.backbone.hidden_states

    def counted(batch, edit, **kept):
        whole = batch.input_ids.shape[1] > 1
        (calls if whole else tokens).append(len(batch))
        return hidden_states(batch, edit, **kept)

    problem.backbone.hidden_states = counted
    answers = problem.predict(problem.delta.initial(), problem.test)
    assert sum(calls) == len(problem.test)  # each source once
    assert 0 < sum(tokens) <= 3 * len(problem.test)  # and each token that is followed by another
    longest = max(map(len, problem.test.sources)) + 4
    shares = problem.passes - sum(calls)
    assert sum(tokens) / longest < shares < sum(tokens) / min(map(len, problem.test.sources))
    before = problem.passes
    problem.evaluate(problem.delta.initial(), problem.test)
    assert problem.passes == before * 2 + len(problem.test)  # and the loss
    assert answers


def test_a_prompt_acts_on_answers_too():
    """A change that is no change of parameters: through hooks of the forward pass."""
    problem = copying()
    from deltatheory.backbones import Edit

    zero = problem.delta.initial()
    before = problem.predict(zero, problem.test)
    problem.delta.edit = lambda _: Edit(
        prompt=3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    )
    assert problem.predict(zero, problem.test) != before


def test_the_suffix_stands_between_source_and_target_of_cut_texts():
    backbone = tiny("gpt2")
    task = copy_task()
    long = Examples(("a b c d e f g h",), targets=("o p",))
    task = replace(task, test=long)
    problem = GenerationProblem(
        backbone,
        task,
        make_delta("lora", backbone, r=1),
        suffix=" j k",
        max_length=8,
        max_new_tokens=3,
        check=False,
    )
    batch, labels = problem.batch(problem.test, [0])
    words = backbone.tokenizer.convert_ids_to_tokens(batch.input_ids[0].tolist())
    assert words == ["a", "b", "c", "j", "k", "o", "p", "[SEP]"]
    assert labels[0].tolist() == [-100] * 4 + [*backbone.tokenizer("o p")["input_ids"], 3] + [-100]
    assert problem.test.lengths.tolist() == [8]
    short = replace(task, test=Examples(("a",), targets=("b c d e f",)))
    cut = GenerationProblem(
        backbone, short, make_delta("lora", backbone, r=1), max_new_tokens=2, check=False
    ).test
    assert backbone.tokenizer.convert_ids_to_tokens(cut.targets[0]) == ["b", "c"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "qwen2"])
def test_rows_make_the_batch_that_texts_make(family):
    backbone = tiny(family)
    texts = ["a b c", "d", "e f"]
    ours = batch_of(backbone, backbone.tokenizer(texts)["input_ids"])
    theirs = backbone.encode(texts)
    for name in ("input_ids", "mask", "attention_mask", "position_ids"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_derivatives_pass_the_self_check():
    assert copying(check=True).check().passed


def test_a_generation_run_that_was_cut_off_goes_on(tmp_path):
    training = Training(steps=5, batch_size=8, learning_rate=0.01, evaluate_every=2)
    expected = train(copying(), training)

    def stop(step, _):
        if step == 3:
            raise KeyboardInterrupt

    file = {"checkpoint": tmp_path / "c", "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train(copying(), training, on_step=stop, **file)
    same_run(train(copying(), training, **file), expected)
    with pytest.raises(ValueError, match=r"another run: there suffix='', here ' p'"):
        train(copying(suffix=" p"), training, **file)


def test_broken_weights_are_a_status():
    result = train(copying(), Training(steps=2, batch_size=8, learning_rate=1e30))
    assert result.status.startswith("diverged: ")
    assert result.test is None


# answer, target: shared words 2 of 3 and 2; nothing; equal but for case, article and stop; order.
BY_HAND = [
    ("red fox ran", "red fox", 0.0, 0.8, 0.8),
    ("blue", "red fox", 0.0, 0.0, 0.0),
    ("The cat.", "cat", 0.0, 2 / 3, 1.0),
    ("fox red", "red fox", 0.0, 0.5, 1.0),
    (" red fox\n", "red fox", 1.0, 1.0, 1.0),
    ("", "red fox", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "target", "exact", "rouge", "f1"), BY_HAND)
def test_scores_by_hand(answer, target, exact, rouge, f1):
    found = scores([answer], [target])
    assert found == pytest.approx({"exact_match": exact, "rouge_l": rouge, "token_f1": f1})


def test_scores_are_means():
    found = scores([row[0] for row in BY_HAND], [row[1] for row in BY_HAND])
    assert found["rouge_l"] == pytest.approx(np.mean([row[3] for row in BY_HAND]))
    assert found["exact_match"] == pytest.approx(1 / 6)


def test_f1_counts_words_as_often_as_they_come():
    assert token_f1("x x y", "x y y") == pytest.approx(2 / 3)
    assert token_f1("the", "a") == 1.0
    assert token_f1("the", "x") == 0.0


def test_what_it_does_not_take():
    backbone = tiny("gpt2")
    lora = make_delta("lora", backbone, r=1)
    with pytest.raises(
        ValueError, match="is a classification task: allowed is generation; take ClassificationProblem"
    ):
        GenerationProblem(backbone, toy_task(), lora)
    with pytest.raises(
        ValueError, match=r"max_new_tokens=8: must be at least 1 and leave room .*max_length=8"
    ):
        GenerationProblem(backbone, copy_task(), lora, max_length=8, max_new_tokens=8)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        GenerationProblem(backbone, copy_task(), lora, max_new_tokens=0)
    encoder = tiny("bert")
    with pytest.raises(ValueError, match="has no lm_head: take a causal checkpoint"):
        GenerationProblem(encoder, copy_task(), make_delta("lora", encoder, r=1))
    backbone.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no eos_token"):
        GenerationProblem(backbone, copy_task(), lora)


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ImportError, match=r"pip install 'deltatheory\[generation\]'"):
        copying()
