"""The committed pages say what the committed logs say."""

import json
import warnings
from functools import cache
from pathlib import Path

import pytest

from deltatheory.results import ResultLog
from experiments.page import write_page
from experiments.runner import LOG
from experiments.scope import Scope
from experiments.studies import STUDIES, performance
from experiments.trial import Known, Trial

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
FOLDERS = sorted(path.parent.name for path in RESULTS.glob(f"*/{LOG}"))
PAGES = sorted(
    (path.parents[1].name, path.parent.name) for f in FOLDERS for path in RESULTS.glob(f"{f}/*/result.json")
)


@pytest.mark.parametrize(
    ("folder", "named"),
    [("smollm2", performance.LANGUAGE_TASKS), ("smollm2-generation", performance.LANGUAGE_ANSWERS)],
)
def test_tasks_of_the_language_model_are_the_first_that_were_named(folder, named):
    tasks = [task.name for task in Scope.read(RESULTS / folder / "scope.json").tasks]
    assert tuple(tasks) == named[: len(tasks)]


@cache
def rows(folder):
    """The rows of a log, of which none is damaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*skipped")
        return ResultLog(RESULTS / folder / LOG).rows()


@cache
def known(folder):
    return Known(rows(folder))


def page(path):
    """Read the numbers to nine digits: the last ones are another machine's rounding."""
    return json.loads(path.read_text(), parse_float=lambda x: float(f"{float(x):.9g}"))


@pytest.mark.parametrize(("folder", "name"), PAGES)
def test_a_page_comes_again_from_its_log(folder, name, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.page.svg", lambda *_: "")  # its numbers are compared, no drawing
    scope = Scope.read(RESULTS / folder / "scope.json")
    write_page(name, STUDIES[name], scope, known(folder), tmp_path)
    stored, again = (page(f / name / "result.json") for f in (RESULTS / folder, tmp_path))
    assert stored["verdict"] == again["verdict"]
    assert stored["found"] == again["found"]
    assert stored["numbers"] == again["numbers"]
    assert stored["tables"] == again["tables"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_rows_are_named_by_their_trials(folder):
    assert rows(folder)
    assert all(Trial(**row["config"]).hash == row["hash"] for row in rows(folder))


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "study"])  # a minute's work
def test_every_row_is_one_that_a_study_asks_for(folder):
    """Wave by wave, as they were run: no row is left behind when the settings of a trial change."""
    scope = Scope.read(RESULTS / folder / "scope.json")
    asked, before = set(), None
    while asked != before:
        before, seen = set(asked), Known(row for row in rows(folder) if row["hash"] in asked)
        asked |= {
            trial.hash for of, name in PAGES if of == folder for trial in STUDIES[name].trials(scope, seen)
        }
    assert {row["hash"] for row in rows(folder)} <= asked


@pytest.mark.parametrize(("folder", "name"), PAGES)
def test_a_page_names_no_folder_of_the_machine_that_made_it(folder, name):
    command = json.loads((RESULTS / folder / name / "result.json").read_text())["provenance"]["command"]
    assert not [part for part in command if part.startswith("/")]
