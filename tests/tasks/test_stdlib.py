from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deltatheory.tasks import EMBEDDED, load_task, stdlib
from deltatheory.tasks.stdlib import first_sentence

ROOT = Path(stdlib.__file__).parents[2]


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_task_is_large_enough_and_not_lopsided(name):
    task = load_task(name)
    assert task.name == name
    assert task.label_names == EMBEDDED[name]
    assert task.num_classes == (int(name.rsplit("-", 1)[1]) if name[-1].isdigit() else 4)
    assert len(task.train) >= 250
    assert len(task.test) >= 200
    assert task.chance < 1.8 / task.num_classes
    assert all((task.train.labels or ()).count(c) >= 50 for c in range(task.num_classes))


def test_texts_are_short_distinct_and_do_not_name_their_class():
    task = load_task("stdlib-topics")
    texts = task.train.texts + task.dev.texts + task.test.texts
    assert len(set(texts)) == len(texts)
    assert all(4 <= len(text.split()) <= 40 for text in texts)
    assert not [
        text for text in texts if re.search(r"\b(email|logging|unittest|doctest|asyncio)\b", text, re.I)
    ]


def test_is_the_same_twice_and_says_where_it_is_from():
    one, two = load_task("stdlib-topics"), load_task("stdlib-topics")
    assert one == two
    assert one.provenance["python"] == platform.python_version()
    assert one.provenance["packages"]["unittest"] == ["unittest", "doctest"]
    assert one.provenance["dropped"]["names_a_package"] > 0
    assert one.label_words[2] == "unit testing"


def test_nothing_is_imported():
    code = (
        "import sys; from deltatheory.tasks import load_task\n"
        "load_task('stdlib-topics')\n"
        "print(*[m for m in sys.modules if m.startswith(('asyncio', 'unittest'))])\n"
        "print(*[m for m in ('torch', 'pandas', 'pyarrow', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of two packages, and a task of it."""
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setitem(stdlib._CLASSES, "red", ("red things", ("red",)))
    monkeypatch.setitem(stdlib._CLASSES, "blue", ("blue things", ("_blue",)))
    monkeypatch.setitem(stdlib.EMBEDDED, "toy", ("red", "blue"))
    (tmp_path / "red" / "tests").mkdir(parents=True)
    return tmp_path


def fill(path, sentences):
    path.write_text("\n".join(f"def f{i}():\n    {sentence!r}\n" for i, sentence in enumerate(sentences)))


def test_what_is_left_out(library):
    many = [
        f"{a} {b} {c} over there." for a in ("Big", "Old", "New") for b in ("cat", "dog") for c in "pqrstuvw"
    ]
    fill(
        library / "red" / "__init__.py",
        [
            *[f"Warm {text}" for text in many],
            "This sentence names Blue things.",
            "One sentence of two classes.",
            "Log with severity 'INFO' on 1 line.",
            "Log with severity 'DEBUG' on 22 lines.",
            "Log with severity 'DEBUG' on 2 line.",
        ],
    )
    fill(library / "red" / "tests" / "case.py", ["A sentence of the tests here."])
    fill(library / "_blue.py", [*[f"Cool {text}" for text in many], "One sentence of two classes!"])
    task = load_task("toy")
    texts = task.train.texts + task.dev.texts + task.test.texts
    assert sum(text.startswith("Warm") for text in texts) == len(many)
    assert sum(text.startswith("Cool") for text in texts) == len(many)
    rest = {text for text in texts if not text.startswith(("Warm", "Cool"))}
    assert rest == {"Log with severity 'INFO' on 1 line.", "Log with severity 'DEBUG' on 22 lines."}
    assert task.provenance["dropped"] == {"names_a_package": 1, "near_duplicate": 1, "in_two_classes": 1}


def test_a_python_without_sources(library):
    fill(library / "_blue.py", ["A sentence to be read."])
    with pytest.raises(FileNotFoundError, match=r"'red' are not at .* full installation"):
        load_task("toy")


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the next item.  Then stop.", "Return the next item."),
        (
            "Use a ``list`` or :class:`~a.b.Tree`\n    of *many* nodes.\n\nMore.",
            "Use a list or a.b.Tree of many nodes.",
        ),
        ("Accept numbers, e.g. Two or more of them. Rest.", "Accept numbers, e.g. Two or more of them."),
        ("Say (to whom it may concern!) Hello to all. End.", "Say (to whom it may concern!)"),
        ("Multiply a * b and c * d here.", "Multiply a * b and c * d here."),
        ("Things to do about this:\n\n- one", "Things to do about this"),
        ("Too short.", None),
        ("word " * 41, None),
        ("open(file, mode) -> file object for reading", None),
        ("f(a, b) does what one would expect.", None),
        ("See https://example.org for all the details.", None),
        ("", None),
    ],
)
def test_first_sentence(docstring, sentence):
    assert first_sentence(docstring) == sentence
