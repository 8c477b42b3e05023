from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from tiny_problems import toy_problem, toy_task
from torch.nn.functional import cosine_similarity, normalize

from deltatheory.deltas import LoRA
from deltatheory.heads import HEADS, Head, make_head
from deltatheory.kernel import tangent_features
from deltatheory.problem import Problem
from deltatheory.tasks import Examples

CLASSES = 4


@pytest.fixture(scope="module")
def backbone():
    return tiny("bert")


@pytest.fixture(scope="module")
def task():
    return toy_task(CLASSES, train=40)


@pytest.fixture(scope="module")
def features(backbone, task):
    return torch.cat([backbone.pooled(backbone.encode([text])) for text in task.train.texts])


@pytest.mark.parametrize("kind", HEADS)
def test_the_formula(backbone, task, features, kind):
    head = make_head(kind, backbone, task)
    assert (head.kind, head.weight.shape, head.bias.shape) == (kind, (CLASSES, 16), (CLASSES,))
    h = features[3] - head.centre
    torch.testing.assert_close(head(features[3:4])[0], head.weight @ (h / h.norm()) + head.bias)
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
    problem = Problem(backbone, task, LoRA(backbone, r=1), "prototypes", max_length=4, check=False)
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
    problem = toy_problem(task=toy_task(CLASSES, train=12), head=kind)
    rows = tangent_features(problem, train=4, test=1).rows[:4].flatten(0, 1).double()
    assert torch.linalg.matrix_rank(rows, rtol=1e-5) == 4 * (CLASSES - 1)


def test_a_zero_head_leaves_none():
    """A head that starts at zero (a common choice) predicts that no dimension is needed at all."""
    problem = toy_problem(task=toy_task(CLASSES, train=12))
    zero = Head("zero", torch.zeros(CLASSES, 16), torch.zeros(CLASSES), torch.zeros(16), 0)
    problem = Problem(problem.backbone, problem.task, problem.delta, zero, check=False)
    features = tangent_features(problem, train=4, test=1)
    assert features.rank() == 0
    assert features.rows.abs().max() == 0
