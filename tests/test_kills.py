"""The short form of `python -m tests.kills`, which says what it is about."""

import os
import signal

import kills
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


def test_signals_at_random_moments_change_nothing_that_a_run_leaves(tmp_path, monkeypatch):
    kills.quicken(monkeypatch.setattr)
    wanted = {signal.SIGKILL: 1, signal.SIGTERM: 1}
    found = kills.kills(tmp_path, wanted, seed=245, names=["train"])
    assert (found["SIGKILL"] >= 1, found["SIGTERM"] >= 1, found["differences"]) == (True, True, 0)
    rows = (tmp_path / "kills.jsonl").read_bytes()
    assert kills.kills(tmp_path, wanted, seed=245, names=["train"]) == found  # from what it has written
    assert (tmp_path / "kills.jsonl").read_bytes() == rows


def test_what_a_run_leaves_is_compared(tmp_path):
    log = kills.ResultLog(tmp_path / kills.LOG)
    log.append({"d": 1}, {"x": 1, "seconds": 2.0})
    before = kills.left_in(tmp_path)
    log.append({"d": 1}, {"x": 1, "seconds": 3.0})
    assert kills.left_in(tmp_path) == before  # but for times
    log.append({"d": 2}, {"x": 1})
    (tmp_path / ".a.json.0123456789ab").touch()
    after = kills.left_in(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["rests", kills.LOG]


def test_four_processes_on_one_folder_lose_no_row(tmp_path):
    found = kills.contention(tmp_path, rows=200, seed=0, between=40)
    assert (found["rows"], found["lost"], found["failed"]) == (200, 0, 0)
    assert found["kills"] > 0
