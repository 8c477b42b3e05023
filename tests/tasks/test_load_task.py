from __future__ import annotations

import pytest

from deltatheory.tasks import load_task


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stdlib-topic", "Did you mean 'stdlib-topics'"),
        ("stdlib-topics-7", "'stdlib-topics-"),
        ("zzz", "There are: stdlib-topics, stdlib-topics-2"),
    ],
)
def test_unknown_task(name, hint):
    with pytest.raises(
        ValueError, match=f"Unknown task '{name}'. .*{hint}.* must end in .jsonl.gz.*hub:NAME"
    ):
        load_task(name)


def test_embedded_tasks_take_no_options():
    with pytest.raises(ValueError, match="'stdlib-topics' takes no options; got text='body'"):
        load_task("stdlib-topics", text="body")
    with pytest.raises(ValueError, match="revision='main' is for hub data sets only"):
        load_task("stdlib-topics", revision="main")


def test_an_existing_path_of_another_form_is_no_unknown_name(tmp_path):
    (tmp_path / "data.xls").write_text("a\tb\n")
    with pytest.raises(ValueError, match="Cannot tell the form"):
        load_task(str(tmp_path / "data.xls"))


@pytest.mark.parametrize("name", ["", "x" * 5000, "nul\0byte", "half \ud83d", "/dev/zero"])
def test_names_that_no_file_has(name):
    with pytest.raises(ValueError, match=r"Unknown task|Cannot tell the form"):
        load_task(name)


def test_names_of_classes_are_a_list(tmp_path):
    with pytest.raises(ValueError, match="label_names='ab': must be a list of names"):
        load_task(tmp_path / "x.csv", label_names="ab")
