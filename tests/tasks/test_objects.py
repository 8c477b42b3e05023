"""Tables in memory are the tasks that files of them are."""

from __future__ import annotations

import pytest

from deltatheory.problems import Setup
from deltatheory.tasks import load_task

datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")


def splits_of(rows):
    kept = {name: [row for row in rows if row["split"] == name] for name in ("train", "dev", "test")}
    return {
        name: [{k: v for k, v in row.items() if k != "split"} for row in part] for name, part in kept.items()
    }


def test_every_table_in_memory_gives_the_task_of_its_file(write, rows):
    examples = load_task(write("data.jsonl", rows)).provenance["examples_sha256"]
    parts = splits_of(rows)
    frames = {name: pandas.DataFrame(part) for name, part in parts.items()}
    sets = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    for given in (rows, pandas.DataFrame(rows), datasets.Dataset.from_list(rows), parts, frames, sets):
        task = load_task(given)
        assert task.provenance["examples_sha256"] == examples
        assert task.label_names == ("apple", "river")
        assert Setup(task=given).task.provenance == task.provenance
    assert load_task(task) is task
    assert repr(task) == "<Task table: 2 classes, 12 train / 4 dev / 6 test texts, chance 0.500>"


def test_its_columns_are_found_as_those_of_a_file(rows):
    table = pandas.DataFrame([{"Review": row["text"], "Stars": row["target"], 3: None} for row in rows * 1])
    task = load_task(pandas.concat([table, table.assign(Review=table["Review"] + " again")]), test_share=0.3)
    assert task.provenance["columns"] == {"text": "Review", "label": "Stars"}


def test_class_names_of_a_dataset_are_taken(rows):
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
        split=datasets.Value("string"),
    )
    plain = [{k: row[k] for k in ("text", "label", "split")} for row in rows]
    assert load_task(datasets.Dataset.from_list(plain, features=features)).label_names == ("no", "yes")


def test_missing_numbers_are_no_texts(rows):
    table = pandas.DataFrame(rows)
    table.loc[3, "text"] = float("nan")
    assert load_task(table).provenance["left_out"] == [
        "row 4: 'text' must be a text that is not blank; got None."
    ]


def test_what_is_no_table():
    with pytest.raises(ValueError, match=r"task=int: must be a name, a file, a data frame"):
        load_task(7)
    with pytest.raises(ValueError, match=r"has no train, dev or test split; its splits are all"):
        load_task({"all": [{"text": "a", "label": 1}]})
    with pytest.raises(ValueError, match=r"separator=';': a table in memory takes none"):
        load_task([{"text": "a", "label": 1}], separator=";")
    with pytest.raises(TypeError, match="labels"):
        load_task([{"text": "a", "label": 1}], labels="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": "::"}, r"separator='::': must be one character, or one of comma"),
        ({"encoding": "base64"}, r"encoding='base64': no such encoding of texts"),
        ({"encoding": "klingon"}, r"encoding='klingon': no such encoding"),
        ({"test_share": 1.0}, r"test_share=1.0: must lie between 0 and 1"),
        ({"test_share": 0.5}, r"test_share=0.5: data.csv has a test split; leave it out"),
    ],
)
def test_options_that_fit_nothing(write, rows, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(write("data.csv", rows), **options)


def test_options_that_a_form_does_not_take(write, rows):
    with pytest.raises(ValueError, match=r"separator=';': a .jsonl file takes none"):
        load_task(write("data.jsonl", rows), separator=";")
    with pytest.raises(ValueError, match=r"encoding='utf-8': a .parquet file takes none"):
        load_task(write("data.parquet", rows), encoding="utf-8")
