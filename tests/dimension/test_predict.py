"""Predictions of a tiny random encoder: what they rest on, and what they say where they cannot know."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_dimension import QUICK, quick_setup
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.dimension import Criterion, DimensionSettings, intrinsic_dimension, predict
from deltatheory.dimension.curves import cross_fit
from deltatheory.dimension.predict import Prediction
from deltatheory.problems import Setup, make_head
from deltatheory.results import understood
from deltatheory.tasks import Examples, Task


def letters_task(train: int = 64, test: int = 60) -> Task:
    """Texts over two halves of the alphabet; which half is more frequent is the label."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Examples:
        labels = [i % 2 for i in range(count)]
        texts = []
        for label in labels:
            own, other = ("abcdefgh", "ijklmnop")[:: 1 - 2 * label]
            words = [*rng.choice(list(own), 5), *rng.choice(list(other), 3)]
            texts.append(" ".join(rng.permutation(words)))
        return Examples(tuple(texts), labels=tuple(labels))

    return Task("letters", "classification", ("first", "second"), split(train), split(20), split(test), {})


def letters_setup(scale: float = 1.0) -> Setup:
    """Return one with a random head, or a multiple of it."""
    backbone, task = tiny("bert"), letters_task()
    head = make_head("random", backbone, task)
    return Setup(backbone, task, head=replace(head, weight=scale * head.weight))


@pytest.fixture(scope="module")
def known() -> dict:
    """The kernel, and what linearized runs came to, by their steps: most tests read the same ones."""
    return {}


@pytest.fixture
def once(monkeypatch, known):
    features_of = predict.kernel_rows

    def features(*arguments, **options):
        if "features" not in known:
            known["features"] = features_of(*arguments, **options)
        return known["features"]

    def runs(features, parts, grid, training):
        if training.steps not in known:
            known[training.steps] = cross_fit(features, parts, grid, training)
        return known[training.steps]

    monkeypatch.setattr(predict, "kernel_rows", features)
    monkeypatch.setattr(predict, "cross_fit", runs)


def predicted(given: Setup, steps: int = 12, burn_in: int = 0, **criterion) -> Prediction:
    settings = DimensionSettings(steps=steps, batch_size=8, burn_in=burn_in)
    return predict.predict(given, Criterion(**criterion), settings)


def missed(prediction: Prediction, *topics: str) -> bool:
    return any(sentence.startswith(topics) for sentence in prediction.diagnostics["missed"])


def test_prediction_refuses_a_head_that_says_nothing():
    refused = predicted(letters_setup(scale=0.0))
    assert refused.d90.value is None
    assert "rank" in refused.d90.status
    assert "label-words" in refused.d90.status
    assert refused.diagnostics["missed"] == [f"Prediction {refused.d90.status}."]


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(("error", "movement"), [(1.5, 0.1), (0.1, 1.5), (1e4, 1e4)])
def test_what_linearization_misses_is_said_and_the_interval_stays(monkeypatch, error, movement):
    """On the tasks of the prior an interval that grows with either was less likely than one that does not."""
    given = letters_setup()

    def diagnosed(error: float, movement: float) -> Prediction:
        monkeypatch.setattr(predict, "_linearization_error", lambda *_: error)
        monkeypatch.setattr(predict, "_origin_norm", lambda *_: at_one / movement)
        return predicted(given)

    monkeypatch.setattr(predict, "_origin_norm", lambda *_: 1.0)
    at_one = predicted(given).diagnostics["movement"]
    sound, doubtful = diagnosed(0.1, 0.1), diagnosed(error, movement)
    assert doubtful.d90 == sound.d90
    assert not missed(sound, "Linearization", "Movement")
    assert missed(doubtful, "Linearization") == (error > 0.5)
    assert missed(doubtful, "Movement") == (movement > 0.5)


@pytest.mark.usefixtures("once")
def test_the_spread_has_linearization_and_the_draw_of_examples():
    got = predicted(letters_setup(), steps=60)
    assert got.spread == got.diagnostics["model_spread"] > predict.AS_PREDICTED.shift[1]
    assert got.shares == sorted(got.shares)
    assert got.shares[-1] == 1
    posterior = got.posterior(0.1)
    assert posterior.prior.shift == (predict.AS_PREDICTED.shift[0], got.spread)
    assert posterior.runs == []


@pytest.mark.usefixtures("once")
def test_the_loss_is_predicted_from_the_same_runs(monkeypatch):
    monkeypatch.setattr(predict, "_LEAST_GAIN", 0.0)
    got = predicted(letters_setup(), steps=60, metric="loss", fraction=0.75)
    assert got.baseline < got.level < got.frozen
    assert got.level == pytest.approx(got.frozen - 0.75 * (got.frozen - got.baseline))
    assert 1 <= got.d90.low <= got.d90.value
    by_d = {d: np.mean([p.test_loss for p in got.curve if p.d == d]) for d in got.dimensions}
    assert by_d[got.dimensions[-1]] < by_d[got.dimensions[0]]


@pytest.mark.parametrize("least", ["_LEAST_GAIN", "LEAST_PART"])
@pytest.mark.usefixtures("once")
def test_linearized_training_that_gains_too_little_predicts_no_curve(monkeypatch, least):
    monkeypatch.setattr(predict, least, 1e9)
    got = predicted(letters_setup(), of="gain")
    assert got.d90.value is None
    assert got.d90.status.startswith("refused: linearized training gains")
    assert got.diagnostics["missed"][0].startswith("Prediction refused")
    assert got.posterior(0.1) is None


@pytest.mark.parametrize(
    ("metric", "start", "end", "gained"),
    [
        ("accuracy", 0.5, 0.54, False),
        ("accuracy", 0.5, 0.56, True),
        ("loss", 2.6, 2.5, False),
        ("loss", 0.7, 0.6, True),
    ],
)
def test_a_tenth_of_what_is_left_to_gain_makes_a_curve(metric, start, end, gained):
    sign = 1 if metric == "accuracy" else -1
    at_start = np.full(50, sign * start)
    curve = predict._Curve(
        Criterion(metric=metric, of="gain"), [1, 2], np.full((2, 50), sign * end), at_start, 0.5
    )
    assert bool(curve.shares) is gained
    assert any("Prediction refused" in said for said in curve.missed()) is not gained


def test_prediction_counts_its_passes():
    given = letters_setup()
    got = predicted(given)
    # One forward, one backward with weight gradients an example; one fold through the network at the end.
    assert got.passes in (64 * 3, 64 * 3 + 22)
    assert understood(Prediction, json.loads(json.dumps(got.to_dict())), "x") == got


@pytest.mark.parametrize(
    ("outputs", "head", "honest"),
    [("logits", "random", True), ("logits", "probe", True), ("margin", "random", False)],
)
def test_labels_by_lot_are_foretold_at_chance(monkeypatch, outputs, head, honest):
    """Texts say nothing of eight classes: the rows of held-out margins know them, those of logits do not."""
    examples, classes = 64, 8
    task = toy_task(classes, train=examples)
    lot = np.random.default_rng(1).permutation(task.train.labels)
    task = replace(task, train=Examples(task.train.texts, labels=tuple(lot.tolist())))
    original = predict.tangent_rows
    monkeypatch.setattr(predict, "tangent_rows", lambda *a, **k: original(*a, **k, outputs=outputs))
    monkeypatch.setattr(predict, "_linearization_error", lambda *_: 0.0)  # is of logits
    found = predicted(Setup(tiny("bert"), task, head=head), steps=30)
    error = (1 / classes * (1 - 1 / classes) / examples) ** 0.5
    assert (found.baseline < 1 / classes + 3 * error) == honest


def test_classes_are_paid_for_with_examples(monkeypatch):
    """A row for each class but one: 30 rows are 10 examples of 4 classes, or as many as there are of 2."""
    monkeypatch.setattr(predict, "_KERNEL_ROWS", 30)
    for classes, examples in ((4, 10), (2, 24)):
        task = toy_task(classes, train=24, test=60)
        result = intrinsic_dimension(quick_setup(task=task), method="predict", settings=QUICK)
        assert result.diagnostics["examples"] == examples
        assert result.diagnostics["logit_differences"] == examples * (classes - 1)
        assert result.passes["predict"] >= examples * (1 + 2 * (classes - 1))


@pytest.mark.usefixtures("once")
def test_a_lower_fraction_needs_no_more_dimensions():
    given = letters_setup()
    values = [predicted(given, steps=60, fraction=f, of="gain").d90.value for f in (0.9, 0.75, 0.5)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_burn_in_moves_the_kernel_not_the_start(monkeypatch):
    given, seen = letters_setup(), []
    monkeypatch.setattr(predict, "cross_fit", lambda f, *rest: seen.append(f) or cross_fit(f, *rest))
    predicted(given)
    burnt = predicted(given, burn_in=2)
    at_origin, after = seen[0], seen[-1]
    for name in ("logits", "judging_offset"):
        moved, kept = getattr(after.start, name), getattr(at_origin.start, name)
        torch.testing.assert_close(moved, kept, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after.rows, at_origin.rows, rtol=1e-3)
    assert burnt.passes >= 64 * 3 + 2 * 8 * 3 + 64
    with pytest.raises(ValueError, match=r"burn_in=9.*at most 8 steps"):
        predicted(given, burn_in=9)


@pytest.mark.usefixtures("once")
def test_a_prediction_of_zero_says_what_it_does_not_know():
    got = predicted(letters_setup(), fraction=0.3)
    assert got.d90.value == 0
    assert got.d90.high > 1
    assert missed(got, "Gain")


@pytest.mark.usefixtures("once")
def test_a_given_level_that_linearized_training_does_not_reach_is_said():
    got = predicted(letters_setup(), steps=1, baseline=1.0, fraction=1.0)
    assert got.d90.high is None
    assert got.d90.status.startswith("at least")
    assert missed(got, "Level")
