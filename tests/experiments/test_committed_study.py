"""The committed pages say what the committed log says."""

import json
from pathlib import Path

import pytest

from deltatheory.results import ResultLog
from experiments.page import write_page
from experiments.runner import LOG
from experiments.scope import Scope
from experiments.studies import STUDIES
from experiments.trial import Known

STUDY = Path(__file__).parents[2] / "experiments" / "results" / "study"
PAGES = sorted(path.parent.name for path in STUDY.glob("*/result.json"))


@pytest.fixture(scope="module")
def known():
    return Known.read(ResultLog(STUDY / LOG))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_comes_again_from_its_log(name, known, tmp_path):
    write_page(name, STUDIES[name], Scope.read(STUDY / "scope.json"), known, tmp_path)
    stored, again = (json.loads((f / name / "result.json").read_text()) for f in (STUDY, tmp_path))
    assert stored["verdict"] == again["verdict"]
    assert stored["found"] == again["found"]
    assert stored["numbers"] == again["numbers"]
    assert stored["tables"] == again["tables"]


def test_no_row_of_the_log_is_damaged(recwarn):
    rows = ResultLog(STUDY / LOG).rows()
    assert rows
    assert not [w for w in recwarn if "skipped" in str(w.message)]
