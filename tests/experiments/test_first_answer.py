"""The clock of the first answer, on commands that take no time."""

from __future__ import annotations

import json
import sys

import pytest

from experiments.benchmarks import first_answer


def test_each_command_is_timed_once_beside_its_aim(tmp_path, monkeypatch):
    program = "import sys; print(); print('said', *sys.argv[1:-3])"
    monkeypatch.setattr(first_answer, "PROGRAM", [sys.executable, "-S", "-c", program])
    monkeypatch.setattr(first_answer, "AIMS", {"train": 60.0, "check T02": 0.0})
    first_answer.main(tmp_path)
    rows = json.loads((tmp_path / "first-answer-cpu.json").read_text())["rows"]
    assert [(name, aim, met, said) for name, _, aim, met, _, said in rows] == [
        ("`train`", 60.0, "yes", "said train"),
        ("`check T02`", 0.0, "no", "said check T02"),
    ]
    assert all(0 < seconds < 60 for _, seconds, *_ in rows)
    page = (tmp_path / "first-answer-cpu.md").read_text()
    assert "| `check T02` |" in page
    monkeypatch.setattr(first_answer, "PROGRAM", [sys.executable, "-c", "raise SystemExit(1)"])
    first_answer.main(tmp_path)  # from the log
    assert (tmp_path / "first-answer-cpu.md").read_text() == page


def test_a_command_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(first_answer, "PROGRAM", [sys.executable, "-S", "-c", "raise SystemExit('no model')"])
    with pytest.raises(RuntimeError, match="--help failed: no model"):
        first_answer.main(tmp_path)
