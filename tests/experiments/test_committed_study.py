"""The committed pages say what the committed logs say."""

import json
from functools import cache
from pathlib import Path

import pytest

from deltatheory.results import ResultLog
from experiments.page import write_page
from experiments.runner import LOG
from experiments.scope import Scope
from experiments.studies import STUDIES
from experiments.trial import Known

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
FOLDERS = ("study", "study-generation")
PAGES = sorted(
    (path.parents[1].name, path.parent.name) for f in FOLDERS for path in RESULTS.glob(f"{f}/*/result.json")
)


@cache
def known(folder):
    return Known.read(ResultLog(RESULTS / folder / LOG))


def page(path):
    """Read the numbers to nine digits: the last ones are another machine's rounding."""
    return json.loads(path.read_text(), parse_float=lambda x: float(f"{float(x):.9g}"))


@pytest.mark.parametrize(("folder", "name"), PAGES)
def test_a_page_comes_again_from_its_log(folder, name, tmp_path):
    scope = Scope.read(RESULTS / folder / "scope.json")
    write_page(name, STUDIES[name], scope, known(folder), tmp_path)
    stored, again = (page(f / name / "result.json") for f in (RESULTS / folder, tmp_path))
    assert stored["verdict"] == again["verdict"]
    assert stored["found"] == again["found"]
    assert stored["numbers"] == again["numbers"]
    assert stored["tables"] == again["tables"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_row_of_a_log_is_damaged(folder, recwarn):
    rows = ResultLog(RESULTS / folder / LOG).rows()
    assert rows
    assert not [w for w in recwarn if "skipped" in str(w.message)]
