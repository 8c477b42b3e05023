from __future__ import annotations

import builtins
import contextlib
import io
from types import SimpleNamespace

import pytest

from deltatheory.tasks import load_task

COMMIT = "0123456789abcdef" * 2 + "01234567"

datasets = pytest.importorskip("datasets")


@pytest.fixture
def hub(monkeypatch):
    """A hub of data sets held in memory: name -> {split: rows}, and what was asked of it."""
    shelf: dict = {}
    asked: list = []

    def load_dataset_builder(name, config=None, revision=None):
        asked.append((name, config, revision))
        if name not in shelf:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        if config == "absent":
            raise ValueError("BuilderConfig 'absent' not found. Available: ['one']")
        splits, features = shelf[name]
        tables = {
            split: datasets.Dataset.from_list(rows, features=features) for split, rows in splits.items()
        }
        loaded = datasets.DatasetDict(tables)
        return SimpleNamespace(hash=COMMIT, download_and_prepare=lambda: None, as_dataset=lambda: loaded)

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    shelf["asked"] = asked
    return shelf


def table(columns, count, split, answer=lambda i: i % 2):
    return [{**{c: f"{c} {split} {i}" for c in columns}, "label": answer(i)} for i in range(count)]


def test_a_benchmark_with_named_classes_and_a_secret_test_split(hub):
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=["not_entailment", "entailment"]),
    )
    columns = ["premise", "hypothesis"]
    hub["me/rte"] = (
        {
            "train": table(columns, 160, "train"),
            "validation": table(columns, 8, "validation"),
            "test": table(columns, 8, "test", answer=lambda i: -1),
            "extra": table(columns, 8, "extra"),
        },
        features,
    )
    task = load_task("hub:me/rte:one", revision="v1")
    assert hub["asked"] == [("me/rte", "one", "v1")]
    assert task.name == "rte-one"
    assert task.label_names == ("not_entailment", "entailment")
    assert task.label_words == ("not entailment", "entailment")
    assert task.test.texts[0] == "premise validation 0"
    assert task.test.pairs is not None
    assert task.test.pairs[0] == "hypothesis validation 0"
    assert len(task.train) + len(task.dev) == 160
    assert task.provenance["revision"] == COMMIT  # what the tag stood for
    assert task.provenance["splits_read"] == ["train", "validation"]
    assert task.provenance["columns"] == {"text": "premise", "text2": "hypothesis", "label": "label"}


@pytest.mark.parametrize(
    ("columns", "options", "text", "text2"),
    [
        (["idx", "sentence"], {}, "sentence", None),
        (["sentence2", "sentence1"], {}, "sentence1", "sentence2"),
        (["question", "sentence"], {}, "question", "sentence"),
        (["question", "sentence"], {"text": "sentence"}, "sentence", None),
        (["premise", "hypothesis"], {"text": "hypothesis", "text2": "premise"}, "hypothesis", "premise"),
        (["body"], {"text": "body"}, "body", None),
    ],
)
def test_columns_are_guessed_or_named(hub, columns, options, text, text2):
    hub["me/x"] = ({s: table(columns, 8, s) for s in ("train", "validation", "test")}, None)
    task = load_task("hub:me/x", **options)
    assert task.train.texts[0] == f"{text} train 0"
    assert (task.train.pairs or [None])[0] == (f"{text2} train 0" if text2 else None)
    assert task.label_names == ("0", "1")


def test_generation(hub):
    splits = {
        s: [{"document": f"{s} {i}", "summary": "x"} for i in range(4)]
        for s in ("train", "validation", "test")
    }
    hub["me/sum"] = (splits, None)
    assert load_task("hub:me/sum").train.targets == ("x",) * 4


def test_errors(hub):
    with pytest.raises(
        FileNotFoundError, match=r"Cannot reach the data set 'me/none'.*doesn't exist.*owner/name"
    ):
        load_task("hub:me/none")
    hub["me/x"] = ({"train": [{"blurb": "a", "stars": 1}]}, None)
    with pytest.raises(ValueError, match=r"Cannot load 'me/x' with config='absent'.*Available"):
        load_task("hub:me/x:absent")
    with pytest.raises(
        ValueError, match=r"me/x has no text column .*its columns are blurb, stars.*text='...'"
    ):
        load_task("hub:me/x")
    with pytest.raises(ValueError, match=r"me/x has no column 'star' \(label='star'\). Did you mean 'stars'"):
        load_task("hub:me/x", text="blurb", label="star")
    hub["me/y"] = ({"all": [{"text": "a", "label": 1}]}, None)
    with pytest.raises(ValueError, match=r"'me/y' has no train, dev or test split; its splits are all"):
        load_task("hub:me/y")


def test_a_folder_is_a_data_set(write, tmp_path, monkeypatch, rows_of):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "validation", "test"):
        write(f"toy/{split}.csv", [{k: row[k] for k in ("text", "target")} for row in rows_of({split: 8})])
    task = load_task(f"hub:{tmp_path / 'toy'}", label="target")
    assert task.name == "toy"
    assert task.label_names == ("apple", "river")
    assert (len(task.train), len(task.dev), len(task.test)) == (8, 8, 8)
    assert task.provenance["revision"] is None


def test_code_beside_data_is_not_run(write, tmp_path, monkeypatch, rows_of):
    """Whatever is answered to a question, and whether or not there are data too."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    folder = tmp_path / "toy"
    folder.mkdir()
    ran = tmp_path / "ran"
    (folder / "toy.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(ValueError, match=r"Cannot load .*toy.*Cause"):
        load_task(f"hub:{folder}")
    for split in ("train", "test"):
        write(f"toy/{split}.csv", [{k: row[k] for k in ("text", "target")} for row in rows_of({split: 8})])
    with contextlib.suppress(ValueError):
        load_task(f"hub:{folder}", label="target")
    assert not ran.exists()


def test_a_name_may_carry_its_revision(hub):
    hub["me/x"] = ({s: table(["text"], 8, s) for s in ("train", "validation", "test")}, None)
    assert load_task("hub:me/x@v1:one").provenance["revision"] == COMMIT
    assert hub["asked"] == [("me/x", "one", "v1")]
    with pytest.raises(ValueError, match="revision='v2': 'hub:me/x@v1' says another; give one"):
        load_task("hub:me/x@v1", revision="v2")


@pytest.mark.parametrize("name", ["hub:", "hub: ", "hub::config", "hub:@v1"])
def test_a_data_set_without_a_name(name):
    with pytest.raises(ValueError, match="names no data set: give hub:NAME"):
        load_task(name)


def test_data_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "train.parquet").write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"Cannot load .*toy.*Cause: \w+"):
        load_task(f"hub:{tmp_path / 'toy'}")


def test_without_datasets(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'deltatheory\[data\]'"):
        load_task("hub:me/x")
