from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import toy_problem, toy_task
from torch.nn.functional import cosine_similarity, normalize
from transformers import AutoModelForSequenceClassification

from deltatheory.backbones import wrap_model
from deltatheory.deltas import LoRA, make_delta
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem, heads
from deltatheory.problems.heads import HEADS, Head, make_head, unseen_logits
from deltatheory.tasks import Examples, Task
from deltatheory.training.trainer import Training, train

CLASSES = 4
SPLITS = ("train", "dev", "test")
POOLED = [kind for kind in HEADS if kind not in ("verbalizer", "calibrated-verbalizer", "own")]


@pytest.fixture(scope="module")
def task():
    return toy_task(CLASSES, train=40)


@pytest.fixture(scope="module")
def features(backbone, task):
    return torch.cat([backbone.pooled(backbone.encode([text])) for text in task.train.texts])


@pytest.mark.parametrize("kind", POOLED)
def test_the_formula(backbone, task, features, kind):
    head = make_head(kind, backbone, task)
    assert (head.kind, head.weight.shape, head.bias.shape) == (kind, (CLASSES, 16), (CLASSES,))
    h = features[3] - head.centre
    offset = head.bias if head.content_free is None else head.bias - head.content_free
    expected = head.weight @ (h / h.norm()) + offset
    torch.testing.assert_close(head(features[3:4])[0], expected)
    assert head(features).std(0).min() > 0.05  # no head is blind to a class


def test_label_words_are_cosines_of_embeddings(backbone, task, features):
    head = make_head("label-words", backbone, task)
    words = torch.cat([backbone.pooled(backbone.encode([word])) for word in task.label_words])
    expected = 20 * cosine_similarity(features[:, None], words[None], dim=-1)
    torch.testing.assert_close(head(features), expected, rtol=0, atol=1e-4)
    assert head.passes == CLASSES


def test_prototypes_are_class_means(backbone, task, features):
    head = make_head("prototypes", backbone, task)
    unit = normalize(features - features.mean(0), dim=-1)
    labels = torch.tensor(task.train.labels)
    for c in range(CLASSES):
        expected = 20 * normalize(unit[labels == c].mean(0), dim=0)
        torch.testing.assert_close(head.weight[c], expected, rtol=0, atol=1e-4)
    assert head.passes == len(task.train)


def test_the_probe_fits_the_training_features_best(backbone, task, features):
    labels = torch.tensor(task.train.labels)

    def loss(head):
        return float(torch.nn.functional.cross_entropy(head(features), labels))

    def accuracy(head):
        return float((head(features).argmax(1) == labels).double().mean())

    probe, prototypes = make_head("probe", backbone, task), make_head("prototypes", backbone, task)
    assert accuracy(probe) >= accuracy(prototypes)
    assert loss(probe) < loss(prototypes)
    # stationary: the gradient of loss + ridge vanishes
    x = normalize(features - probe.centre, dim=-1).double()
    w = probe.weight.double().requires_grad_()
    value = torch.nn.functional.cross_entropy(x @ w.T + probe.bias.double(), labels)
    (gradient,) = torch.autograd.grad(value + 0.005 / len(x) * w.square().sum(), w)
    assert gradient.abs().max() < 1e-3


def test_the_random_head_depends_on_the_seed_alone(backbone, task):
    heads = [make_head("random", backbone, task, seed=seed).weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert (heads[0] - heads[2]).abs().max() > 1
    torch.testing.assert_close(heads[0].norm(dim=1), torch.full((CLASSES,), 20.0))


def test_a_head_sees_texts_cut_as_the_problem_cuts_them(backbone, task):
    """Heads were made of whole texts, at eight times the cost, and used on cut ones."""
    problem = ClassificationProblem(
        backbone, task, LoRA(backbone, r=1), "prototypes", max_length=4, check=False
    )
    cut = make_head("prototypes", backbone, task, max_length=4)
    assert torch.equal(problem.head.weight, cut.weight)
    assert (cut.weight - make_head("prototypes", backbone, task).weight).abs().max() > 0.1


def test_casting_keeps_the_rest(backbone, task):
    head = make_head("probe", backbone, task)
    cast = head.to(dtype=torch.float64)
    assert {x.dtype for x in (cast.weight, cast.bias, cast.centre)} == {torch.float64}
    assert (cast.kind, cast.passes) == ("probe", 40)
    assert torch.equal(cast.weight.float(), head.weight)
    assert torch.equal(cast.bias.float(), head.bias)
    assert torch.equal(cast.centre.float(), head.centre)


def test_unknown_heads_name_the_nearest(backbone, task):
    with pytest.raises(ValueError, match="head='prototype': no such head; nearest: prototypes"):
        make_head("prototype", backbone, task)


def test_a_generation_task_is_refused(backbone, task):
    examples = Examples(("a b", "c d"), targets=("e", "f"))
    generation = replace(
        task, kind="generation", label_names=(), label_words=(), train=examples, dev=examples, test=examples
    )
    with pytest.raises(ValueError, match="generation task: a head needs classes"):
        make_head("label-words", backbone, generation)


@pytest.mark.parametrize("kind", ["prototypes", "probe"])
def test_a_class_without_examples_is_refused_not_nan(backbone, task, kind):
    wider = replace(task, label_names=(*task.label_names, "absent"), label_words=(*task.label_words, "p"))
    with pytest.raises(ValueError, match="no training example of 'absent'"):
        make_head(kind, backbone, wider)
    assert make_head("label-words", backbone, wider).weight.shape == (CLASSES + 1, 16)


@pytest.mark.parametrize("kind", HEADS)
def test_shipped_heads_leave_the_jacobian_its_rank(kind):
    backbone, task = with_place_for(kind)
    problem = ClassificationProblem(backbone, task, make_delta("full", backbone), kind, check=False)
    rows = tangent_rows(problem, train=4, test=1).rows[:4].flatten(0, 1).double()
    assert torch.linalg.matrix_rank(rows, rtol=1e-5) == 4 * (CLASSES - 1)


def test_a_zero_head_leaves_none():
    """A head that starts at zero (a common choice) predicts that no dimension is needed at all."""
    problem = toy_problem(task=toy_task(CLASSES, train=12))
    zero = Head("zero", torch.zeros(CLASSES, 16), torch.zeros(CLASSES), torch.zeros(16), 0)
    problem = ClassificationProblem(problem.backbone, problem.task, problem.delta, zero, check=False)
    features = tangent_rows(problem, train=4, test=1)
    assert features.rank() == 0
    assert features.rows.abs().max() == 0


def causal(family="gpt2", **extra):
    return tiny(family, **extra), toy_task(CLASSES, train=12)


def with_place_for(kind):
    """A backbone that has what a head needs, and a task."""
    if kind == "own":
        model = tiny_model("bert", AutoModelForSequenceClassification, num_labels=CLASSES)
        return wrap_model(model, tiny_tokenizer("bert"), name="tiny"), toy_task(CLASSES, train=12)
    return causal("bert" if kind in POOLED else "gpt2")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_verbalizer_is_columns_of_lm_head_at_the_last_token(family):
    backbone, task = causal(family)
    problem = ClassificationProblem(backbone, task, LoRA(backbone, r=1), "verbalizer", check=False)
    batch, _ = problem.batch(problem.train, range(6))
    ids = [backbone.tokenizer.convert_tokens_to_ids(word) for word in task.label_words]
    lengths = batch.mask.long().sum(1)
    assert len(set(lengths.tolist())) > 1
    everything = backbone.lm_head(backbone.hidden_states(batch))
    expected = everything[torch.arange(6), lengths - 1][:, ids]
    torch.testing.assert_close(problem.logits(problem.delta.initial(), batch), expected)
    assert torch.equal(problem.head.weight, backbone.lm_head.weight[ids])


def test_a_suffix_stands_after_texts_that_are_cut_too():
    backbone, task = causal()
    head = make_head("verbalizer", backbone, task, suffix=" p o")
    problem = ClassificationProblem(backbone, task, LoRA(backbone, r=1), head, max_length=5, check=False)
    batch, _ = problem.batch(problem.train, range(4))
    rows = [ids[: int(n)].tolist() for ids, n in zip(batch.input_ids, batch.mask.sum(1), strict=True)]
    words = [" ".join([*text.split()[:3], "p", "o"]) for text in task.train.texts[:4]]
    assert rows == [backbone.tokenizer(text)["input_ids"] for text in words]
    assert problem.train.lengths[:4].tolist() == [len(row) for row in rows]
    whole = backbone.encode(words)
    torch.testing.assert_close(
        problem.logits(problem.delta.initial(), batch),
        backbone.vocabulary_logits(backbone.pooled(whole))[:, list(head.tokens)],
    )
    with pytest.raises(ValueError, match="max_length=2: must be above 2"):
        ClassificationProblem(backbone, task, LoRA(backbone, r=1), head, max_length=2, check=False)


def test_a_tied_lm_head_is_tuned_with_the_embedding():
    """GPT-2's lm_head is its input embedding: to leave it at θ₀ would differentiate another function."""
    backbone, task = causal()
    assert backbone.lm_head.weight is backbone.model.wte.weight
    problem = ClassificationProblem(
        backbone, task, make_delta("full", backbone, scope="all"), "verbalizer", check=False
    )
    batch, labels = problem.batch(problem.train, range(6))
    generator = torch.Generator().manual_seed(0)
    point = 0.05 * torch.randn(problem.delta.size, generator=generator)
    pure = problem.logits(point, batch)
    frozen_words = problem.head(backbone.pooled(batch, problem.delta.edit(point)))
    assert (pure - frozen_words).abs().max() > 1e-2
    problem.delta.write(point)
    torch.testing.assert_close(problem.head(backbone.pooled(batch)), pure)
    problem.restore()
    _, _, gradient = problem.loss_and_gradient(point, batch, labels)
    problem.restore()
    leaf = point.clone().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(leaf, batch, labels), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_an_untied_lm_head_stays_frozen():
    backbone, task = causal("llama", tie_word_embeddings=False)
    before = backbone.lm_head.weight.clone()
    problem = ClassificationProblem(
        backbone, task, make_delta("full", backbone, scope="all"), "verbalizer", check=False
    )
    train(problem, Training(steps=2, batch_size=4, learning_rate=0.01))
    assert torch.equal(backbone.lm_head.weight, before)
    assert problem.check().passed


def test_label_words_that_cannot_be_told_apart_are_refused():
    backbone, task = causal()
    words = ("a b", "c", "a d", "e")
    with pytest.raises(ValueError, match="'a b' and 'a d' of task 'toy' begin with the same token 'a'"):
        make_head("verbalizer", backbone, replace(task, label_words=words))


def test_what_a_verbalizer_needs(backbone, task):
    with pytest.raises(ValueError, match="has no lm_head: take a causal checkpoint"):
        make_head("verbalizer", backbone, task)
    with pytest.raises(ValueError, match="suffix=' a': head='probe' takes none"):
        make_head("probe", backbone, task, suffix=" a")
    with pytest.raises(ValueError, match="suffix=' a ': must not end in white space"):
        make_head("verbalizer", *causal(), suffix=" a ")


def test_label_words_are_taken_as_they_stand_after_a_text():
    """In GPT-2's kind of tokens a word inside a text is another token than the same word alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", ".", "good", "bad", "Ġgood", "Ġbad", "Ġ:", ":"])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    made, _ = causal()
    made.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", eos_token="[PAD]", unk_token="[PAD]"
    )
    two = replace(toy_task(2), label_words=("good", "bad"))
    assert make_head("verbalizer", made, two).tokens == (4, 5)
    assert make_head("verbalizer", made, two, suffix=" :").tokens == (4, 5)


@pytest.mark.parametrize("kind", ["prototypes", "probe"])
def test_unseen_logits_are_those_of_a_head_made_without_the_example(backbone, task, features, kind):
    head = make_head(kind, backbone, task)
    found = unseen_logits(head, backbone, task, None)
    for fold in (0, 3):
        others = task.train.subset([i for i in range(len(task.train)) if i % 8 != fold])
        without = make_head(kind, backbone, replace(task, train=others))
        torch.testing.assert_close(found[fold::8], without(features[fold::8]), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["label-words", "random"])
def test_a_head_that_is_not_fitted_has_seen_nothing(backbone, task, kind):
    assert unseen_logits(make_head(kind, backbone, task), backbone, task, None) is None


def test_a_class_that_only_one_fold_has(backbone, task):
    keep = [i for i, y in enumerate(task.train.labels) if y != 1 or i == 1]
    rare = replace(task, train=task.train.subset(keep))
    assert unseen_logits(make_head("probe", backbone, rare), backbone, rare, None).isfinite().all()


def test_a_probe_of_meaningless_labels_counts_as_chance_where_it_is_judged():
    """The probe has learnt these labels by heart; a prediction from held-out examples must not believe it."""
    task = toy_task(2, train=40)
    lot = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    train = replace(task.train, labels=tuple(task.train.labels[i] for i in lot))
    problem = toy_problem("bitfit", task=replace(task, train=train), head="probe")
    seen = problem.predict(problem.delta.initial(), problem.train).argmax(1) == problem.train.labels
    features = tangent_rows(problem, train=40, test=0, outputs="margin")
    unseen = features.start.solved(features.start.logits)
    assert seen.double().mean() > unseen.double().mean() + 0.2
    assert unseen.double().mean() < 0.7


# Classes that no text could tell apart ---------------------------------------------------------------------


def named(*names: str, texts=("a b", "c d", "a c", "b d")) -> Task:
    examples = Examples(texts, labels=tuple(i % len(names) for i in range(len(texts))))
    return Task("toy", "classification", names, examples, examples, examples, {})


@pytest.mark.parametrize("names", [("-1", "1"), ("a_b", "a-b"), ("A-", "A"), ("_", "-")])
def test_marks_stay_in_label_words_where_they_are_all_that_differs(names):
    assert named(*names).label_words == names
    assert named("not_so", "well-known").label_words == ("not so", "well known")
    assert named("-1", "0").label_words == ("-1", "0")


@pytest.mark.parametrize("names", [("😀", "😡"), ("甲", "乙"), ("x", "y"), ("a  b", "a b")])
def test_label_words_that_are_the_same_tokens_are_refused(backbone, names):
    """They gave two equal rows: training stayed at ln C, and nobody was told."""
    task = named(*names)
    with pytest.raises(
        ValueError, match=r"are the same tokens to 'tiny-bert', \[.*Task.label_words.*'prototyp"
    ):
        make_head("label-words", backbone, task)
    words = replace(task, label_words=("a", "b"))
    assert not torch.equal(*make_head("label-words", backbone, words).weight)
    assert make_head("prototypes", backbone, task).weight.isfinite().all()


@pytest.mark.parametrize("kind", HEADS)
def test_equal_rows_are_refused_whatever_the_head(kind, monkeypatch):
    backbone, task = with_place_for(kind)
    made = make_head(kind, backbone, task)
    rows = made.weight.clone()
    rows[2] = rows[0] * (1 + torch.finfo(rows.dtype).eps)  # rounding does not tell classes apart
    twins = replace(made, weight=rows, bias=torch.zeros_like(made.bias))
    monkeypatch.setitem(HEADS, kind, lambda *_: twins)
    with pytest.raises(ValueError, match=rf"head='{kind}' gives classes 'class-0' and 'class-2' of task"):
        make_head(kind, backbone, task)


@pytest.mark.parametrize("kind", ["prototypes", "probe"])
def test_classes_with_the_same_examples_are_refused(backbone, kind):
    task = named("no", "yes", texts=("a b", "a b", "c d", "c d"))
    with pytest.raises(
        ValueError, match=rf"head='{kind}' gives classes 'no' and 'yes'.*give words or examples"
    ):
        make_head(kind, backbone, task)


def test_a_bias_tells_classes_apart(backbone, monkeypatch):
    made = Head("random", torch.ones(2, 16), torch.tensor([0.0, 1.0]), torch.zeros(16), 0)
    monkeypatch.setitem(HEADS, "random", lambda *_: made)
    assert make_head("random", backbone, named("no", "yes")) is made


def test_a_suffix_is_a_text():
    with pytest.raises(ValueError, match=r"suffix\[0\]='\\ud83d': must be a string without lone surrogates"):
        make_head("verbalizer", *causal(), suffix="\ud83d")


# Calibration by texts that say nothing (Zhao et al. 2021) --------------------------------------------------


@pytest.mark.parametrize("kind", ["label-words", "verbalizer"])
def test_a_text_that_says_nothing_leaves_a_calibrated_head_undecided(kind, monkeypatch):
    monkeypatch.setattr(heads, "_CONTENT_FREE", ("a b c",))
    backbone, task = causal("bert" if kind == "label-words" else "gpt2")
    suffix = "" if kind == "label-words" else " p o"
    head = make_head(f"calibrated-{kind}", backbone, task, suffix=suffix)
    problem = ClassificationProblem(backbone, task, LoRA(backbone, r=1), head, check=False)
    empty = problem._split(Examples(("a b c", "d e"), labels=(0, 0)))
    nothing, something = problem.logits(problem.delta.initial(), problem.batch(empty, [0, 1])[0])
    torch.testing.assert_close(nothing.softmax(0), torch.full((CLASSES,), 1 / CLASSES))
    assert something.softmax(0).max() > 1 / CLASSES + 0.01


def test_the_answers_to_several_such_texts_are_averaged():
    """Their probabilities are, as in the paper, not their logits."""
    backbone, task = causal("gpt2")
    plain, calibrated = (make_head(kind, backbone, task) for kind in ("verbalizer", "calibrated-verbalizer"))
    p = torch.stack([plain(backbone.pooled(backbone.encode([x])))[0].softmax(0) for x in ("N/A", "[MASK]")])
    expected = p.mean(0).log()  # without a suffix "" has no token that could be read
    torch.testing.assert_close(calibrated.content_free, expected, rtol=0, atol=1e-5)
    assert (calibrated.kind, calibrated.passes) == ("calibrated-verbalizer", 2)


def test_calibration_moves_logits_by_a_constant_and_no_derivative():
    backbone, task = causal("gpt2")
    delta = LoRA(backbone, r=1)
    problems = [
        ClassificationProblem(backbone, task, delta, kind, check=False)
        for kind in ("verbalizer", "calibrated-verbalizer")
    ]
    point = 0.3 * torch.randn(delta.size, generator=torch.Generator().manual_seed(0))
    batch, _ = problems[0].batch(problems[0].train, range(4))
    (plain, plain_pull), (moved, pull) = (problem.vjp(point, batch) for problem in problems)
    torch.testing.assert_close(plain - moved, problems[1].head.content_free.expand(4, -1), rtol=0, atol=1e-5)
    assert torch.equal(pull(torch.ones_like(moved)), plain_pull(torch.ones_like(plain)))


def test_pairs_are_calibrated_by_pairs_that_say_nothing(backbone, task):
    splits = {name: replace(getattr(task, name), pairs=getattr(task, name).texts) for name in SPLITS}
    tasks = replace(task, **splits), task
    paired, single = (make_head("calibrated-label-words", backbone, one) for one in tasks)
    assert not torch.equal(paired.content_free, single.content_free)


def test_the_name_of_a_problem_says_whether_its_head_is_calibrated(backbone, task):
    names = [
        ClassificationProblem(backbone, task, LoRA(backbone, r=1), kind, check=False).identity()
        for kind in ("label-words", "calibrated-label-words")
    ]
    assert [name["head"] for name in names] == ["label-words", "calibrated-label-words"]
    assert names[0].keys() == names[1].keys()
