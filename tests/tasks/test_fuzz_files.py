"""Any bytes give the task that is written in them, or one ValueError."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltatheory.tasks import Task, load_task
from deltatheory.tasks.files import SUFFIXES
from deltatheory.tasks.task import text_key

SPLITS = ("train", "dev", "test")
fuzz = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
suffixes = st.sampled_from(SUFFIXES)

# Strings of every kind: quotes, separators, line ends, scripts, lone surrogates, blanks.
cell = st.one_of(st.text(max_size=12), st.text("\",;\t\r\n'\\ |\0ab\u2028", max_size=8))
label = st.one_of(st.sampled_from(["0", "1", "01", "1.0", "a", "b", 0, 1, 1.0, 2, True]), cell)
row = st.fixed_dictionaries({"text": cell, "label": label, "split": st.sampled_from(SPLITS)})
rows = st.lists(row, min_size=1, max_size=20)


def serialised(rows: list[dict], suffix: str) -> bytes:
    form = suffix.removesuffix(".gz")
    if form == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        stream = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
        return stream.getvalue()
    if form in (".csv", ".tsv"):
        file = io.StringIO(newline="")
        table = csv.DictWriter(file, ["text", "label", "split"], delimiter="\t" if form == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        data = file.getvalue().encode()
    else:
        lines = map(json.dumps, rows)
        data = (f"[{','.join(lines)}]" if form == ".json" else "\n".join(lines)).encode()
    return gzip.compress(data) if suffix.endswith(".gz") else data


def loaded(folder, data: bytes, suffix: str) -> Task | None:
    """Return the task, or None for a ValueError; anything else fails."""
    path = folder / f"fuzz{suffix}"
    path.write_bytes(data)
    try:
        return load_task(path)
    except ValueError:
        return None


@fuzz
@given(suffixes, rows, st.booleans())
def test_a_table_is_read_as_it_is_written(tmp_path, suffix, rows, good):
    if good:  # half of the tables, so that the check below is reached
        for i, row in enumerate(rows):
            row["text"] = f"{i} {row['text'].encode(errors='ignore').decode()}"
            row["label"] = ("no", "yes")[i % 2]
    try:
        written = serialised(rows, suffix)
    except (ValueError, TypeError, csv.Error):
        return  # what this form cannot hold
    task = loaded(tmp_path, written, suffix)
    if task is None:
        return
    rows = [row for row in rows if row["text"].strip()]  # a few blank ones are left out
    given = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    if not given["test"] and not given["dev"]:  # then both are drawn from train
        read = (task.train, task.dev, task.test)
        assert Counter(text for split in read for text in split.texts) == Counter(row["text"] for row in rows)
        return
    if not given["test"]:  # then dev is the test split
        given["test"], given["dev"] = given["dev"], []
    assert list(task.test.texts) == [row["text"] for row in given["test"]]
    names = [task.label_names[y] for y in task.test.labels or ()]
    # Numbers are named by their value, names by what is written.
    for name, row in zip(names, given["test"], strict=True):
        value = str(row["label"]).strip()
        assert name in (value, value.lower(), value.removesuffix(".0"))
    held_out = {text_key(text) for text in (*task.test.texts, *task.dev.texts)}
    taught = [row["text"] for row in given["train"] if text_key(row["text"]) not in held_out]
    assert Counter(task.train.texts) == Counter(taught)


@fuzz
@given(suffixes, st.binary(max_size=200), st.integers(0, 400), st.integers(0, 40))
def test_bytes_are_a_task_or_a_value_error(tmp_path, suffix, noise, where, cut):
    good = [{"text": f"text {i}", "label": i % 2, "split": SPLITS[i % 3]} for i in range(18)]
    whole = serialised(good, suffix)
    loaded(tmp_path, noise, suffix)
    loaded(tmp_path, whole[:where] + noise + whole[where + cut :], suffix)
    loaded(tmp_path, whole[:where], suffix)
    if suffix.endswith(".gz"):
        plain = gzip.decompress(whole)
        loaded(tmp_path, gzip.compress(plain[:where] + noise + plain[where + cut :]), suffix)
