import ctypes
import sys
from pathlib import Path

import pytest
import torch
from tiny_problems import toy_problem

from deltatheory._memory import Pieces, give_back
from deltatheory.problems import base
from deltatheory.self_check import SelfCheck

glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 4096 * pages


@pytest.mark.skipif(not glibc, reason="glibc keeps what is free")
def test_small_pieces_go_back_to_the_system():
    pieces = [b"x" * (1 << 16) for _ in range(1024)]  # 64 MB, below the size from which pieces are mapped
    kept = b"x" * (1 << 16)  # above them, so that they cannot go by themselves
    pieces.clear()
    before = resident()
    give_back()
    assert before - resident() > 48 << 20
    assert len(kept) == 1 << 16


def test_the_self_check_gives_back_what_it_took(monkeypatch):
    done: list[str] = []
    passed = SelfCheck(0.0, 0.0, 0.0, 1.0, True, "", 0.0)
    monkeypatch.setattr(base, "self_check", lambda *_, **__: done.append("checked") or passed)
    monkeypatch.setattr(base, "give_back", lambda: done.append("given back"))
    toy_problem("bitfit").check()
    assert done == ["checked", "given back"]


def test_a_piece_is_taken_again_when_no_tensor_is_left_in_it():
    pieces, like = Pieces(), torch.zeros(300)
    first = pieces.empty_like(like, torch.float64).fill_(1)
    part, place = first.view(30, 10)[3:], first.data_ptr()
    del first
    other = pieces.empty_like(like, torch.float64).fill_(2)  # a view is left in the first one
    assert (part == 1).all()
    assert other.data_ptr() != place
    del part
    assert pieces.empty_like(like[:7], torch.float32).data_ptr() == place
    assert pieces.empty_like(like, torch.float32).shape == (300,)
