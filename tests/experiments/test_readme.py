"""The table of verdicts says what the pages say."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROW = re.compile(r"^\| \[.*?\]\((results/\S+\.md)\) \| (\w*) ?\| (.*) \|$", re.MULTILINE)
CELL = re.compile(r"\\\|")  # a bar behind a stroke ends no cell
NUMBER = re.compile(r"-?\d[\d,.]*(?:e[-+]\d+)?%?")
ROWS = ROW.findall((EXPERIMENTS / "README.md").read_text())


def numbers(text):
    return {found.rstrip(",.") for found in NUMBER.findall(text)}


@pytest.mark.parametrize(("page", "verdict", "figure"), ROWS, ids=[page for page, *_ in ROWS])
def test_a_row_stands_on_its_page(page, verdict, figure):
    path = EXPERIMENTS / page
    assert numbers(figure) <= numbers(path.read_text())
    if path.name == "table.md":
        assert json.loads((path.parent / "result.json").read_text())["verdict"] == verdict


@pytest.mark.parametrize("path", ["README.md", "../README.md", "../RELIABILITY.md"])
def test_every_row_has_as_many_cells_as_its_head(path):
    lines = (EXPERIMENTS / path).read_text().splitlines()
    for head, line in pairwise(lines):
        if head.startswith("|") and line.startswith("|"):
            assert CELL.sub("", line).count("|") == CELL.sub("", head).count("|"), line
            assert line.endswith("|"), line


def test_rows_of_verdicts_stand_under_that_head():
    above = (EXPERIMENTS / "README.md").read_text().partition("## Verdicts")[0]
    assert not ROW.search(above)


def test_every_page_of_a_study_has_a_row():
    pages = {
        str(path.with_name("table.md").relative_to(EXPERIMENTS))
        for path in EXPERIMENTS.glob("results/*/*/result.json")
    }
    assert pages == {page for page, *_ in ROWS if page.endswith("table.md")}
