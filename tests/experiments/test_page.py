"""What comes from data (names, errors, cells) is text on a page, in a figure and in a table."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
from skeletons import HOSTILE, tags
from squares import SCOPE

from experiments.page import Findings, Table, as_text, drawing, write_overview, write_page
from experiments.trial import Known


def pages(folder, text, monkeypatch):
    """The files of a study in which everything is this text."""
    with drawing(2, 2) as (figure, axes):
        axes.plot([1, 2])
    tables = [Table(text, [text, "b"], [[text, 1.0], ["c", text]])]
    findings = Findings("agrees", text, [text, text], {text: 1.0}, tables, {text: figure})
    study = SimpleNamespace(CLAIM="a claim", SOURCE="a source", findings=lambda scope, known: findings)
    monkeypatch.setattr("sys.argv", ["python", text])
    write_page("one", study, SCOPE, Known([]), folder)
    write_overview(folder)
    return [(folder / name).read_text() for name in ("one/report.html", "one/table.md", "README.md")]


def cells(markdown):
    """Of every line of a table, how many cells it has."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [len(re.findall(r"(?:\\.|[^|\\])+", line)) for line in lines]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_changes_nothing_but_the_text(tmp_path, text, monkeypatch):
    plain = pages(tmp_path / "plain", "abc", monkeypatch)
    html, *tables = pages(tmp_path / "hostile", text, monkeypatch)
    assert Counter(tags(html)) == Counter(tags(plain[0]))
    for markdown, usual in zip(tables, plain[1:], strict=True):
        assert cells(markdown) == cells(usual)
        assert len(markdown.splitlines()) == len(usual.splitlines())
        assert not re.search(r"<[A-Za-z/!?]", markdown)
        assert not re.search(r"\](\((?!one/table.md)|:)", markdown)


@pytest.mark.parametrize(
    "text", ["a > b, n <= 30", "|u|² of 5 % & more", "`deltatheory check`, m = 1..7 [0, 1]"]
)
def test_what_is_no_markup_stays_as_it_is(text):
    assert as_text(text).replace("\\|", "|") == text
