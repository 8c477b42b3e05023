from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deltatheory.results
from deltatheory import __version__
from deltatheory.results import (
    ResultLog,
    configuration_hash,
    files,
    locked,
    merge,
    plain,
    provenance,
    understood,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(), json_values, max_size=5)


def run_python(code: str, *argv: str) -> subprocess.Popen:
    root = str(Path(deltatheory.results.__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


NO_LOCKS = """
import contextlib, errno, filelock
@contextlib.contextmanager
def refuse(*_, **__):
    raise OSError(errno.ENOLCK, "No locks available")
    yield
filelock.FileLock = refuse
"""


@dataclass(frozen=True)
class Part:
    name: str
    values: Any


@dataclass(frozen=True)
class Whole:
    name: str
    at: Literal["test", "dev"]
    part: Part | None
    parts: tuple[Part, ...]
    numbers: dict[str, list[float] | None]
    seeds: tuple[int, ...] = (0,)


class TestUnderstood:
    whole = Whole("a", "dev", Part("b", [1]), (Part("c", None),), {"x": [1.0, 2], "y": None}, (1, 2))

    def test_what_was_plain_comes_back(self):
        assert understood(Whole, json.loads(json.dumps(plain(self.whole))), "x") == self.whole

    def test_a_key_more_is_left_out_and_one_fewer_has_its_default(self):
        values = plain(self.whole) | {"new": 1, "part": {**plain(self.whole.part), "newer": [2]}}
        del values["seeds"]
        assert understood(Whole, values, "x") == replace(self.whole, seeds=(0,))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"name": None}, r"x\['name'\] is None, not str"),
            ({"at": "train"}, r"x\['at'\] is 'train'"),
            ({"at": []}, r"x\['at'\] is \[\]"),
            ({"part": {}}, r"x\['part'\] is {}"),
            ({"part": 3}, r"x\['part'\] is 3"),
            ({"parts": [{"name": "a"}]}, r"x\['parts'\]\[0\] has no 'values'"),
            ({"parts": "abc"}, r"x\['parts'\] is 'abc'"),
            ({"numbers": {"x": ["1"]}}, r"x\['numbers'\]\['x'\] is \['1'\]"),
            ({"numbers": [1]}, r"x\['numbers'\] is \[1\]"),
            ({"seeds": [0.5]}, r"x\['seeds'\]\[0\] is 0.5, not int"),
        ],
    )
    def test_what_is_not_says_where(self, change, said):
        with pytest.raises(ValueError, match=said):
            understood(Whole, plain(self.whole) | change, "x")

    def test_nothing_that_is_no_object_is_one(self):
        with pytest.raises(ValueError, match="x is 3, not Whole"):
            understood(Whole, 3, "x")


class TestConfigurationHash:
    def test_is_the_same_everywhere(self):
        # Another canonical form would orphan every result that users have.
        canonical = rb'{"d":64,"lr":0.001,"on":true,"task":"\u00e9"}'
        expected = hashlib.sha256(canonical).hexdigest()[:16]
        assert configuration_hash({"task": "é", "d": 64, "lr": 1e-3, "on": True}) == expected

    @settings(deadline=None, max_examples=50)
    @given(configs, st.randoms(use_true_random=False))
    def test_order_of_keys_and_a_round_trip_change_nothing(self, config, shuffler: random.Random):
        items = list(config.items())
        shuffler.shuffle(items)
        assert configuration_hash(dict(items)) == configuration_hash(config)
        assert configuration_hash(json.loads(json.dumps(config))) == configuration_hash(config)

    @settings(deadline=None, max_examples=50)
    @given(configs, configs)
    def test_other_configurations_have_other_hashes(self, one, other):
        same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
        assert (configuration_hash(one) == configuration_hash(other)) == same

    def test_tuples_are_lists_and_integers_are_no_floats(self):
        assert configuration_hash({"a": (1, 2)}) == configuration_hash({"a": [1, 2]})
        assert configuration_hash({"a": 1}) != configuration_hash({"a": 1.0})

    @pytest.mark.parametrize(
        ("config", "place"),
        [
            ({"a": {"b": [0.0, float("nan")]}}, r"config\['a'\]\['b'\]\[1\] is nan"),
            ({"a": float("-inf")}, r"config\['a'\] is -inf"),
            ({"a": {1, 2}}, r"config\['a'\] must be .*type set"),
            ({"a": {1: 2}}, r"config\['a'\] has the key 1; keys must be strings"),
        ],
    )
    def test_refuses_what_json_has_not(self, config, place):
        with pytest.raises(ValueError, match=place):
            configuration_hash(config)


class TestResultLog:
    def test_append_then_find(self, tmp_path):
        log = ResultLog(tmp_path / "deep" / "log.jsonl")
        assert log.rows() == []
        assert log.find({"d": 1}) is None
        row = log.append({"d": 1}, {"accuracy": 0.5})
        log.append({"d": 2}, {"accuracy": 0.7})
        assert row["schema"] == 1
        assert log.find({"d": 1}) == row
        assert [r["result"]["accuracy"] for r in log.rows()] == [0.5, 0.7]
        assert log.find({"d": 3}) is None

    def test_find_gives_the_latest(self, tmp_path):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, {"accuracy": 0.5})
        log.append({"d": 1}, {"accuracy": 0.6})
        found = log.find({"d": 1})
        assert found is not None
        assert found["result"] == {"accuracy": 0.6}

    def test_refuses_nan_before_it_touches_the_file(self, tmp_path):
        log = ResultLog(tmp_path / "log.jsonl")
        with pytest.raises(ValueError, match=r"result\['loss'\] is nan.*write None"):
            log.append({"d": 1}, {"loss": float("nan")})
        assert not log.path.exists()

    def test_a_torn_line_swallows_no_later_row(self, tmp_path):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, {})
        log.append({"d": 2}, {})
        os.truncate(log.path, log.path.stat().st_size - 20)
        log.append({"d": 3}, {})
        with pytest.warns(UserWarning, match=r"log\.jsonl, line 2: skipped, not valid JSON") as warned:
            rows = log.rows()
        assert [row["config"]["d"] for row in rows] == [1, 3]
        assert len(warned) == 1

    def test_a_whole_last_line_without_its_end_counts(self, tmp_path):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, {})
        os.truncate(log.path, log.path.stat().st_size - 1)
        log.append({"d": 2}, {})
        assert [row["config"]["d"] for row in log.rows()] == [1, 2]

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda row: b"\xff\xfe", "not valid JSON"),
            (lambda row: b"[1, 2]", "not a row"),
            (lambda row: b"[" * 100_000, ""),  # deeper than Python goes
            (lambda row: b'{"config": {}, "result": ' + b'{"a":' * 700 + b"1" + b"}" * 701, ""),
            (lambda row: b'{"config": {}, "result": {"x": 1' + b"0" * 5000 + b"}}", "not valid JSON"),
            (lambda row: b'{"schema": 1}', "not a row"),
            (lambda row: json.dumps({**row, "schema": 2}).encode(), "schema 2 is not 1"),
            (
                lambda row: json.dumps({**row, "config": {"d": 9}}).encode(),
                "is not that of its configuration",
            ),
            (lambda row: json.dumps({**row, "config": [9]}).encode(), "config and result must be objects"),
            (
                lambda row: json.dumps({**row, "result": {"x": float("nan")}}).encode(),
                r"result\['x'\] is nan",
            ),
        ],
    )
    def test_damaged_lines_are_named_and_skipped(self, tmp_path, damage, reason):
        log = ResultLog(tmp_path / "log.jsonl")
        row = log.append({"d": 1}, {})
        log.path.write_bytes(damage(row) + b"\n" + log.path.read_bytes())
        with pytest.warns(UserWarning, match=f"line 1: skipped, .*{reason}"):
            assert log.rows() == [row]

    def test_a_full_disk_leaves_earlier_rows(self, tmp_path, monkeypatch):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, {})
        before = log.path.read_bytes()
        write = os.write
        calls = []

        def full(descriptor, data):
            calls.append(data)
            if len(calls) == 1:
                return write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "write", full)
            with pytest.raises(
                OSError, match=r"could not be written \(No space left.*earlier rows are intact"
            ) as info:
                log.append({"d": 2}, {})
        assert info.value.errno == errno.ENOSPC
        assert len(calls) == 2
        assert log.path.read_bytes() == before
        log.append({"d": 2}, {})
        assert len(log.rows()) == 2

    @pytest.mark.parametrize("locks", ["", NO_LOCKS])  # some file systems have none
    def test_processes_do_not_interleave(self, tmp_path, locks):
        path = tmp_path / "log.jsonl"
        code = (
            f"{locks}\n"
            "import sys; from deltatheory.results import ResultLog\n"
            "log = ResultLog(sys.argv[1])\n"
            "for i in range(30): log.append({'who': sys.argv[2], 'i': i}, {'text': sys.argv[2] * 20000})\n"
        )
        writers = [run_python(code, str(path), who) for who in "abc"]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        rows = ResultLog(path).rows()
        assert {(r["config"]["who"], r["config"]["i"]) for r in rows} == {
            (w, i) for w in "abc" for i in range(30)
        }
        assert len(rows) == 90
        assert all(set(row["result"]["text"]) == {row["config"]["who"]} for row in rows)

    def test_an_append_waits_for_whoever_holds_the_folder(self, tmp_path):
        path = tmp_path / "log.jsonl"
        code = (
            "import sys; from deltatheory.results import ResultLog\n"
            "print('ready', flush=True); ResultLog(sys.argv[1]).append({'d': 1}, {})"
        )
        with locked(tmp_path):
            writer = run_python(code, str(path))
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.5)
            assert not path.exists()
            ResultLog(path).append({"d": 2}, {})  # itself it does not keep out
        assert writer.wait(30) == 0
        assert [row["config"]["d"] for row in ResultLog(path).rows()] == [2, 1]

    def test_a_row_carries_the_version_of_the_code(self, tmp_path):
        row = ResultLog(tmp_path / "log.jsonl").append({"d": 1}, {})
        assert row["code"] == {"version": __version__, "commit": provenance()["commit"]}

    @pytest.mark.parametrize("key", ["schema", "hash", "time", "code", None])
    def test_rows_of_another_version_are_read(self, tmp_path, key):
        """A key fewer, or one more."""
        log = ResultLog(tmp_path / "log.jsonl")
        row = log.append({"d": 1}, {"x": 1})
        other = {**row, "new": {"y": 2}} if key is None else {k: v for k, v in row.items() if k != key}
        log.path.write_text(json.dumps(other) + "\n")
        assert log.rows() == [{**other, "hash": row["hash"]}]
        assert merge([log.path], tmp_path / "out.jsonl") == 1
        assert ResultLog(tmp_path / "out.jsonl").rows() == log.rows()
        found = log.find({"d": 1})
        assert found is not None
        assert found["result"] == {"x": 1}

    @pytest.mark.parametrize(
        ("result", "said"),
        [
            ({}, "result has no 'name'"),
            ({"name": "b"}, "result has no 'values'"),
            ({"name": 7, "values": 1}, r"result\['name'\] is 7, not str"),
            ({"error": "OSError: full"}, "no 'name'"),
        ],
    )
    def test_a_result_of_another_version_is_passed_over(self, tmp_path, result, said):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, result)
        with pytest.warns(UserWarning, match=rf"log\.jsonl: a row \w+ is passed over, .*{said}"):
            assert log.result({"d": 1}, Part) is None
        log.append({"d": 1}, {"name": "a", "values": [1], "more": 2})
        log.append({"d": 1}, result)
        log.append({"d": 2}, {})
        with pytest.warns(UserWarning, match=said):
            assert log.result({"d": 1}, Part) == Part("a", [1])

    def test_a_failure_does_not_stand_where_another_run_finished(self, tmp_path):
        log = ResultLog(tmp_path / "log.jsonl")
        log.append({"d": 1}, {"error": "OSError: full"})
        assert log.find({"d": 1})["result"] == {"error": "OSError: full"}  # type: ignore[index]
        row = log.append({"d": 1}, {"x": 1})
        log.append({"d": 1}, {"error": "KeyError: 'x'"})
        assert log.find({"d": 1}) == row

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
    def test_kill_loses_nothing_finished(self, tmp_path):
        path = tmp_path / "log.jsonl"
        code = (
            "import sys; from deltatheory.results import ResultLog\n"
            "log = ResultLog(sys.argv[1])\n"
            "for i in range(10**6):\n"
            "    log.append({'i': i}, {'text': 'x' * 50000}); print(i, flush=True)\n"
        )
        writer = run_python(code, str(path))
        assert writer.stdout is not None
        finished = [int(writer.stdout.readline()) for _ in range(15)]
        writer.kill()
        finished += [int(line) for line in writer.stdout.read().split()]
        writer.wait(30)
        log = ResultLog(path)
        log.append({"i": -1}, {})
        assert {row["config"]["i"] for row in log.rows()} >= {*finished, -1}

    def test_importing_needs_the_standard_library_only(self):
        code = "import sys, deltatheory.results; print('torch' in sys.modules, 'numpy' in sys.modules)"
        assert run_python(code).communicate(timeout=30)[0].split() == ["False", "False"]


class TestMerge:
    def test_is_a_union_without_loss_or_duplicates(self, tmp_path):
        one, two, out = (ResultLog(tmp_path / name) for name in ("one.jsonl", "two.jsonl", "out.jsonl"))
        for d in (1, 2, 3):
            one.append({"d": d}, {"x": d})
        for d in (3, 4):
            two.append({"d": d}, {"x": d})
        out.append({"d": 5}, {"x": 5})
        for _ in range(2):  # merging again changes nothing
            assert merge([one.path, two.path], out.path) == 5
            assert sorted(row["config"]["d"] for row in out.rows()) == [1, 2, 3, 4, 5]

    def test_may_write_into_one_of_its_logs(self, tmp_path):
        one, two = ResultLog(tmp_path / "one.jsonl"), ResultLog(tmp_path / "two.jsonl")
        one.append({"d": 1}, {})
        two.append({"d": 2}, {})
        assert merge([one.path, two.path], one.path) == 2
        assert len(one.rows()) == 2

    @pytest.mark.parametrize("order", [1, -1])
    def test_the_latest_of_two_results_stays_with_a_warning(self, tmp_path, monkeypatch, order):
        one, two = ResultLog(tmp_path / "one.jsonl"), ResultLog(tmp_path / "two.jsonl")
        monkeypatch.setattr("deltatheory.results.log.now", lambda: "2025-02-01T00:00:00.000+00:00")
        one.append({"d": 1}, {"x": "new"})
        monkeypatch.setattr("deltatheory.results.log.now", lambda: "2025-01-01T00:00:00.000+00:00")
        row = two.append({"d": 1}, {"x": "old"})
        out = ResultLog(tmp_path / "out.jsonl")
        with pytest.warns(UserWarning, match=f"{row['hash']} has several results"):
            assert merge([one.path, two.path][::order], out.path) == 1
        assert out.rows()[0]["result"] == {"x": "new"}

    @pytest.mark.parametrize(
        ("late", "early"),
        [
            ("2025-01-01T00:10:00+00:00", "2025-01-01T01:00:00+01:00"),  # another time zone
            ("2025-01-01T00:10:00", "2025-01-01T01:00:00+01:00"),
            *[("2025-01-01T00:10:00Z", none) for none in ("zzz", "", "9" * 30, None, 17, [], {"at": 1})],
            ("2025-01-01T00:10:00Z", "9999-12-31T23:59:59-23:59"),  # in no calendar as UTC
        ],
    )
    def test_times_are_compared_as_times(self, tmp_path, late, early):
        paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        for path, time in zip(paths, (late, early), strict=True):
            row = {"schema": 1, "time": time, "config": {"d": 1}, "result": {"x": time}}
            path.write_text(json.dumps(row) + "\n")
        for order in (1, -1):
            with pytest.warns(UserWarning, match="several results"):
                merge(paths[::order], tmp_path / f"out{order}.jsonl")
            assert ResultLog(tmp_path / f"out{order}.jsonl").rows()[0]["result"] == {"x": late}

    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [None, "zzz", "2025-01-01T00:00:00Z", "2025-01-01T00:30:00+01:00", "3025-01-01"]
                ),
                st.sampled_from([{"x": 1}, {"x": 2}, {"error": "a"}, {"error": "b"}]),
            ),
            min_size=1,
            max_size=5,
        ),
        st.randoms(use_true_random=False),
    )
    @pytest.mark.filterwarnings("ignore:.*several results")
    def test_the_order_of_logs_decides_nothing_and_no_failure_wins(self, tmp_path, rows, lot):
        folder = tmp_path / secrets.token_hex(4)
        folder.mkdir()
        paths = [folder / f"{i}.jsonl" for i in range(len(rows))]
        for path, (time, result) in zip(paths, rows, strict=True):
            path.write_text(json.dumps({"time": time, "config": {"d": 1}, "result": result}) + "\n")
        merge(paths, folder / "once")
        lot.shuffle(paths)
        for path in paths:  # one after the other
            merge([path], folder / "stepwise")
        assert (folder / "once").read_text() == (folder / "stepwise").read_text()
        (row,) = ResultLog(folder / "once").rows()
        assert ("x" in row["result"]) == any("x" in result for _, result in rows)

    def test_what_is_not_understood_stays(self, tmp_path):
        log, other = ResultLog(tmp_path / "log.jsonl"), ResultLog(tmp_path / "other.jsonl")
        lines = [b'{"schema": 2, "trials": [1, 2]}', b'{"schema": 1, "ha']
        for one, line in zip((log, other), lines, strict=True):
            one.append({"d": line.decode()}, {})
            one.path.write_bytes(line + b"\n" + one.path.read_bytes())
        for _ in range(2):
            with pytest.warns(UserWarning, match="skipped"):
                assert merge([other.path], log.path) == 2
            assert log.path.read_bytes().splitlines()[2:] == lines

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_nothing_that_another_process_appends_meanwhile_is_lost(self, tmp_path):
        log, other = ResultLog(tmp_path / "log.jsonl"), ResultLog(tmp_path / "other.jsonl")
        other.append({"i": -1}, {})
        child = os.fork()
        if child == 0:
            for i in range(60):
                log.append({"i": i}, {})
            os._exit(0)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            merge([other.path], log.path)
        assert sorted(row["config"]["i"] for row in log.rows()) == list(range(-1, 60))

    def test_a_missing_log_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
            merge([tmp_path / "absent.jsonl"], tmp_path / "out.jsonl")
