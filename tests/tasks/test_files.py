from __future__ import annotations

import builtins
import gzip
import json
import os
import re

import pytest

from deltatheory.tasks import files, load_task
from deltatheory.tasks.files import SUFFIXES

FORMS = [f"data{suffix}" for suffix in SUFFIXES]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_task(write, rows, name):
    task = load_task(write(name, rows))
    assert task.name == "data"
    assert task.kind == "classification"
    assert task.label_names == ("apple", "river")
    assert (len(task.train), len(task.dev), len(task.test)) == (12, 4, 6)
    assert task.train.texts[:2] == ("apple train number 0", "river train number 1")
    assert task.train.labels == (0, 1) * 6
    assert task.train.pairs is None
    assert task.provenance["source"] == name
    assert task.provenance["split"] == "as given"
    assert (
        task.provenance["examples_sha256"]
        == load_task(write("other.jsonl", rows)).provenance["examples_sha256"]
    )


def test_a_collection_with_an_index(write, rows, tmp_path):
    for row in rows:
        row["text2"] = "and " + row["text"]
        row["target"] = ["no", "yes"][row["label"]]
    path = write("tasks/rte.jsonl.gz", rows)
    entry = {
        "id": "rte",
        "file": "tasks/rte.jsonl.gz",
        "name": "RTE (GLUE)",
        "labels": ["no", "yes"],
        "bytes": 1,
    }
    index = {
        "tasks": [
            {"file": "tasks/other.jsonl.gz", "labels": ["x"]},
            {**entry, "instruction": "Does it follow?"},
        ]
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    task = load_task(str(path))
    assert task.name == "rte"
    assert task.label_names == ("no", "yes")
    assert task.provenance["title"] == "RTE (GLUE)"
    assert task.provenance["instruction"] == "Does it follow?"
    assert task.train.pairs is not None
    assert task.train.pairs[0] == "and " + task.train.texts[0]


@pytest.mark.parametrize("index", ["{", "[" * 100_000, "[1]", '{"tasks": [{"name": "x"}]}', '{"tasks": 3}'])
def test_somebody_elses_index_is_none_of_ours(write, rows, tmp_path, index):
    path = write("tasks/toy.jsonl", rows)
    (tmp_path / "index.json").write_text(index)
    assert load_task(path).label_names == ("apple", "river")


def test_generation(write, rows):
    for row in rows:
        del row["label"]
    task = load_task(write("data.jsonl", rows))
    assert task.kind == "generation"
    assert task.train.targets is not None
    assert task.train.targets[:2] == ("apple", "river")
    assert task.train.labels is None


def test_columns_by_other_names(write, rows):
    renamed = [{"review": row["text"], "stars": row["label"], "split": row["split"]} for row in rows]
    task = load_task(write("data.csv", renamed), text="review", label="stars", label_names=["poor", "good"])
    assert task.label_names == ("poor", "good")
    assert task.train.texts[0] == "apple train number 0"


def test_a_target_asked_for_is_generated(write, rows):
    task = load_task(write("data.jsonl", rows), target="target")
    assert task.kind == "generation"


@pytest.mark.parametrize("labels", [["b", "a"], ["10", "9"], [10, 9], [True, False], [2.0, 1.0]])
def test_labels_of_every_kind(write, rows, labels):
    rows = [{"split": row["split"], "text": row["text"], "label": labels[row["label"]]} for row in rows]
    task = load_task(write("data.jsonl", rows))
    # Numbers are in the order of their size, names in that of the alphabet.
    assert task.label_names in [("a", "b"), ("9", "10"), ("false", "true"), ("1", "2")]
    assert task.train.labels == (1, 0) * 6


@pytest.mark.parametrize("name", ["data.csv", "data.tsv.gz", "data.json", "data.jsonl", "data.parquet"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["01", "1", "2"], ("01", "1", "2")),  # codes: their zeros count
        (["10", "02", "9"], ("02", "10", "9")),
        (["1.0", "1", "2"], ("1", "2")),  # one number, however a table writes it
        (["-1", "0", "+1"], ("+1", "-1", "0")),
        (["3.5.1", "3.5", "4.0"], ("3.5", "3.5.1", "4.0")),  # versions: no numbers among them
        (["1e3", "9" * 19, "9"], ("1e3", "9", "9" * 19)),
    ],
)
def test_labels_mean_the_same_in_every_form(write, rows_of, name, labels, names):
    rows = rows_of({"train": 12, "dev": 6, "test": 6})
    for i, row in enumerate(rows):
        row |= {"label": labels[i % 3]}
        del row["target"]
    task = load_task(write(name, rows))
    assert task.label_names == names
    assert task.label_words == names
    written = [names.index(label) if label in names else names.index("1") for label in labels]
    assert task.train.labels == tuple(written * 4)


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.parquet"])
@pytest.mark.parametrize("labels", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1.0", "2"]])
def test_names_for_numbers_in_every_form(write, rows_of, name, labels):
    rows = rows_of({"train": 12, "dev": 6, "test": 6})
    for i, row in enumerate(rows):
        row |= {"label": labels[i % 3]}
    task = load_task(write(name, rows), label_names=["x", "y", "z"])
    assert task.train.labels == (0, 1, 2) * 4


def test_a_code_is_a_name_before_it_is_a_number(write, rows_of):
    names = [f"{month:02}" for month in range(1, 13)]
    rows = [{**row, "label": names[i % 12]} for i, row in enumerate(rows_of({"train": 24, "test": 12}))]
    task = load_task(write("data.csv", rows), label_names=names)
    assert {task.label_names[y] for y, text in zip(task.test.labels, task.test.texts, strict=True)} == {
        *names
    }
    text = "river test number 9"
    assert task.label_names[task.test.labels[task.test.texts.index(text)]] == "10"


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.parquet"])
def test_a_quantity_is_no_class(write, rows, name):
    rows = [{**row, "label": i / 2} for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"(line|row) [23]: 'label' must be an integer or a name; got '?0.5"):
        load_task(write(name, rows))


@pytest.mark.parametrize("name", ["data.csv", "data.tsv.gz", "data.jsonl", "data.parquet"])
def test_long_cells(write, rows, name):
    rows[0]["text"] = "z " * 100_000
    assert load_task(write(name, rows)).train.texts[0] == rows[0]["text"]


def test_columns_that_nobody_reads_may_have_one_name(tmp_path, rows):
    lines = ["text,label,split,note,note,,"]
    lines += [f"{row['text']},{row['label']},{row['split']},,,," for row in rows]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    assert len(load_task(tmp_path / "x.csv").train) == 12


@pytest.mark.parametrize("written", [True, False])
def test_class_names_in_a_parquet_file(rows, tmp_path, written):
    """As `datasets` writes them; what else stands there is nobody's."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kind = {"names": ["pear", "brook"], "_type": "ClassLabel"} if written else ["?"]
    note = json.dumps({"info": {"features": {"label": kind, "text": {"_type": "Value"}}}})
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": note})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert load_task(tmp_path / "x.parquet").label_names == (
        ("pear", "brook") if written else ("apple", "river")
    )
    given = load_task(tmp_path / "x.parquet", label_names=["a", "b"])
    assert given.label_names == ("a", "b")


def test_datasets_own_parquet_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
    )
    columns = {"text": [f"text {i}" for i in range(60)], "label": [i % 2 for i in range(60)]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "x.parquet")
    assert load_task(tmp_path / "x.parquet").label_names == ("no", "yes")


@pytest.mark.parametrize("name", ["data.csv.gz", "data.parquet"])
def test_a_small_file_that_unpacks_to_much_is_refused(write, rows, monkeypatch, name):
    rows[0]["text"] = "z" * 3_000_000
    path = write(name, rows)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(files, "_LARGEST", 1 << 20)
    with pytest.raises(ValueError, match=rf"{name} .*unpacks to more than 1 MiB: take a part of it"):
        load_task(path)


def test_pipes_devices_and_folders_are_not_read(tmp_path, write, rows):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "folder.csv", "zero.csv"):
        with pytest.raises(ValueError, match=rf"{name}' is no plain file"):
            load_task(tmp_path / name)
    path = write("tasks/toy.jsonl", rows)
    os.mkfifo(tmp_path / "index.json")  # reading it would not end
    assert load_task(path).label_names == ("apple", "river")


def test_names_of_files_that_cannot_be_written_down(rows, tmp_path, write):
    path = write("x.jsonl", rows)
    odd = path.rename(tmp_path / "half \udcff.jsonl")
    with pytest.raises(ValueError, match="rename the file"):
        load_task(odd)


@pytest.mark.parametrize("labels", [5, "ab", [1, 2], ["a", "\ud800"]])
def test_bad_class_names_in_an_index(write, rows, tmp_path, labels):
    path = write("tasks/toy.jsonl", rows)
    index = {"tasks": [{"file": "tasks/toy.jsonl", "labels": labels}]}
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index.json': labels of 'tasks/toy.jsonl' must be a list of names"):
        load_task(path)


def test_without_a_split_column_the_text_decides(write, rows_of):
    rows = rows_of({"train": 300})
    for row in rows:
        del row["split"]
    task = load_task(write("data.csv", rows))
    assert len(task.train) == pytest.approx(210, abs=32)  # four standard deviations
    assert len(task.test) == pytest.approx(60, abs=28)
    assert "SHA-256" in task.provenance["split"]
    fewer = load_task(write("data.csv", rows[:150]))
    assert set(fewer.test.texts) == set(task.test.texts) & {row["text"] for row in rows[:150]}


def test_splits_that_are_missing(write, rows_of):
    no_dev = load_task(write("a.jsonl", rows_of({"train": 160, "test": 6})))
    assert len(no_dev.test) == 6
    assert len(no_dev.dev) == pytest.approx(20, abs=17)
    assert len(no_dev.train) + len(no_dev.dev) == 160
    assert "an eighth of train" in no_dev.provenance["split"]
    no_test = load_task(write("b.jsonl", rows_of({"training": 160, "Validation": 6})))
    assert len(no_test.test) == 6
    assert "dev split is the test split" in no_test.provenance["split"]


def test_leaks_are_taken_out_of_train(write, rows):
    rows[0]["text"] = rows[-1]["text"].upper() + "  "
    task = load_task(write("data.jsonl", rows))
    assert len(task.train) == 11
    assert len(task.test) == 6
    assert task.provenance["removed_as_leaking"] == {"train": 1, "dev": 0}


def without(column):
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def changed(i, **values):
    return lambda rows: [{**row, **values} if j == i else row for j, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            without("text"),
            {},
            r"data.jsonl has no text column \(looked for text, .*; its columns are split, label",
        ),
        (
            lambda rows: without("label")(without("target")(rows)),
            {},
            r"no label column.*Name it: label=",
        ),
        (list, {"text": "texxt"}, r"no column 'texxt' \(text='texxt'\). Did you mean 'text'"),
        (list, {"label": "zzz"}, "There are: split, text, label, target"),
        (
            lambda rows: [{**row, "text": " "} for row in rows[:4]] + rows[4:],
            {},
            "line 1: .* not blank; got ' '",
        ),
        (changed(2, text=7), {}, "line 3: 'text' must be a text.*got 7"),
        (changed(3, text2="x"), {}, "line 1: 'text2' must be a text.*got None"),
        (changed(2, label=0.5), {}, "line 3: 'label' must be an integer or a name; got 0.5"),
        (changed(2, label=None), {}, "line 3: 'label' must be an integer or a name; got None"),
        (changed(2, split="trian"), {}, "line 3: split='trian' is unknown. Did you mean 'train'"),
        (changed(2, split=None), {}, "line 3: split='' is unknown"),
        (changed(2, target="river"), {}, "line 3: target='river' names the class label=0, which was 'apple'"),
        (changed(2, label=5), {"label_names": ["a", "b"]}, "line 3: label=5 is none of the 2 classes"),
        (
            changed(2, label="aple"),
            {"label_names": ["apple", "pear"]},
            "'aple' is none.*Did you mean 'apple'",
        ),
        (
            changed(21, label=2, target="stone"),
            {},
            "asks in test for classes that never occur in train: 'stone'",
        ),
        (
            lambda rows: [{**row, "label": 0, "target": "apple"} for row in rows],
            {},
            "two or more distinct classes",
        ),
        (lambda rows: [row for row in rows if row["split"] != "train"], {}, "empty train split"),
        (list, {"revision": "main"}, "revision='main' is for hub data sets only"),
    ],
)
def test_bad_tables(write, rows, change, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(write("data.jsonl", change(rows)), **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "x.jsonl has no rows"),
        ("x.jsonl", b'{"text": "a"}\n\n{"text": \n', "x.jsonl, line 3: not valid JSON"),
        ("x.jsonl", b'{"text": "a"}\n["b"]\n', "x.jsonl, line 2: must be one JSON object"),
        (
            "x.jsonl",
            b'{"text": "a"}\n{"text": "caf\xe9"}\n',
            r"line 2: not UTF-8 \(byte 0xe9\). Save the file as UTF-8",
        ),
        ("x.csv", b"text,label\ncaf\xe9,1\n", r"x.csv, line 2: not UTF-8"),
        ("x.csv", b"text,label\na,1\nb,1,2\n", "line 3: not one cell for each of the columns text, label"),
        ("x.csv", b"text,label\na,1\nb\n", "line 3: not one cell"),
        ("x.csv", b'text,label\na,1\n"b"c,1\n', r"line 3: not valid CSV \('.*' expected after"),
        ("x.csv", b'text,label\na,1\n"b,1\nc,1\n', r"line 4: not valid CSV \(unexpected end of data"),
        ("x.csv", b"text,label,label\na,1,2\n", r"x.csv has 2 columns 'label': which one counts\? Rename"),
        ("x.tsv", b"text\tlabel\tsplit\tsplit\na\t1\t\t\n", r"x.tsv has 2 columns 'split'"),
        (
            "x.jsonl",
            b'{"text": "a", "label": 1, "label": 2}\n',
            r"line 1: not valid JSON \('label' is there tw",
        ),
        ("x.jsonl", b'{"text": "a\\ud800", "label": 1}\n', r"line 1: 'text' must be a text.*got 'a\\ud800'"),
        ("x.jsonl", b'{"text": "a", "label": "\\ud800"}\n', r"line 1: 'label' must be an integer or a name"),
        ("x.jsonl", b"[" * 100_000, "line 1: not valid JSON .*recursion"),
        ("x.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "line 1: not valid JSON"),
        ("x.json", b'{"text": "a"}\n{"text": "b"}', "x.json: not valid JSON .*line 2"),
        ("x.json", b'{"text": "a"}', r"x.json: must be one JSON array of objects; .* called .jsonl"),
        ("x.json", b'[{"text": "a"}, 7]', "x.json, object 2: must be one JSON object; got 7"),
        # Without the time in its header: xdist's workers must collect the same test.
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 50, mtime=0)[:-9], "not a whole gzip file"),
        ("x.jsonl.gz", b"plain", "not a whole gzip file"),
        ("x.parquet", b"plain", "not a whole Parquet file"),
        ("x.txt", b"plain", r"name must end in .jsonl.gz, .json.gz, .csv.gz, .tsv.gz, .jsonl, .json"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_task(str(tmp_path / name))


def test_bytes_that_editors_leave(tmp_path, rows_of):
    lines = ["text,label"] + [f'"a ""quoted"", text\nof two lines {i}",{i % 2}' for i in range(60)]
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    task = load_task(tmp_path / "x.csv")
    assert 'a "quoted", text\nof two lines 1' in task.train.texts + task.dev.texts + task.test.texts
    # U+2028 ends a line for str.splitlines, not in JSON lines.
    rows = rows_of({"train": 4, "dev": 2, "test": 2})
    rows[0]["text"] = "one\u2028text"
    data = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_text(data, encoding="utf-8")
    assert load_task(tmp_path / "x.jsonl").train.texts[0] == "one\u2028text"


def test_absent_file(write, rows, tmp_path):
    write("sst2.jsonl.gz", rows)
    with pytest.raises(FileNotFoundError, match=re.escape("Did you mean 'sst2.jsonl.gz'?")):
        load_task(tmp_path / "sst3.jsonl.gz")
    with pytest.raises(FileNotFoundError, match=r"No file .* has no such file"):
        load_task(tmp_path / "nowhere" / "x.csv")


def test_parquet_without_pyarrow(write, rows, monkeypatch):
    path = write("data.parquet", rows)
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'deltatheory\[data\]'"):
        load_task(path)
