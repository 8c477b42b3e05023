"""One's own table, as it comes out of a spreadsheet, ends in an answer or in one line that leads to it."""

from __future__ import annotations

import codecs
import logging

import pytest
from command_line import run, save_tiny
from tiny_models import tiny

from deltatheory.problems import Setup
from deltatheory.problems.base import Problem
from deltatheory.tasks import load_task

LETTERS = "abcdefghijklmnop"


@pytest.fixture(scope="module")
def backbone():
    return tiny("bert")


@pytest.fixture
def answered(backbone, tmp_path, caplog):
    """Score the bytes of a file, and see what is said of them."""
    caplog.set_level(logging.INFO, logger="deltatheory")

    def answer(name: str, content: bytes | str, *said: str, head: str = "label-words", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        setup = Setup(backbone, {"source": path, **options}, head=head, test_examples=8)
        problem = setup.problem("bitfit", check=False)
        assert 0 <= problem.evaluate(problem.delta.initial(), problem.test)["accuracy"] <= 1
        for one in said:
            assert one in caplog.text
        return setup.whole_task

    return answer


def command(tmp_path, content: str, *options: str):
    """The command, where no model is."""
    (tmp_path / "my.csv").write_text(content)
    where = ("--model", tmp_path / "absent", "--task", tmp_path / "my.csv", "--out", tmp_path / "out")
    return run("train", "--no-progress", "--no-compare", "--steps", 2, *where, *options)


def rows(count: int = 200, classes: tuple = ("p", "q")) -> list[tuple[str, object]]:
    def letters(i: int) -> str:
        return " ".join(LETTERS[i // 16**k % 16] for k in range(3))

    return [(f"{'ah'[i % len(classes) % 2]} {letters(i)}", classes[i % len(classes)]) for i in range(count)]


def csv(
    table: list[tuple], head: tuple[str, ...] = ("text", "label"), sep: str = ",", end: str = "\n"
) -> str:
    return end.join(sep.join(map(str, line)) for line in [head, *table]) + end


def refused(done, *said: str) -> None:
    """In one line that names what helps."""
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.output
    for one in said:
        assert one in errors[0]


ENGLISH = rows()
ORDINARY = {
    "quoted-commas": ("my.csv", csv([(f'"{t}, ""{t}"""', y) for t, y in ENGLISH]), {}),
    "bom-and-crlf": ("my.csv", codecs.BOM_UTF8 + csv(ENGLISH, end="\r\n").encode(), {}),
    "utf-16-of-a-spreadsheet": ("my.tsv", csv(ENGLISH, sep="\t").encode("utf-16"), {}),
    "semicolons": ("my.csv", csv(ENGLISH, sep=";"), {}),
    "tabs-in-a-csv": ("my.csv", csv(ENGLISH, sep="\t"), {}),
    "another-separator": ("my.csv", csv(ENGLISH, sep="~"), {"separator": "~"}),
    "another-encoding": (
        "my.csv",
        csv([(f"é {t}", y) for t, y in ENGLISH]).encode("cp1252"),
        {"encoding": "cp1252"},
    ),
    "labels-from-1": ("my.csv", csv(rows(classes=(1, 2))), {"head": "prototypes"}),
    "not-english": (
        "my.csv",
        csv([(f"日本語 {t} ñandú", y) for t, y in rows(classes=("質問", "回答"))]),
        {"head": "random"},
    ),
    "a-named-column": (
        "my.csv",
        csv(ENGLISH, ("Blurb", "Which")),
        {"text": "blurb", "label": "which"},
    ),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_an_ordinary_file_is_read(case, answered):
    name, content, options = ORDINARY[case]
    task = answered(name, content, "test examples an accuracy is known to ±0.1", **options)
    assert len(task.train) + len(task.dev) + len(task.test) == 200
    assert sorted({text[-1] for text in task.train.texts}) != ["\r"]
    if name == "my.csv" and "quoted" in case:
        assert all(text.count(",") == 1 and text.count('"') == 2 for text in task.train.texts)


def test_obvious_columns_are_found_and_said(answered):
    answered("my.csv", csv(rows(), ("Review", "Category")), "read are text='Review', label='Category'")


@pytest.mark.parametrize("head", [("Review Text", "Main Topic"), ("review_text", "mainTopic")])
def test_columns_are_found_by_their_last_word(answered, head):
    answered("my.csv", csv(rows(), head), f"read are text={head[0]!r}, label={head[1]!r}")


def test_other_columns_are_asked_for(tmp_path):
    done = command(tmp_path, csv(rows(), ("blurb", "which")))
    refused(done, "has no text column", "its columns are blurb, which", "write a first line")
    several = command(tmp_path, csv([(1, t, y) for t, y in rows()], ("review_id", "short_text", "long_text")))
    refused(several, "has no text column")


def test_a_column_that_tells_no_classes_apart_is_refused(tmp_path):
    refused(command(tmp_path, csv([(t, "p") for t, _ in rows()])), "'label' is 'p' in every row", "--label=")
    numbered = csv([(t, i) for i, (t, _) in enumerate(rows())])
    refused(
        command(tmp_path, numbered), "'label' is different in each of the 200 rows", "--label=", "--target="
    )


def test_texts_with_several_labels_are_counted(answered):
    answered("my.csv", csv(rows() + [(t, "q") for t, _ in rows()[:6]]), "3 texts have different labels")


def test_a_rare_class_is_learnt(answered, tmp_path):
    """Both of its rows may fall into dev and test."""
    tables = [
        [(t, "q" if i in (at, at + 1) else "p") for i, (t, _) in enumerate(rows())]
        for at in range(0, 160, 40)
    ]
    for table in tables:
        (tmp_path / "my.csv").write_text(csv(table))
        task = load_task(tmp_path / "my.csv")
        assert task.train.labels
        assert 1 in task.train.labels
    answered("my.csv", csv(tables[0]))


def test_one_blank_text_does_not_stop_a_run(answered):
    table = rows()
    table[7] = ("", "p")
    answered("my.csv", csv(table), "left out 1 of 200 rows: line 9: 'text' must be a text that is not blank")


def test_bad_rows_are_left_out_where_that_is_asked_for(answered, tmp_path):
    table = [*rows(), ("a b", ""), ("b c", "p", "more")]
    refused(
        command(tmp_path, csv(table)), "line 203: not one cell for each of the columns", "--skip-bad leaves"
    )
    done = command(tmp_path, csv(table), "--skip-bad")  # up to the model, which is not there
    assert "absent" in done.stderr
    said = ("line 203: not one cell", "line 202: 'label' must be")
    answered("my.csv", csv(table), "left out 2 of 202 rows", *said, skip_bad=True)


def test_duplicates_across_splits_are_named(answered):
    table = [(t, y, "test" if i % 4 == 0 else "train") for i, (t, y) in enumerate(rows())]
    table += [(t, y, "train") for t, y, split in table if split == "test"]
    task = answered(
        "my.csv", csv(table, ("text", "label", "split")), "train rows also occur in test; they are"
    )
    assert len(task.train) + len(task.dev) == 150


def test_a_file_with_a_train_split_alone_is_split(answered):
    table = [(t, y, "train") for t, y in rows()]
    task = answered("my.csv", csv(table, ("text", "label", "Split")), test_share=0.4)
    assert 60 < len(task.test) < 100


def test_a_file_that_is_too_small_is_told_so(tmp_path):
    refused(command(tmp_path, csv(rows(3))), "give more rows")


def test_an_answer_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Problem, "check", lambda *_: None)
    model = save_tiny("bert", tmp_path / "bert")
    done = command(
        tmp_path, csv(rows(), ("Review", "Category"), sep=";"), "--model", model, "--delta", "lora:1"
    )
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.stdout
    assert "read are --text='Review', --label='Category'" in done.stderr
