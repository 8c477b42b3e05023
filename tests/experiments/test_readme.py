"""The table of verdicts says what the pages say."""

import json
import re
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROW = re.compile(r"^\| \[.*?\]\((results/\S+\.md)\) \| (\w*) ?\| (.*) \|$", re.MULTILINE)
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


def test_every_page_of_a_study_has_a_row():
    pages = {
        str(path.with_name("table.md").relative_to(EXPERIMENTS))
        for path in EXPERIMENTS.glob("results/*/*/result.json")
    }
    assert pages == {page for page, *_ in ROWS if page.endswith("table.md")}
