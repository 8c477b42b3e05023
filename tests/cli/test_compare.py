"""`deltatheory runs` and `cite`: what folders say of the runs in them, of this version and of older ones."""

import json

import pytest
from command_line import run
from sample_results import ONE_OF_EACH, TRAINING

from deltatheory.advice import CANDIDATES
from deltatheory.deltas import DELTAS
from deltatheory.problems.heads import HEADS
from deltatheory.report.citations import USED, bibtex, references
from deltatheory.report.page import record_of
from deltatheory.report.runs import PastRun, read_runs
from deltatheory.results import ANSWER, answered


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of each command, one of an older version, a damaged one, and files of something else."""
    tmp_path = tmp_path_factory.mktemp("past")
    for name, result in {**ONE_OF_EACH, "train": TRAINING}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / ANSWER).write_text(json.dumps(record_of(result, answered(result))))
        (folder / "run.json").write_text(json.dumps({"command": name, "arguments": {}}))
    old = {
        "provenance": {"time": "2025-01-01T00:00:00", "task": {"name": "old-task"}},
        "settings": {"head": "probe"},
    }
    for name, content in {"old": json.dumps(old), "damaged": "{", "other": '{"a": 1}'}.items():
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "result.json").write_text(content)
    return tmp_path / "runs"


def test_runs_are_listed_with_command_task_when_cost_and_answer(folders):
    done = run("runs", folders)
    assert done.exit_code == 0, done.output
    first, *lines = done.stdout.splitlines()
    assert first == f"{len(ONE_OF_EACH) + 1} runs in {folders}."
    assert max(map(len, lines)) <= 100
    text = " ".join(done.stdout.split())
    for word in (
        "reviews",
        "2026-01-02",
        "Test accuracy 0.784",
        "28 800 passes",
    ):
        assert word in text
    assert next(one.folder.name for one in read_runs(folders) if one.time) == "old"  # the oldest first


def test_runs_are_compared_on_one_page(folders, tmp_path):
    done = run("runs", folders / "train", folders / "old", "--page", tmp_path / "compare.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "compare.html").read_text()
    assert "Settings in which they differ" in page
    for word in ("delta.delta", "Test accuracy 0.784", "old-task", "By class", "of an older version"):
        assert word in page
    assert "<svg" not in page


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    for command in ("runs", "cite"):
        done = run(command, tmp_path / "absent")
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    empty = run("cite", tmp_path)
    assert (empty.exit_code, "holds no results" in empty.stderr) == (2, True)


def test_a_run_is_cited_by_what_it_used(folders):
    done = run("cite", folders / "train")
    assert done.exit_code == 0, done.output
    for key in ("@software{deltatheory", "{ding2023", "{hu2022", "{loshchilov2019"):
        assert key in done.stdout
    assert "houlsby2019" not in done.stdout


def test_every_citation_is_there_and_names_what_there_is(tmp_path):
    named = {key for kinds in USED.values() for keys in kinds.values() for key in keys}
    assert named | {"ding2023"} == references().keys()
    assert USED["delta"].keys() <= DELTAS.keys()
    assert USED["head"].keys() <= HEADS.keys()
    assert {one.method for one in CANDIDATES} - {"full", "layernorm"} <= USED["delta"].keys()
    for text in references().values():
        assert text.count("{") == text.count("}")
    prefix = PastRun(tmp_path, "control", model="minilm", settings={"delta.delta": "prefix:8"})
    assert {"liliang2021", "li2018msa", "wang2020"} <= {
        key for key in references() if f"{{{key}," in bibtex(prefix)
    }
