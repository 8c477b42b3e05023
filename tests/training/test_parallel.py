"""One δ trained by two processes is the one that a single process trains."""

import os
import socket
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from shared_batches import PROBLEMS, main
from squares import results


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def be_one_of_two(rank: int, port: int, folder: Path) -> None:
    """Run in a process of its own, as a launcher would have started it."""
    given = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ |= {name: str(value) for name, value in given.items()}
    main(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and each of two."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("parallel")
    for name in ("one", "two"):
        (folder / name).mkdir()
    start = get_context("forkserver")
    start.set_forkserver_preload(["shared_batches"])  # torch is imported once, not once a process
    port = free_port()
    two = [start.Process(target=be_one_of_two, args=(rank, port, folder / "two")) for rank in range(2)]
    for process in two:
        process.start()
    main(folder / "one")
    for process in two:
        process.join(300)
    assert [process.exitcode for process in two] == [0, 0]
    return folder


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", PROBLEMS)
def test_two_processes_train_what_one_does(found, name):
    one, first, second = (read(found / path)[name] for path in ("one/0.pt", "two/0.pt", "two/1.pt"))
    torch.testing.assert_close(first["delta"], one["delta"], rtol=1e-3, atol=1e-5)
    assert one["delta"].norm() > 1e-3
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert first["train_accuracy"] == pytest.approx(one["train_accuracy"])
    assert first["test"]["loss"] == pytest.approx(one["test"]["loss"], rel=1e-4)
    assert first["passes"] == one["passes"]
    assert (one["largest"], first["largest"], second["largest"]) in {(5, 3, 2), (1, 1, 0)}
    for key in ("losses", "dev", "test", "train_accuracy"):
        assert second[key] == first[key]
    assert torch.equal(second["delta"], first["delta"])


def test_the_first_process_writes_the_checkpoints(found):
    for name in PROBLEMS:
        assert [p.name for p in (found / "two" / name).glob("*.safetensors")] == ["0.safetensors"]


def test_an_error_in_one_process_is_raised_in_all(found):
    first, second = (read(found / "two" / f"{rank}.pt")["errors"] for rank in (0, 1))
    assert first[0] == second[0]
    assert first[0].startswith("FloatingPointError: the loss became nan")
    assert first[1] == "RuntimeError: 1 of 2 processes failed at a batch."
    assert second[1] == "RuntimeError: out of memory"
    assert first[2] == second[2] == "ValueError: no"


def test_a_study_of_several_processes_has_each_row_once(found):
    assert results(found / "two" / "study") == results(found / "one" / "study")
    lines = (found / "two" / "study" / "trials.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 38  # two trials fail, and say so
