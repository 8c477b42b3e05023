import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
from squares import SCOPE, Deadly, Squares, Study, pair, results
from typer.testing import CliRunner

from deltatheory.results import ResultLog, merge
from experiments.__main__ import app
from experiments.environment import Environment
from experiments.kinds import KINDS
from experiments.page import write_overview, write_page
from experiments.runner import LOG, Cluster, Local, collect, run
from experiments.scope import Scope, TaskInfo, choose_tasks
from experiments.studies import STUDIES
from experiments.trial import Known, Trial

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # of processes of their own


def finished(folder, engine=None, scope=SCOPE, study=None):
    place = Squares()
    place.start()
    return run(study or Study(), scope, folder, place, engine or Local(), say=lambda _: None)


def group_lives(leader):
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def whole(tmp_path):
    """The results of an undisturbed run."""
    finished(tmp_path / "whole")
    return results(tmp_path / "whole")


def test_waves_follow_from_results(tmp_path, whole):
    assert len(whole) == 36  # 10 tasks, 2 seeds, a square and its root; not of 3
    assert sorted(r["root"] for r in whole.values() if "root" in r) == sorted([0, 1, 2, 4, 5, 6, 7, 8, 9] * 2)


def test_a_second_run_runs_only_what_failed(tmp_path):
    assert len(finished(tmp_path)) == 2
    before = len(ResultLog(tmp_path / LOG).rows())
    assert len(finished(tmp_path)) == 2
    assert len(ResultLog(tmp_path / LOG).rows()) == before + 2
    known = Known.read(ResultLog(tmp_path / LOG))
    assert "3 is not liked" in known.error(pair(SCOPE.tasks[3], 0, known)[0])


def test_workers_find_the_same(tmp_path, whole):
    finished(tmp_path, Local(workers=2))
    assert results(tmp_path) == whole


def test_a_worker_loads_what_its_trials_need_and_no_more():
    code = "import sys, experiments.runner; sys.exit({'torch', 'scipy'} & {*sys.modules} != set())"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PATHS}, check=True)


def test_a_budget_ends_before_the_next_trial(tmp_path):
    place = Squares()
    place.start()
    assert len(run(Study(), SCOPE, tmp_path, place, Local(), minutes=0.0, say=lambda _: None)) == 20
    assert not results(tmp_path)


def started(folder, pause):
    """A runner with two workers, in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "squares.py"), str(folder), str(pause)],
        env={**os.environ, "PYTHONPATH": PATHS},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_five_kills_of_the_whole_group_lose_nothing(tmp_path):
    """`kill -9` of all processes at random moments, then a run to the end: the rows of an undisturbed run."""
    pause, killed = 0.05, tmp_path / "killed"
    finished(tmp_path / "whole", study=Study(pause))
    lot, rows = random.Random(0), 0
    for _ in range(5):
        runner, more = started(killed, pause), lot.randrange(1, 5)
        wait_for(lambda least=rows + more: len(results(killed)) >= least)
        time.sleep(lot.uniform(0, pause))
        os.killpg(runner.pid, signal.SIGKILL)
        assert runner.wait() == -signal.SIGKILL  # each has met a runner at work
        rows = len(results(killed))
    assert started(killed, pause).wait() == 0
    assert results(killed) == results(tmp_path / "whole")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_runner_that_ends_takes_its_workers_along(tmp_path, sent):
    """A signal to the runner alone: soon no process of its group is left, and most trials have not run."""
    runner = started(tmp_path, 0.3)
    wait_for(lambda: results(tmp_path))
    os.kill(runner.pid, sent)
    runner.wait(timeout=30)
    wait_for(lambda: not group_lives(runner.pid))
    assert 0 < len(results(tmp_path)) < 10


def test_logs_of_two_machines_merge_without_loss_or_duplicates(tmp_path, whole):
    halves = {"a": SCOPE.tasks[:6], "b": SCOPE.tasks[4:]}  # tasks 4 and 5 are run on both
    for name, tasks in halves.items():
        finished(tmp_path / name, scope=Scope(SCOPE.models, tasks, SCOPE.seeds))
    merge([tmp_path / name / LOG for name in halves], tmp_path / LOG)
    rows = ResultLog(tmp_path / LOG).rows()
    assert results(tmp_path) == whole
    assert len({row["hash"] for row in rows}) == len(rows)


def test_a_corrupted_line_costs_that_line_only(tmp_path, whole):
    finished(tmp_path)
    lines = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:30] + b"\xff\x00" + lines[2][40:]
    (tmp_path / LOG).write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match="line 3"):
        left = results(tmp_path)
    assert len(left) == len(whole) - 1
    with pytest.warns(UserWarning, match="line 3"):
        finished(tmp_path)
    with pytest.warns(UserWarning, match="line 3"):
        again = results(tmp_path)
    assert again == whole


def test_a_cluster_finds_the_same(tmp_path, whole, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", PATHS)
    finished(tmp_path, Cluster(jobs=2, cluster="local", timeout_min=2))
    assert results(tmp_path) == whole
    assert not list(tmp_path.glob("part-*"))


def test_parts_of_a_run_that_was_cut_off_are_collected(tmp_path):
    trial = Trial("square", "line", "1", settings={"pause": 0.0})
    ResultLog(tmp_path / "part-0.jsonl").append(trial.config, {"square": 1})
    collect(tmp_path)
    assert Known.read(ResultLog(tmp_path / LOG)).get(trial) == {"square": 1}


def test_no_part_takes_the_place_of_another(tmp_path):
    """A driver of an earlier version was killed after it had renamed a part; its job began a new one."""
    for name in ("part-0.merging", "part-0.jsonl"):
        ResultLog(tmp_path / name).append({"of": name}, {"x": 1})
    collect(tmp_path)
    assert {row["config"]["of"] for row in ResultLog(tmp_path / LOG).rows()} == {
        "part-0.merging",
        "part-0.jsonl",
    }
    assert not list(tmp_path.glob("part-*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_collect_while_jobs_and_a_runner_append(tmp_path):
    """`report` and a driver on one folder, with a job of each kind: 0 rows lost."""
    names = [LOG, "part-0.jsonl", None, None]
    children = []
    for name in names:
        if (child := os.fork()) == 0:
            for i in range(40):
                if name:
                    ResultLog(tmp_path / name).append({"in": name, "i": i}, {})
                else:
                    collect(tmp_path)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    collect(tmp_path)
    assert len(ResultLog(tmp_path / LOG).rows()) == 80


def test_a_failure_does_not_make_a_result_unknown():
    trial = Trial("square", "line", "1")
    results_of = [{"error": "OSError: gone"}, {"square": 1}, {"error": "OSError: gone"}]
    assert Known({"hash": trial.hash, "result": r} for r in results_of).get(trial) == {"square": 1}


def square_row(folder, result, number="1"):
    trial = Trial("square", "line", number, settings={"pause": 0.0})
    return ResultLog(folder / LOG).append(trial.config, result)["hash"]


def test_a_row_that_lacks_what_a_study_asks_is_run_again(tmp_path):
    name = square_row(tmp_path, {"cube": 1})
    with pytest.warns(UserWarning, match=f"row {name} is passed over, it has no 'square'"):
        assert len(finished(tmp_path)) == 2
    assert len(results(tmp_path)) == 36
    assert Known.read(ResultLog(tmp_path / LOG)).read_by(lambda: 5) == 5


def test_what_lies_deep_in_a_row_names_it_too():
    known = Known([{"hash": "h", "result": {"a": [{"b": {"c": 1}}], "of": 2}}])
    known._rows["h"]["a"][0]["b"]["c"]
    with pytest.warns(UserWarning, match="row h is passed over, it has no 'd'"):
        assert known.read_by(lambda: [row["a"][0]["b"]["d"] for row in known._rows.values()]) == []


def test_a_row_of_other_types_is_told_in_one_line(tmp_path):
    square_row(tmp_path, {"square": "many"})
    with pytest.raises(ValueError, match=r"rows are not understood, TypeError: .*int.*str"):
        write_page("squares", Study(), SCOPE, Known.read(ResultLog(tmp_path / LOG)), tmp_path)


@pytest.fixture
def squares(monkeypatch):
    """The command with the study of squares alone."""
    Squares().start()
    main = import_module("experiments.__main__")
    monkeypatch.setattr(main, "STUDIES", {"squares": Study()})
    monkeypatch.setattr(main, "studies_of", lambda kind: {"squares": Study()})
    monkeypatch.setattr(main, "choose_tasks", lambda data, asked, kind: SCOPE.tasks)
    monkeypatch.setattr(Environment, "check", lambda place, models: None)
    return lambda *arguments: CliRunner().invoke(app, [str(word) for word in arguments])


def test_trials_that_fail_are_told_and_the_exit_code_says_so(squares, tmp_path):
    outcome = squares("run", "squares", "--models", "line", "--out", tmp_path)
    assert outcome.exit_code == 1
    assert (
        "squares: 1 trials failed, the first of them square line 3 0: ValueError: 3 is not" in outcome.output
    )
    assert (tmp_path / "squares" / "report.html").exists()  # of what there is


def test_a_log_that_is_not_understood_does_not_keep_the_others_from_a_page(squares, tmp_path, monkeypatch):
    monkeypatch.setitem(import_module("experiments.__main__").STUDIES, "before", Study())
    monkeypatch.setitem(import_module("experiments.__main__").STUDIES, "squares", STUDIES["tightness"])
    monkeypatch.setattr(import_module("experiments.__main__"), "studies_of", lambda _: ["before", "squares"])
    SCOPE.save(tmp_path / "scope.json")
    square_row(tmp_path, {"square": "many"})
    for name in ("before", "squares"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("{")
    with pytest.warns(
        UserWarning, match="left out of the overview, .*before/result.json.* is not valid JSON"
    ):
        outcome = squares("report", "all", "--out", tmp_path)
    assert outcome.exit_code == 1
    assert "before: no page, rows are not understood" in outcome.output
    assert "squares: undecided" in outcome.output


def test_a_backbone_that_is_not_there_is_refused_before_the_work(tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nowhere)
    for model, said in {
        "typo": "'typo'",
        str(tmp_path): "config.json",
        "gpt-16M": "gpt-16M",
        "": "name=''",
    }.items():
        command = ["run", "performance", "--models", f"minilm,{model}", "--out", str(tmp_path / "out")]
        outcome = CliRunner().invoke(app, command)
        assert (outcome.exit_code, said in outcome.output) == (2, True), outcome.output
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.runner.get_context", lambda _: get_context("fork"))
    with pytest.raises(ChildProcessError, match=r"workers=2: one was killed.*trials\.jsonl"):
        run(Study(), SCOPE, tmp_path, Deadly(), Local(workers=2), say=lambda _: None)


def test_pages_come_from_the_log_alone(tmp_path):
    finished(tmp_path)
    known = Known.read(ResultLog(tmp_path / LOG))
    assert write_page("squares", Study(), SCOPE, known, tmp_path) == "agrees"
    first = json.loads((tmp_path / "squares" / "result.json").read_text())
    assert first["numbers"] == {"sum": sum(i * i for i in range(10)) - 9}
    assert "9 squares." in (tmp_path / "squares" / "report.html").read_text()
    write_overview(tmp_path)
    assert "[squares](squares/table.md)" in (tmp_path / "README.md").read_text()


def test_a_scope_comes_back_and_joins(tmp_path):
    SCOPE.save(tmp_path / "scope.json")
    assert Scope.read(tmp_path / "scope.json") == SCOPE
    other = Scope(("line", "plane"), (TaskInfo("new", "number", "f"),), (1, 2))
    joined = SCOPE.joined(other)
    assert joined.models == ("line", "plane")
    assert joined.seeds == (0, 1, 2)
    assert len(joined.tasks) == 11
    with pytest.raises(ValueError, match="two kinds"):
        SCOPE.joined(replace(other, tasks=(TaskInfo("new", "number", "f", "generation"),)))


def test_siblings_are_in_the_same_half():
    halves = {TaskInfo(f"t{i}", "c", "one family").half for i in range(20)}
    assert len(halves) == 1
    assert {TaskInfo("t", "c", f"family {i}").half for i in range(20)} == {"calibration", "held-out"}


@pytest.fixture
def data(tmp_path):
    entries = [
        {
            "kind": "classification",
            "file": f"tasks/t{i}.jsonl.gz",
            "category": "c",
            "source_dataset": f"family {i % 3}",
            "mean_input_words": 10,
            "labels": ["a", "b"],
            "n": {"train": 500, "test": 200},
        }
        for i in range(9)
    ]
    text = {"kind": "generation", "file": "tasks/long.jsonl.gz", "mean_target_words": 20.0}
    entries += [
        entries[0] | text,
        entries[1] | text | {"file": "tasks/short.jsonl.gz", "mean_target_words": 2.0},
    ]
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "index.json").write_text(json.dumps({"tasks": entries}))
    return tmp_path


def test_the_draw_takes_families_in_turn(data):
    drawn = choose_tasks(data, "3")
    assert len({task.family for task in drawn}) == 3
    assert choose_tasks(data, "5")[:3] == drawn
    assert len(choose_tasks(data, "all")) == 9
    assert [t.name for t in choose_tasks(data, "some/t1,some/t0")] == ["some/t1", "some/t0"]
    assert [t.name for t in choose_tasks(data, "2", "generation")] == ["some/short"]
    assert len(choose_tasks(data, "all", "generation")) == 2


def test_bad_arguments_name_themselves(data, tmp_path):
    with pytest.raises(ValueError, match=r"there is no some/t99"):
        choose_tasks(data, "some/t99")
    with pytest.raises(ValueError, match=r"tasks=0"):
        choose_tasks(data, "0")
    with pytest.raises(ValueError, match=r"holds no COLLECTION/index.json"):
        choose_tasks(tmp_path / "nowhere", "3")
    with pytest.raises(ValueError, match=r"workers=0"):
        Local(0)
    with pytest.raises(ValueError, match=r"jobs=0"):
        Cluster(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "must hold an object"),
        ("{}", "must have a list of tasks"),
        ('{"models": ["line"], "tasks": 3}', "must have a list of tasks"),
        ('{"models": ["line"], "tasks": [], "seeds": [0]}', "names no"),
        ('{"models": "line", "tasks": [], "seeds": [0]}', "['models'] is 'line'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_scope_that_is_none_is_told_in_one_line(tmp_path, text, said):
    (tmp_path / "scope.json").write_text(text, encoding="latin-1")
    run = ["run", "performance", "--models", "minilm", "--tasks", "all"]
    for command in (["report", "performance"], run):
        outcome = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
        assert (outcome.exit_code, said in outcome.output) == (2, True), outcome.output
        assert str(tmp_path) in outcome.output
    assert (tmp_path / "scope.json").read_text(encoding="latin-1") == text


def test_a_scope_of_another_version_is_read_as_far_as_it_is_understood(tmp_path):
    path = tmp_path / "scope.json"
    SCOPE.save(path)
    values = json.loads(path.read_text())
    values |= {"tasks": [{"name": "x"}, *({**task, "new": 1} for task in values["tasks"])], "folds": 3}
    del values["tasks"][1]["kind"]
    path.write_text(json.dumps(values))
    with warnings.catch_warnings(record=True) as told:
        assert Scope.read(path) == SCOPE
    assert [str(one.message).split(": ", 1)[1] for one in told] == [
        "folds not understood.",
        "a task is left out, tasks[0] has no 'category'.",
    ]


def test_an_index_of_another_version_is_read_as_far_as_it_is_understood(data):
    path = data / "some" / "index.json"
    entries = json.loads(path.read_text())["tasks"]
    entries[0] |= {"new": 1}
    del entries[1]["category"], entries[2]["mean_input_words"], entries[3]["n"], entries[4]["labels"]
    entries[5] = "tasks/t5.jsonl.gz"
    path.write_text(json.dumps({"tasks": entries}))
    with pytest.warns(UserWarning, match=r"tasks\[1\] has no 'category'|tasks\[5\] is 'tasks/t5"):
        assert len(choose_tasks(data, "all")) == 7
    with pytest.warns(UserWarning, match="left out"):
        assert sorted(task.name for task in choose_tasks(data, "24")) == [f"some/t{i}" for i in (0, 6, 7, 8)]
    path.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json' is not valid JSON"):
        choose_tasks(data, "all")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "nothing"], "nothing"),
        (["merge", "nowhere/trials.jsonl"], "nowhere"),
        (["run", "performance", "--threads", "0"], "threads=0"),
        (["run", "performance", "--device", "moon", "--tasks", "all"], "device='moon'"),
        (["run", "performance", "--budget", "nan"], "--budget=nan"),
        (["run", "performance", "--budget", "-1", "--models", "minilm", "--tasks", "all"], "minutes=-1"),
        (["report", "performance", "--out", "nowhere"], "scope.json"),
        (["run", "performance", "--data", "nowhere"], "index.json"),
        (["run", "performance", "--tasks", "0"], "tasks=0"),
        (["run", "performance", "--tasks", "²"], "there is no ²"),
        (["run", "performance", "--kind", "generation"], "kind='generation'"),
    ],
)
def test_bad_arguments_are_told_in_one_line(arguments, said, tmp_path):
    out = [] if "--out" in arguments else ["--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, [*arguments, *out])
    assert outcome.exit_code == 2
    assert said in outcome.output


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("models", [("line",), ("minilm", "gpt-1M", "gpt-0.3M")])
def test_a_study_begins_with_an_empty_log(name, models, tmp_path):
    """Its trials have names of their own, and its page says that nothing is known."""
    scope, known = replace(SCOPE, models=models), Known([])
    trials = list(STUDIES[name].trials(scope, known))
    distinct = {json.dumps(trial.config, sort_keys=True) for trial in trials}
    assert len({trial.hash for trial in trials}) == len(distinct)
    assert all(trial.kind in KINDS and trial.model.startswith(models) for trial in trials)
    assert write_page(name, STUDIES[name], scope, known, tmp_path) == "undecided"
    page = json.loads((tmp_path / name / "result.json").read_text())
    assert page["found"]  # the overview shows the first sentence
    assert not page["numbers"]
    assert page["claim"] in (tmp_path / name / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"no_such": 1}, "no_such"), ({"timeout_min": "long"}, "timeout_min"), ({"cluster": "moon"}, "'moon'")],
)
def test_what_the_cluster_does_not_take_is_named(tmp_path, options, message):
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match=message):
        finished(tmp_path, Cluster(jobs=1, **{"cluster": "local", **options}))
