"""Every supported family with its options switched on, against the model's own forward."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY, tiny_model, tiny_tokenizer
from tiny_problems import toy_task
from torch.nn.functional import cross_entropy

from deltatheory.backbones import wrap_model
from deltatheory.deltas import make_delta
from deltatheory.problems import ClassificationProblem, GenerationProblem
from deltatheory.tasks import Examples, Task

TEXTS = ["a b c d e", "b", "f e d c"]
# What a configuration may ask of the output's form, which is none of a backbone's business.
FORM = {"return_dict": False, "output_hidden_states": True, "use_cache": True}
ROPE = {"rope_theta": 100.0, "rope_type": "linear", "factor": 2.0}
BERT = {"hidden_act": "relu", "layer_norm_eps": 0.1, "chunk_size_feed_forward": 1}
# Whatever changes the forward pass; tied and untied heads, where a family has one.
OPTIONS: dict[str, list[dict]] = {
    "bert": [BERT | {"type_vocab_size": 3}],
    "roberta": [BERT | {"type_vocab_size": 3}],
    "camembert": [BERT],
    "xlm-roberta": [BERT],
    "gpt2": [
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "n_inner": 24},
        {"scale_attn_weights": False, "activation_function": "relu", "tie_word_embeddings": False},
    ],
    "llama": [
        {"attention_bias": True, "mlp_bias": True, "head_dim": 12, "rope_parameters": ROPE},
        {"tie_word_embeddings": True, "hidden_act": "gelu", "pretraining_tp": 2},
    ],
    "mistral": [{"head_dim": 12, "sliding_window": 6, "tie_word_embeddings": True}, {"sliding_window": None}],
    "qwen2": [{"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}],
    "qwen3": [
        {"attention_bias": True, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
        {"tie_word_embeddings": True, "head_dim": 12},
    ],
    "gemma": [{"attention_bias": True, "tie_word_embeddings": False, "hidden_act": "relu"}],
    "gemma2": [
        {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 5},
        {"final_logit_softcapping": None, "attn_logit_softcapping": None, "attention_bias": True},
    ],
    "gpt_neox": [
        {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.5},
        {"tie_word_embeddings": True, "hidden_act": "relu"},
    ],
    "opt": [
        {"word_embed_proj_dim": 8, "do_layer_norm_before": False},  # the 350M model
        {"word_embed_proj_dim": 8, "enable_bias": False, "tie_word_embeddings": False},
        {"layer_norm_elementwise_affine": False, "activation_function": "gelu"},
    ],
}
CASES = [(family, options) for family in TINY for options in OPTIONS.get(family, [{}])]


@pytest.fixture(params=CASES, ids=lambda case: "-".join((case[0], *case[1])))
def pair(request):
    """A backbone and the untouched model of the same weights."""
    family, options = request.param
    model, plain = tiny_model(family, **options, **FORM), tiny_model(family, **options)
    plain.set_attn_implementation("eager")
    return wrap_model(model, tiny_tokenizer(family), name=family), plain.eval()


def test_options_are_those_of_families_that_there_are():
    assert set(OPTIONS) <= set(TINY)


@torch.no_grad()
def test_states_whole_and_block_by_block_are_the_models_own(pair):
    backbone, plain = pair
    batch = backbone.encode(TEXTS, max_length=5)
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    expected = plain.base_model(
        input_ids=batch.input_ids, attention_mask=batch.mask.long(), **types
    ).last_hidden_state
    real = batch.mask.bool()
    torch.testing.assert_close(backbone.hidden_states(batch)[real], expected[real], rtol=0, atol=2e-5)
    x = backbone.embed(batch)
    for t in range(len(backbone.layers)):
        assert x.shape[-1] == backbone.hidden_size
        x = backbone.step(t, x, batch)
    torch.testing.assert_close(backbone.readout(x)[real], expected[real], rtol=0, atol=2e-5)
    assert backbone.pooled(batch).shape == (3, backbone.output_size)


@torch.no_grad()
def test_logits_and_losses_are_the_models_own(pair):
    backbone, plain = pair
    if backbone.kind == "encoder":
        pytest.skip("an encoder has no lm_head")
    batch = backbone.encode(TEXTS, max_length=5)
    own = plain(input_ids=batch.input_ids, attention_mask=batch.mask.long()).logits
    real = batch.mask.bool()
    ours = backbone.vocabulary_logits(backbone.hidden_states(batch))
    torch.testing.assert_close(ours[real], own[real], rtol=0, atol=5e-5)

    # the verbalizer: the logits of the label words at the last token
    task = toy_task(4, train=8)
    problem = ClassificationProblem(
        backbone, task, make_delta("full", backbone), "verbalizer", max_length=5, check=False
    )
    few, _ = problem.batch(problem.train, range(4))
    last = few.mask.long().sum(1) - 1
    own = plain(input_ids=few.input_ids, attention_mask=few.mask.long()).logits
    words = list(problem.head.tokens)
    expected = own[torch.arange(4), last][:, words]
    torch.testing.assert_close(problem.logits(problem.delta.initial(), few), expected, rtol=0, atol=5e-5)


@torch.no_grad()
def test_the_generation_loss_is_the_models_own(pair):
    backbone, plain = pair
    if backbone.kind == "encoder":
        pytest.skip("an encoder does not generate")
    pytest.importorskip("rouge_score")
    split = Examples(("a b", "c d e"), targets=("f", "g"))
    task = Task("toy", "generation", (), split, split, split, {})
    problem = GenerationProblem(
        backbone, task, make_delta("full", backbone), max_length=5, max_new_tokens=2, check=False
    )
    batch, labels = problem.batch(problem.train, [0, 1])
    out = plain(input_ids=batch.input_ids, attention_mask=batch.mask.long())
    # theirs: a label is the token itself, and is moved inside
    theirs = torch.full_like(labels, -100)
    theirs[:, 1:] = labels[:, :-1]
    expected = cross_entropy(out.logits[:, :-1].flatten(0, 1), theirs[:, 1:].flatten())
    own = plain(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=theirs).loss
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-5)
    loss = problem.loss(problem.delta.initial(), batch, labels)
    torch.testing.assert_close(loss, own, rtol=0, atol=5e-5)


@pytest.mark.parametrize("head", ["label-words", "prototypes", "probe", "random"])
def test_two_widths_fit_every_head(head):
    options = {"word_embed_proj_dim": 8, "do_layer_norm_before": False}
    backbone = wrap_model(tiny_model("opt", **options), tiny_tokenizer("opt"), name="opt")
    assert (backbone.embedding_size, backbone.hidden_size, backbone.output_size) == (8, 16, 8)
    problem = ClassificationProblem(backbone, toy_task(2, train=8), make_delta("full", backbone), head)
    assert problem.head.weight.shape == (2, 8)


@pytest.mark.parametrize(
    "delta", ["lora", "adapter", "prompt", "prefix", "intrinsic-prompt", "ladder", "bitfit"]
)
def test_two_widths_fit_deltas_everywhere(delta):
    """Blocks are wider than words, and what stands at each place has that place's width."""
    options = {"word_embed_proj_dim": 8}
    backbone = wrap_model(tiny_model("opt", **options), tiny_tokenizer("opt"), name="opt")
    problem = ClassificationProblem(backbone, toy_task(2, train=8), make_delta(delta, backbone))
    batch, _ = problem.batch(problem.train, [0, 1])
    assert problem.logits(problem.delta.initial(), batch).isfinite().all()


@pytest.mark.parametrize("family", ["gemma", "gemma2"])
def test_tokens_that_see_later_ones_are_refused(family):
    model = tiny_model(family, use_bidirectional_attention=True)
    with pytest.raises(ValueError, match="use_bidirectional_attention=True with model_type='gemma"):
        wrap_model(model, tiny_tokenizer(family), name="x")
