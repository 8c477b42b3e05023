"""Small inputs that many commands share; no test changes them."""

import pytest
from command_line import letters, save_tiny
from typer.testing import _NamedTextIOWrapper

from deltatheory.problems import Problem


@pytest.fixture(autouse=True)
def without_self_check(monkeypatch):
    """Most of the time of a tiny run; `tests/test_autodiff.py` and the problems' own tests hold it."""
    monkeypatch.setattr(Problem, "check", lambda *_: None)


@pytest.fixture(autouse=True)
def without_drawings(monkeypatch):
    """Pages without the figures, which `tests/report` holds."""
    monkeypatch.setattr("deltatheory.report.page.svg", lambda *_: "<svg></svg>")


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Standard output and errors of a command in this process are no pipes."""
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda _: True)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return save_tiny("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    return save_tiny("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return letters(tmp_path_factory.mktemp("tasks") / "letters.jsonl")


@pytest.fixture
def given(bert, task):
    """Model and task, as options."""
    return ("--model", bert, "--task", task)
