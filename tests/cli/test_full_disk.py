"""A disk that fills up: the file is named, nothing torn is left, and the answer is told all the same."""

import errno
import os
import re

import pytest
import torch
from command_line import run

from deltatheory.backbones import load_backbone
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import save_delta
from deltatheory.results import files

SMALL = {
    "advise": "--candidate layernorm --examples 12",
    "check": "T04 --delta lora:2",
    "control": "--delta prefix:2 --examples 8 --setting budget=3.0",
    "diagnose": "--delta prefix:2 --examples 8 --steps 5",
    "explain": "",
    "steer": "--delta prefix:2 --steps 2 --train-examples 8 --disturbance typos --controller tuned",
    "train": "--delta lora:2 --steps 2",
}
ANSWER = {
    "advise": "layernorm +[01]",
    "check": "T04b .*holds",
    "control": "Test accuracy [01]",
    "diagnose": "step size",
    "explain": "attention.self.query +[0-9.]+ +3 +3",
    "steer": "tuned +[01]",
    "train": "Test accuracy [01]",
}


@pytest.fixture
def adapter(bert, tmp_path):
    delta = make_delta("lora", load_backbone(str(bert)), r=3)
    file = tmp_path / "adapter.safetensors"
    save_delta(file, delta, torch.randn(delta.size, generator=torch.Generator().manual_seed(0)))
    return file


@pytest.mark.parametrize("command", SMALL)
def test_a_full_disk_is_told_after_the_answer(command, given, adapter, tmp_path, monkeypatch):
    out, write = tmp_path / "out", files.write_all

    def full(descriptor: int, data: bytes) -> None:
        if b'"arguments"' in data:  # the claim of the folder, before the work
            return write(descriptor, data)
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_all", full)
    given = (adapter, "--model", given[1]) if command == "explain" else given
    bar = () if command == "explain" else ("--no-progress",)
    done = run(command, *given, *SMALL[command].split(), "--out", out, *bar)
    assert done.exit_code == 2, done.output
    last = done.stderr.rstrip().splitlines()[-1]
    assert re.fullmatch(rf"Error: \[Errno 28\] No space left on device: '{out}/[\w/.]+'", last)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [".lock", "run.json"]
    if command != "train":  # whose checkpoint cannot be written either
        assert re.search(ANSWER[command], done.stdout), done.stdout


def test_a_full_disk_before_the_work_is_told_then(given, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_all", full)
    done = run("train", *given, "--out", tmp_path / "out", "--no-progress")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / 'out' / 'run.json'}" in done.stderr
