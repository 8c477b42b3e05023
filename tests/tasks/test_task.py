from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatheory.tasks import Examples, Task
from deltatheory.tasks.task import digest, hash_split, without_leakage


def examples(prefix: str, labels: list[int]) -> Examples:
    return Examples(tuple(f"{prefix} {i}" for i in range(len(labels))), labels=tuple(labels))


def make_task(train=(0, 1) * 10, dev=(0, 1), test=(0, 1, 1, 1), names=("bad", "not_so-bad")) -> Task:
    parts = (examples("train", list(train)), examples("dev", list(dev)), examples("test", list(test)))
    return Task("toy", "classification", names, *parts, provenance={"source": "toy"})


class TestExamples:
    def test_subset_keeps_columns_together(self):
        both = Examples(("a", "b", "c"), pairs=("x", "y", "z"), labels=(0, 1, 2))
        assert both.subset([2, 0]) == Examples(("c", "a"), pairs=("z", "x"), labels=(2, 0))
        assert len(both.subset([])) == 0

    @pytest.mark.parametrize("column", ["pairs", "labels", "targets"])
    def test_columns_of_other_lengths(self, column):
        columns: dict = {"labels": (0, 1), column: (0,) if column == "labels" else ("x",)}
        with pytest.raises(
            ValueError, match=rf"as many {column} as texts; got len\({column}\)=1, len\(texts\)=2"
        ):
            Examples(("a", "b"), **columns)

    @pytest.mark.parametrize("column", ["texts", "pairs", "targets"])
    def test_half_of_an_emoji_is_no_text(self, column):
        columns: dict = {"texts": ("a", "b"), "targets": ("x", "y"), column: ("c", "half \ud83d")}
        with pytest.raises(ValueError, match=rf"{column}\[1\]='half .*without lone surrogates"):
            Examples(**columns)

    def test_neither_labels_nor_targets(self):
        with pytest.raises(ValueError, match="got neither"):
            Examples(("a",))


class TestTask:
    def test_properties(self):
        task = make_task()
        assert task.num_classes == 2
        assert task.chance == 0.75
        assert task.label_words == ("bad", "not so bad")
        assert task.describe() == "toy: 2 classes, 20 train / 2 dev / 4 test texts, chance 0.750"

    def test_generation(self):
        parts = [Examples((s + "1", s + "2", s + "3"), targets=("x", "y", "y")) for s in "abc"]
        task = Task("toy", "generation", (), *parts, provenance={})
        assert task.num_classes == 0
        assert task.chance == pytest.approx(2 / 3)
        assert "generation, 3 train" in task.describe()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train": ()}, "empty train split"),
            ({"dev": ()}, "empty dev split"),
            ({"test": ()}, "empty test split"),
            (
                {"names": ("only",), "train": (0, 0), "dev": (0,), "test": (0,)},
                "two or more distinct classes",
            ),
            ({"names": ("same", "same")}, "two or more distinct classes"),
            ({"names": ("good", "half \ud83d")}, r"label_names\[1\]='half .*without lone surrogates"),
            ({"train": (0, 0), "dev": (0,), "test": (0,)}, "one class only in its train split .'bad'"),
            ({"test": (0, 2)}, r"must lie in 0\.\.1; got 2 in test"),
            (
                {"names": ("a", "b", "c"), "test": (0, 2)},
                "asks in test for classes that never occur in train: 'c'",
            ),
            (
                {"names": ("a", "b", "c"), "dev": (2, 0)},
                "asks in dev for classes that never occur in train: 'c'",
            ),
        ],
    )
    def test_bad_splits_and_labels(self, change, message):
        with pytest.raises(ValueError, match=message):
            make_task(**change)

    def test_bad_columns(self):
        task = make_task()
        with pytest.raises(ValueError, match="one phrase for each of the 2 classes; got 1"):
            replace(task, label_words=("x",))
        with pytest.raises(ValueError, match="text pairs in some splits only"):
            replace(task, dev=replace(task.dev, pairs=task.dev.texts))
        with pytest.raises(ValueError, match="no labels in its dev split"):
            replace(task, dev=Examples(("x",), targets=("y",)))
        with pytest.raises(ValueError, match="no targets"):
            replace(task, kind="generation")


class TestLimited:
    def test_is_deterministic_and_nested_and_leaves_dev(self):
        task = make_task(train=(0, 1) * 50, test=(0, 1) * 50)
        small, large = task.limited(16, 10, seed=0), task.limited(32, None, seed=0)
        assert small == task.limited(16, 10, seed=0)
        assert small.train.texts == large.train.texts[:16]
        assert large.test == task.test
        assert small.dev == task.dev
        assert set(small.train.texts) < set(task.train.texts)
        assert small.train.texts != task.limited(16, 10, seed=1).train.texts
        assert small.provenance == {"source": "toy", "limited": {"train": 16, "test": 10, "seed": 0}}

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(0, 3), st.data())
    def test_is_stratified_to_less_than_two_examples(self, labels, seed, data):
        labels = [0, 1, 2, 3, *labels]
        task = make_task(train=labels, test=labels, names=("a", "b", "c", "d"))
        n = data.draw(st.integers(4, len(labels)))
        drawn = task.limited(n, n, seed)
        sizes = Counter(labels)
        for c, size in sizes.items():
            assert Counter(drawn.train.labels)[c] >= 1
            # Alternation by rank puts each class within one of its share for each other class.
            assert abs(Counter(drawn.test.labels)[c] - n * size / len(labels)) <= 2
        assert len(set(drawn.train.texts)) == n
        lookup = dict(zip(task.train.texts, labels, strict=True))
        assert tuple(lookup[text] for text in drawn.train.texts) == drawn.train.labels

    def test_a_rare_class_stays_in_train(self):
        task = make_task(train=(0,) * 99 + (1,))
        assert set(task.limited(2, None, seed=3).train.labels or ()) == {0, 1}

    @pytest.mark.parametrize(("train", "test", "message"), [
        (1, None, r"limited\(train=1\).*must lie in 2\.\.20 \(one example a class"),
        (21, None, r"2\.\.20"),
        (None, 0, r"limited\(test=0\).*1\.\.4\."),
        (None, 5, r"1\.\.4\."),
    ])  # fmt: skip
    def test_limits_out_of_range(self, train, test, message):
        with pytest.raises(ValueError, match=message):
            make_task().limited(train, test, seed=0)


class TestHelpers:
    def test_hash_split_has_the_asked_shares_and_never_changes(self):
        counts = Counter(hash_split(f"text {i}", 0.7, 0.1) for i in range(4000))
        assert counts["train"] == pytest.approx(2800, abs=120)  # four standard deviations
        assert counts["dev"] == pytest.approx(400, abs=80)
        # Another hash would move texts between splits and void every comparison with older results.
        expected = {"four": "train", "five": "test", "seven": "train", "ten": "test", "text 7": "dev"}
        assert {text: hash_split(text) for text in expected} == expected

    def test_leaks_leave_the_split_that_teaches(self):
        train = examples("train", [0, 1, 0])
        dev = Examples(("TRAIN  0", "dev 1"), labels=(0, 1))
        test = Examples(("train 1\n", "dev 1", "test"), labels=(1, 1, 0))
        clean_train, clean_dev, removed = without_leakage(train, dev, test)
        assert clean_train.texts == ("train 2",)
        assert clean_dev.texts == ("TRAIN  0",)
        assert removed == {"train": 2, "dev": 1}

    def test_a_pair_leaks_only_as_a_pair(self):
        train = Examples(("a", "a"), pairs=("b", "c"), labels=(0, 1))
        held_out = Examples(("a",), pairs=("b",), labels=(0,))
        clean, _, removed = without_leakage(train, Examples(("x",), pairs=("y",), labels=(0,)), held_out)
        assert clean.pairs == ("c",)
        assert removed["train"] == 1

    def test_digest_sees_every_column(self):
        base = Examples(("a", "b"), labels=(0, 1))
        others = [
            Examples(("a", "c"), labels=(0, 1)),
            Examples(("a", "b"), labels=(1, 0)),
            Examples(("a", "b"), pairs=("x", "y"), labels=(0, 1)),
        ]
        assert len({digest(x) for x in [base, *others]}) == 4
        assert digest(base, others[0]) != digest(others[0], base)


def test_every_example_is_held_out_once_from_one_of_several_tasks():
    """Of classes in like shares; one whose only example would be lost to train stays there."""
    texts = tuple(f"text {i}" for i in range(60))
    labels = tuple(2 if i == 30 else int(i % 3 == 0) for i in range(60))
    splits = (range(40), range(40, 48), range(48, 60))
    whole = Examples(texts, labels=labels)
    task = Task("t", "classification", ("a", "b", "c"), *map(whole.subset, splits), {})
    others = task.held_out_elsewhere(4)
    held = [text for other in others for text in other.test.texts]
    assert sorted(held) == sorted(set(texts[:48]) - {"text 30"})
    for other in others:
        parts = (other.train, other.dev, other.test)
        assert sum(map(len, parts)) == 60
        assert len({text for part in parts for text in part.texts}) == 60
        assert set(task.test.texts) <= {*other.train.texts, *other.dev.texts}
        assert 0 < sum(other.test.labels or ()) < len(other.test)
    assert [other.test for other in task.held_out_elsewhere(4)] == [other.test for other in others]
