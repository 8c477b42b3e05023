"""Heads that a checkpoint brings: masked language models and classifiers, as `transformers` has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import TINY, is_causal, tiny, tiny_model, tiny_tokenizer
from tiny_problems import copy_task, toy_task
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSequenceClassification

from deltatheory.backbones import load_backbone, wrap_model
from deltatheory.deltas import LoRA
from deltatheory.problems import ClassificationProblem, make_head
from deltatheory.problems.setup import Setup

CLASSES = 4
ENCODERS = [family for family in TINY if not is_causal(family)]


def saved(folder, family, auto, mask=True, **extra):
    """The folder of a tiny checkpoint; the letter p is its mask."""
    model = tiny_model(family, auto, **extra)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer(family)
    if mask:
        tokenizer.mask_token = "p"
    tokenizer.save_pretrained(folder)
    return model.eval()


def paired(task):
    splits = {name: getattr(task, name) for name in ("train", "dev", "test")}
    return replace(task, **{name: replace(x, pairs=x.texts[::-1]) for name, x in splits.items()})


def tiny_whole(backbone):
    """A model of `transformers` around base model and classifier of a RoBERTa backbone."""
    model = AutoModelForSequenceClassification.from_config(backbone.model.config).eval()
    model.roberta, model.classifier = backbone.model, backbone.classifier
    return model


def theirs(model, batch):
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    return model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), **types).logits


# Masked language models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("pairs", [False, True])
def test_label_words_are_read_at_the_mask_as_transformers_does(tmp_path, family, pairs):
    model = saved(tmp_path, family, AutoModelForMaskedLM)
    backbone, task = load_backbone(str(tmp_path)), toy_task(CLASSES, train=12)
    task = paired(task) if pairs else task
    head = make_head("verbalizer", backbone, task, suffix=" o [MASK] n")
    problem = ClassificationProblem(backbone, task, LoRA(backbone, r=1), head, max_length=9, check=False)
    batch, _ = problem.batch(problem.train, range(6))
    words = [backbone.tokenizer.convert_ids_to_tokens(row) for row in batch.input_ids.tolist()]
    first = task.train.texts[0].split()
    assert words[0][: 4 + min(len(first), 4)][-3:] == ["o", "p", "n"] or pairs
    at = [len(row) - 1 - row[::-1].index("p") for row in words]
    expected = theirs(model, batch)[torch.arange(6), at][:, list(head.tokens)]
    torch.testing.assert_close(problem.logits(problem.delta.initial(), batch), expected)
    assert [backbone.tokenizer.convert_ids_to_tokens(i) for i in head.tokens] == list(task.label_words)
    assert problem.train.lengths.max() <= 9


def test_the_suffix_ends_the_first_of_two_texts_and_is_never_cut(tmp_path):
    saved(tmp_path, "bert", AutoModelForMaskedLM)
    backbone, task = load_backbone(str(tmp_path)), paired(toy_task(CLASSES, train=12, length=6))
    setup = Setup(backbone, task, head="verbalizer", suffix=" o [MASK]", max_length=11)
    problem = setup.problem("bitfit", check=False)
    batch, _ = problem.batch(problem.train, [0])
    texts = (" ".join(x.split()[:3]) for x in (task.train.texts[0], task.train.pairs[0]))
    first, second = texts
    whole = backbone.encode([f"{first} o p"], [second])
    assert torch.equal(batch.input_ids, whole.input_ids)
    assert torch.equal(batch.token_type_ids, whole.token_type_ids)
    assert torch.equal(batch.position_ids, whole.position_ids)
    with pytest.raises(ValueError, match="max_length=4: must be above 4, the head's suffix"):
        setup.replace(task=toy_task(CLASSES), max_length=4).problem("bitfit")


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForPreTraining])
def test_the_base_model_is_the_same_with_and_without_its_head(tmp_path, auto):
    """Its pooler too: files and hashes that name a backbone stay valid."""
    model = saved(tmp_path, "bert", auto)
    backbone = load_backbone(str(tmp_path))
    state = {k: v for k, v in backbone.model.state_dict().items() if not k.startswith("pooler.")}
    own = model.bert.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in state.items())
    assert (backbone.model.pooler is None) == (auto is AutoModelForMaskedLM)
    words = backbone.model.get_input_embeddings().weight
    assert backbone.lm_head.predictions.decoder.weight is words
    assert backbone.provenance["architecture"] == "BertModel"


def test_a_tied_decoder_is_tuned_with_the_embedding_in_an_encoder(tmp_path):
    saved(tmp_path, "bert", AutoModelForMaskedLM)
    setup = Setup(load_backbone(str(tmp_path)), toy_task(CLASSES), head="verbalizer", suffix=" o [MASK]")
    problem = setup.problem("full", {"scope": "all"}, check=False)
    generator = torch.Generator().manual_seed(0)
    point = 0.05 * torch.randn(problem.delta.size, generator=generator)
    batch, _ = problem.batch(problem.train, range(4))
    pure = problem.logits(point, batch)
    problem.delta.write(point)
    written = problem.read(problem.backbone.hidden_states(batch), batch)
    problem.restore()
    torch.testing.assert_close(pure, written, rtol=0, atol=1e-5)


def test_what_a_verbalizer_needs_of_an_encoder(tmp_path):
    task = toy_task(CLASSES)
    with pytest.raises(ValueError, match=r"'tiny-bert' \(encoder\) has no lm_head.*AutoModelForMaskedLM"):
        make_head("verbalizer", tiny("bert"), task, suffix=" o [MASK]")
    saved(tmp_path, "bert", AutoModelForMaskedLM)
    backbone = load_backbone(str(tmp_path))
    for suffix, masks in (("", 0), (" o", 0), (" [MASK] o p", 2)):
        with pytest.raises(ValueError, match=rf"suffix='{suffix}' has {masks} masks".replace("[", r"\[")):
            make_head("verbalizer", backbone, task, suffix=suffix)
    long = replace(task, label_words=("a", "b c", "d", "e"))
    with pytest.raises(ValueError, match=r"label_words='b c' of task 'toy' is 2 tokens .*of one each"):
        make_head("verbalizer", backbone, long, suffix=" o [MASK]")
    with pytest.raises(ValueError, match="has no lm_head: take a causal checkpoint"):
        make_head("verbalizer", tiny("bert"), task)
    backbone.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask_token"):
        make_head("verbalizer", backbone, task, suffix=" o [MASK]")


# Classifiers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TINY)
def test_a_classifier_is_that_of_transformers(family):
    model = tiny_model(family, AutoModelForSequenceClassification, num_labels=CLASSES)
    backbone = wrap_model(model, tiny_tokenizer(family), name="tiny")
    problem = Setup(backbone, toy_task(CLASSES, train=12), head="own").problem("layernorm", check=False)
    batch, _ = problem.batch(problem.train, range(6))
    assert len(set(batch.mask.sum(1).tolist())) > 1
    model.config.pad_token_id = backbone.tokenizer.pad_token_id  # where theirs looks for the last token
    torch.testing.assert_close(problem.logits(problem.delta.initial(), batch), theirs(model, batch))


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "gpt2", "llama", "gemma2", "gpt_neox", "opt", "t5", "bart"]
)
def test_a_classifier_comes_with_its_checkpoint(tmp_path, family):
    model = saved(tmp_path, family, AutoModelForSequenceClassification, num_labels=CLASSES)
    backbone = load_backbone(str(tmp_path))
    problem = Setup(backbone, toy_task(CLASSES, train=12), head="own").problem("layernorm", check=False)
    batch, _ = problem.batch(problem.train, range(6))
    model.config.pad_token_id = backbone.tokenizer.pad_token_id
    torch.testing.assert_close(problem.logits(problem.delta.initial(), batch), theirs(model, batch))


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_a_classifier_of_weights_in_half_precision(tmp_path, family):
    saved(tmp_path, family, AutoModelForSequenceClassification)
    whole, half = (load_backbone(str(tmp_path), dtype=dtype) for dtype in ("float32", "bfloat16"))
    setups = [Setup(backbone, toy_task(train=8), head="own") for backbone in (whole, half)]
    problems = [setup.problem("lora:1", check=False, train_head=True) for setup in setups]
    point = 0.1 * torch.randn(problems[0].delta.size, generator=torch.Generator().manual_seed(0))
    one, other = (problem.logits(point, problem.batch(problem.train, range(4))[0]) for problem in problems)
    assert other.dtype == torch.float32
    assert float((one - other).norm() / one.norm()) < 0.2  # another classifier is off by 1 and more


def test_classes_are_told_by_their_names_where_both_name_them(tmp_path):
    names = {0: "CLASS-2", 1: "CLASS-0", 2: "CLASS-1"}
    model = saved(tmp_path, "bert", AutoModelForSequenceClassification, id2label=names)
    backbone, task = load_backbone(str(tmp_path)), toy_task(3, train=12)
    problem = ClassificationProblem(backbone, task, LoRA(backbone, r=1), "own", check=False)
    batch, _ = problem.batch(problem.train, range(3))
    logits = problem.logits(problem.delta.initial(), batch)
    torch.testing.assert_close(logits, theirs(model, batch)[:, [1, 2, 0]])
    torch.testing.assert_close(problem.head.weight, model.classifier.weight[[1, 2, 0]])


def test_what_the_own_head_needs(tmp_path):
    with pytest.raises(ValueError, match="head='own': 'tiny-bert' has no classification head of its own"):
        make_head("own", tiny("bert"), toy_task())
    saved(tmp_path, "bert", AutoModelForSequenceClassification, num_labels=3)
    backbone = load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match=r"has 3 classes \(label_0, .*\), and task 'toy' has 2 \(class-0"):
        make_head("own", backbone, toy_task(2))
    backbone.model.pooler = None
    with pytest.raises(ValueError, match="lacks the pooler before its classifier"):
        make_head("own", backbone, toy_task(3))


def test_the_classifier_of_an_encoder_decoder_reads_where_the_text_ends():
    from deltatheory.control.reach.question import pose

    model = tiny_model("t5", AutoModelForSequenceClassification)
    setup = Setup(wrap_model(model, tiny_tokenizer("gpt2"), name="x"), toy_task(train=8), head="own")
    problem = setup.problem("lora:1", check=False)
    with pytest.raises(ValueError, match=r"one ends without '\[SEP\]', where the classifier of 'x' reads"):
        problem.batch(problem.train, range(2))
    with pytest.raises(ValueError, match="head='own' of the encoder-decoder 'x' reads a text twice"):
        pose(setup, "label", "classes")


def test_weights_of_a_head_that_are_missing_leave_none(tmp_path):
    model = tiny_model("bert", AutoModelForSequenceClassification)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    model.save_pretrained(tmp_path, state_dict=state)
    tiny_tokenizer("bert").save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).classifier is None
    model.config.num_labels = 3
    model.save_pretrained(tmp_path)  # whose weights are for two
    assert load_backbone(str(tmp_path)).classifier is None


def test_the_values_of_an_own_head_are_in_its_name(tmp_path):
    saved(tmp_path, "gpt2", AutoModelForSequenceClassification)
    head = make_head("own", load_backbone(str(tmp_path)), toy_task())
    before = head.identity()
    with torch.no_grad():
        head.classifier.weight.add_(1)
    assert head.identity() != before
    assert head.identity().keys() == {"head", "head_sha256"}


@pytest.mark.parametrize(
    ("family", "head", "delta"),
    [
        ("bert", "own", "lora:1"),
        ("llama", "own", "lora:1"),
        ("roberta", "own", "full"),
        ("t5", "own", "lora:1"),
        ("bert", "mask", "full"),
    ],
)
def test_theory_reads_what_training_reads(tmp_path, family, head, delta):
    """The cut at the layers, the kernel by factors and rows of J are of the same logits."""
    from deltatheory.control import LayeredSystem
    from deltatheory.linearization import tangent_kernels
    from deltatheory.linearization.tangent import tangent_rows

    own = head == "own"
    saved(tmp_path, family, AutoModelForSequenceClassification if own else AutoModelForMaskedLM)
    read = {"head": "own"} if own else {"head": "verbalizer", "suffix": " o [MASK]"}
    setup = Setup(load_backbone(str(tmp_path)), toy_task(train=8), **read)
    problem = setup.classification(delta, check=False)
    LayeredSystem(problem, [0, 1, 2])  # holds its steps against the whole network
    exact = tangent_rows(problem, train=6, test=2, sketch=1 << 30).kernel()
    (found,) = tangent_kernels(problem, [problem.delta], train=6, test=2)
    assert float((found.kernel() - exact).norm() / exact.norm()) < 1e-5


# Heads that are trained ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["label-words", "probe", "calibrated-label-words"])
def test_a_head_is_trained_beside_a_delta(tmp_path, kind):
    from deltatheory.deltas.files import load_delta, save_delta
    from deltatheory.training import Training, train

    setup = Setup(tiny("bert"), toy_task(CLASSES, train=24), head=kind)
    problem, alone = (setup.problem("lora:1", check=False, train_head=t) for t in (True, False))
    assert problem.delta.size == alone.delta.size + CLASSES * 17
    batch, _ = problem.batch(problem.train, range(5))
    zero = problem.delta.initial()
    assert torch.equal(problem.logits(zero, batch), alone.logits(alone.delta.initial(), batch))
    result = train(problem, Training(steps=4, batch_size=8, learning_rate=0.05))
    _, head = problem.delta.split(result.delta)
    assert all((head[name] - p).abs().max() > 1e-3 for name, p in setup.head.parameters().items())
    save_delta(tmp_path / "delta.safetensors", problem.delta, result.delta)
    delta, values = load_delta(tmp_path / "delta.safetensors", setup.backbone)
    again = setup.problem(delta, check=False)
    assert torch.equal(again.logits(values, batch), problem.logits(result.delta, batch))
    assert again.evaluate(values, again.test) == problem.evaluate(result.delta, problem.test)
    with pytest.raises(ValueError, match=rf"trained beside δ was head='{kind}'"):
        setup.replace(head="random").problem(delta)


def test_the_gradient_of_both_parts_and_of_full_fine_tuning_with_a_head(tmp_path):
    saved(tmp_path, "roberta", AutoModelForSequenceClassification)
    backbone = load_backbone(str(tmp_path))
    setup = Setup(backbone, toy_task(train=8), head="own")
    problem = setup.problem("full", train_head=True)  # with the self-check
    batch, labels = problem.batch(problem.train, range(4))
    zero = problem.delta.initial()
    _, _, gradient = problem.loss_and_gradient(zero, batch, labels)
    own = problem.delta.coordinates.split(gradient[problem.delta.delta.size :])
    classifier = backbone.classifier.requires_grad_()
    logits = theirs(tiny_whole(backbone), batch)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    for name, p in classifier.named_parameters():
        torch.testing.assert_close(own[name], p.grad)


def test_heads_that_cannot_be_trained_beside_a_delta_are_refused():
    with pytest.raises(ValueError, match="train_head=True: head='verbalizer' has no parameters beside"):
        Setup(tiny("gpt2"), toy_task(), head="verbalizer").problem("lora:1", train_head=True)
    with pytest.raises(ValueError, match="train_head=True: 'copy' is a generation task, which has no head"):
        Setup(tiny("gpt2"), copy_task()).problem("lora:1", train_head=True)
    setup = Setup(tiny("gpt2"), toy_task())
    delta = setup.problem("lora:1", check=False, train_head=True).delta
    with pytest.raises(ValueError, match=r"trained head \('label-words'\): generation has none"):
        setup.replace(task=copy_task()).problem(delta)
