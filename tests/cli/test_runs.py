"""A run has its files for itself: folders named by configurations, locks, and what a kill leaves."""

import json

import pytest
from filelock import FileLock

from deltatheory.cli.runs import CLAIM, LOCK, claimed, configuration_of


def leave(folder, name="result.json", **values):
    with claimed(folder, "train", values) as found:
        (found.own / name).touch()
    return found


def test_the_first_run_has_the_folder_and_another_one_inside(tmp_path):
    first, second = leave(tmp_path / "out", task="a"), leave(tmp_path / "out", task="b")
    assert first.own == first.given == second.given == tmp_path / "out"
    assert second.own.parent == first.own
    assert second.own.name.startswith("train-")
    assert leave(tmp_path / "out", task="a") == first
    assert leave(tmp_path / "out", task="b") == second
    with claimed(tmp_path / "out", "advise", {"task": "a"}) as advice:
        assert advice.own.name.startswith("advise-")
    assert json.loads((second.own / CLAIM).read_text()) == {"command": "train", "arguments": {"task": "b"}}


def test_a_claim_without_results_is_free(tmp_path):
    """A command that was refused, as for a typing error, has not taken the folder."""
    with pytest.raises(ValueError, match="no such task"), claimed(tmp_path, "train", {"task": "typo"}):
        raise ValueError("no such task")
    assert leave(tmp_path, task="a").own == tmp_path


@pytest.mark.parametrize("claim", [None, "", "[", "[" * 10**5, '{"command": "train"}', "null", "\x00"])
def test_results_that_do_not_say_whose_they_are_stay(tmp_path, claim):
    (tmp_path / "result.json").write_text("old")
    if claim is not None:
        (tmp_path / CLAIM).write_text(claim)
    assert leave(tmp_path, task="a").own.parent == tmp_path
    assert (tmp_path / "result.json").read_text() == "old"


def test_a_folder_is_locked_while_a_run_is_on(tmp_path):
    with claimed(tmp_path, "train", {"task": "a"}):
        with (
            pytest.raises(ValueError, match="another process is at this run; wait for it"),
            claimed(tmp_path, "train", {"task": "a"}),
        ):
            pass
        with claimed(tmp_path, "train", {"task": "b"}) as other:  # before there are results
            assert other.own.parent == tmp_path
    with FileLock(tmp_path / LOCK, blocking=False):
        pass


def test_only_the_first_process_of_several_locks(tmp_path, monkeypatch):
    with claimed(tmp_path, "train", {"task": "a"}) as first:
        (first.own / "checkpoint.safetensors").touch()
        monkeypatch.setenv("RANK", "1")
        with claimed(tmp_path, "train", {"task": "a"}) as second:
            assert second == first
        with claimed(tmp_path, "train", {"task": "b"}) as other:
            assert other.own.parent == tmp_path
        assert not other.own.exists()


def test_what_a_kill_has_half_written_is_removed(tmp_path):
    half = [
        tmp_path / name for name in (".result.json.0123456789ab", "adapter/.adapter_config.json.0123456789ab")
    ]
    kept = [
        tmp_path / name for name in (".bashrc", ".lock", "x.0123456789ab", "sub/.result.json.0123456789ab")
    ]
    for path in [*half, *kept]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    leave(tmp_path)
    assert not any(path.exists() for path in half)
    assert all(path.exists() for path in kept)


def test_files_and_folders_count_by_their_content(tmp_path, monkeypatch):
    file, model = tmp_path / "task.csv", tmp_path / "model"
    file.write_text("a")
    model.mkdir()
    (model / "config.json").write_text("a")
    one = configuration_of("train", {"task": str(file), "model": str(model), "steps": 3})
    monkeypatch.chdir(tmp_path)
    given = {"task": "task.csv", "model": "model", "steps": 3}
    assert configuration_of("train", {**given, "progress": False}) == one
    for changed in (file, model / "config.json"):
        changed.write_text("b")
        assert configuration_of("train", given) != one
        changed.write_text("a")
    assert configuration_of("train", given) == one
    odd = {
        "task": "x" * 5000,
        "model": "a\0",
        "candidate": ["model"],
    }  # what no file system takes, and no file
    assert configuration_of("train", odd)["arguments"] == odd


def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(OSError, match="file"), claimed(out, "train", {}):
            pytest.fail("began")
