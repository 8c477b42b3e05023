"""Encoder-decoders against `transformers`: logits, loss, greedy answers, kept keys and values; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import copy_task, toy_task

from deltatheory import autodiff
from deltatheory.backbones import CachedTexts, Edit, load_backbone, wrap_model
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem, GenerationProblem
from deltatheory.problems.tokens import batch_of

GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES = {"t5": ("t5", {}), "gated t5": ("t5", GATED), "mt5": ("mt5", {}), "bart": ("bart", {})}
ROWS, ANSWERS = [[4, 9, 5, 12, 8], [5, 7], [10, 6, 11]], [[6, 7, 5], [9, 4], [8, 11, 13]]
QUIET = 0.3  # of the special tokens' embeddings, so that answers have words and are of all lengths


def pair(case):
    """A backbone and the untouched model of the same weights."""
    family, options = CASES[case]
    model, plain = tiny_model(family, **options), tiny_model(family, **options)
    with torch.no_grad():
        for one in (model, plain):
            one.get_input_embeddings().weight[:4] *= QUIET
    plain.set_attn_implementation("eager")
    return wrap_model(model, tiny_tokenizer(family), name=case), plain.eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_states_and_loss_are_the_models_own(case):
    backbone, plain = pair(case)
    read = [[*backbone.start, *row] for row in ANSWERS]
    batch = batch_of(backbone, ROWS, answers=read)
    real = batch.decoder.mask.bool()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.mask.long()}
    own = plain(**inputs, decoder_input_ids=batch.decoder.input_ids).logits
    states = backbone.hidden_states(batch)
    torch.testing.assert_close(backbone.vocabulary_logits(states)[real], own[real], rtol=0, atol=1e-5)
    x = backbone.embed(batch)
    for t in range(len(backbone.layers)):
        x = backbone.step(t, x, batch)
    torch.testing.assert_close(backbone.readout(x, batch)[real], states[real], rtol=0, atol=1e-5)

    # what a classification reads: the label words behind the start of the decoder
    problem = ClassificationProblem(
        backbone, toy_task(4, train=8), make_delta("layernorm", backbone), "verbalizer", check=False
    )
    few, _ = problem.batch(problem.train, range(4))
    start = torch.tensor([backbone.start] * 4)
    inputs = {"input_ids": few.input_ids, "attention_mask": few.mask.long()}
    expected = plain(**inputs, decoder_input_ids=start).logits[:, -1, list(problem.head.tokens)]
    torch.testing.assert_close(problem.logits(problem.delta.initial(), few), expected, rtol=0, atol=1e-5)

    # the loss of generation
    problem = GenerationProblem(
        backbone, copy_task(), make_delta("layernorm", backbone), max_new_tokens=4, check=False
    )
    few, labels = problem.batch(problem.train, range(4))
    inputs = {"input_ids": few.input_ids, "attention_mask": few.mask.long()}
    expected = plain(**inputs, decoder_input_ids=few.decoder.input_ids, labels=labels).loss
    loss = problem.loss(problem.delta.initial(), few, labels)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_greedy_answers_are_those_of_generate(case):
    backbone, plain = pair(case)
    problem = GenerationProblem(
        backbone, copy_task(test=6), make_delta("layernorm", backbone), max_new_tokens=5, check=False
    )
    answers = problem.predict(problem.delta.initial(), problem.test)
    assert len(set(answers)) > 1
    for source, answer in zip(problem.test.sources, answers, strict=True):
        ids = torch.tensor([source])
        out = plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            decoder_input_ids=torch.tensor([backbone.start]),
            max_new_tokens=5,
            do_sample=False,
            num_beams=1,
            forced_eos_token_id=None,
        )
        own = out[0, len(backbone.start) :]
        assert answer == backbone.tokenizer.decode(own, skip_special_tokens=True).strip()


PREFIX = {"length": 2, "gate": "none", "shift": True}


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("t5", "prefix", PREFIX),
        ("bart", "prefix", PREFIX),
        ("bart", "ia3", {}),
    ],
)
@torch.no_grad()
def test_kept_keys_and_values_change_nothing(family, name, options):
    backbone = tiny(family, dtype=torch.float64)
    delta = make_delta(name, backbone, **options)
    torch.manual_seed(0)
    edit = delta.edit(0.3 * torch.randn(delta.size, dtype=torch.float64))
    rows, read = list(ROWS), [list(backbone.start)] * 3
    texts = CachedTexts(backbone, batch_of(backbone, rows), edit)
    runs = []
    encoder = backbone.model.encoder.register_forward_hook(lambda *_: runs.append(1))
    for step, tokens in enumerate(([6, 7, 5], [9, 4], [8, 11])):
        whole = backbone.hidden_states(batch_of(backbone, rows, answers=read), edit)[:, -1]
        torch.testing.assert_close(texts.last, whole)
        if step == 1:
            texts.keep([0, 2])
            rows, read = [rows[0], rows[2]], [read[0], read[2]]
        runs.clear()
        texts.read(torch.tensor(tokens))
        assert not runs  # the encoder does not run again
        read = [[*row, token] for row, token in zip(read, tokens, strict=True)]
    encoder.remove()


@pytest.mark.parametrize("case", ["gated t5", "bart"])
@torch.no_grad()
def test_a_saved_checkpoint_is_the_model(case, tmp_path):
    backbone, plain = pair(case)
    plain.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    # by identity: `tie_word_embeddings=False` of a built model says nothing
    assert loaded.lm_head.weight is loaded.model.get_input_embeddings().weight
    batch = batch_of(backbone, ROWS)
    expected = backbone.vocabulary_logits(backbone.hidden_states(batch))
    assert torch.equal(loaded.vocabulary_logits(loaded.hidden_states(batch)), expected)


def test_t5_is_smooth_in_float64():
    """Its norms round to float32 in between: differences agreed to 2e-4 only."""
    backbone = tiny("t5", dtype=torch.float64, num_layers=1, num_decoder_layers=1)
    problem = ClassificationProblem(
        backbone, toy_task(), make_delta("layernorm", backbone), "verbalizer", check=False
    )
    batch, labels = problem.batch(problem.train, [0, 1])
    at = problem.delta.initial()
    v, h = torch.ones_like(at) / len(at) ** 0.5, 1e-5
    slope = float(autodiff.grad(lambda x: problem.loss(x, batch, labels), at) @ v)
    there, back = (problem.loss(at + s * h * v, batch, labels) for s in (1, -1))
    assert float(there - back) / (2 * h) == pytest.approx(slope, abs=1e-8)


def test_passes_of_half_precision_are_finite():
    backbone = tiny("t5", dtype=torch.bfloat16)
    delta = make_delta("prefix", backbone, length=2)
    problem = ClassificationProblem(backbone, toy_task(), delta, "verbalizer", check=False)
    batch, _ = problem.batch(problem.train, [0, 1])
    assert problem.logits(delta.initial(), batch).isfinite().all()


@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_fast_attention_is_the_same(family):
    batch = batch_of(tiny(family), ROWS)
    eager, fast = (tiny(family, attention).hidden_states(batch) for attention in ("eager", "sdpa"))
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


# Refusals --------------------------------------------------------------------------------------------------


def test_a_decoder_without_a_start_token_is_refused(tmp_path):
    model, tokenizer = tiny_model("t5", decoder_start_token_id=None), tiny_tokenizer("t5")
    with pytest.raises(ValueError, match=r"decoder_start_token_id=None of 'x'.*pad_token_id for T5"):
        wrap_model(model, tokenizer, name="x")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="decoder_start_token_id=None"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "auto", "message"),
    [
        ("bart", "AutoModelForCausalLM", "is_encoder_decoder=False with model_type='bart'.*causal head"),
        ("t5", "AutoModelForQuestionAnswering", "'x' is a T5ForQuestionAnswering.*T5ForSequenceClassif"),
        ("bart", "AutoModelForQuestionAnswering", "'x' is a BartForQuestionAnswering"),
    ],
)
def test_one_stack_and_other_heads_are_refused(family, auto, message):
    model = tiny_model(family, getattr(transformers, auto))
    with pytest.raises(ValueError, match=message):
        wrap_model(model, tiny_tokenizer(family), name="x")


def test_answers_beyond_the_context_are_refused():
    backbone = tiny("bart")
    about = {"max_length": 5, "check": False}
    with pytest.raises(ValueError, match=r"max_new_tokens=40: must lie in 1\.\.39, what the decoder of"):
        GenerationProblem(backbone, copy_task(), make_delta("bitfit", backbone), max_new_tokens=40, **about)
    read = [[3] * 39]
    with pytest.raises(ValueError, match="takes at most 40"):
        backbone.hidden_states(batch_of(backbone, [[4]], answers=read), Edit(shift=2))


def test_label_words_that_do_not_fit_are_refused():
    backbone = tiny("t5")
    task = toy_task()
    delta = make_delta("layernorm", backbone)
    for words, message in ((("", "b"), "gives it no token"), (("a b", "a"), "begin with the same token 'a'")):
        with pytest.raises(ValueError, match=message):
            ClassificationProblem(
                backbone, replace(task, label_words=words), delta, "verbalizer", check=False
            )
