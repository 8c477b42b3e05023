"""The examples of CONTRIBUTING.md keep the laws of their kind, found by the registry; its walks are true."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contributed import GUIDE

TESTS = Path(__file__).parent
# What each example is called where it is registered, and the tests that hold its kind to the laws.
LAWS = {
    "output-shift": "deltas/test_delta_laws.py",
    "tiled": "projections/test_projection_laws.py",
    "rprop": "control/solvers/test_solver_laws.py",
    "D01": "theorems/test_theorems.py",
    "headroom": "experiments/test_studies.py",
    "squared-error": "problems/test_losses.py",
    "olmo": "backbones",
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[str]]:
    """How each test of an example ended, by the example's name."""
    command = [sys.executable, "-m", "pytest", "-p", "contributed", "-p", "no:cacheprovider", "-vv"]
    command += ["-o", "addopts=--import-mode=importlib"]  # no check of annotations: its import takes long
    command += ["-k", " or ".join(LAWS), *(str(TESTS / path) for path in LAWS.values())]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, timeout=280
    )
    lines = re.findall(r"^(\S+::\S+) (PASSED|FAILED|ERROR|SKIPPED)", ended.stdout, re.M)
    assert lines, ended.stdout[-3000:] + ended.stderr[-3000:]
    found = {name: [f"{test} {how}" for test, how in lines if name in test] for name in LAWS}
    return found | {"failures": re.findall(r"^(?:FAILED|ERROR) .*", ended.stdout, re.M)}


@pytest.mark.parametrize("name", LAWS)
def test_an_example_is_found_by_the_registry_and_keeps_the_laws(outcomes, name):
    bad = [line for line in outcomes[name] if line.endswith(("FAILED", "ERROR"))]
    assert not bad, outcomes["failures"]
    assert sum(line.endswith("PASSED") for line in outcomes[name]) >= 2


def test_the_walks_pass_modules_that_are_there_and_none_twice():
    text = GUIDE.read_text("utf-8").split("## Three walks")[1]
    walks = [re.findall(r"`([\w.]+\.\w+)`", part) for part in text.split("**")[2::2]]
    assert len(walks) == 3
    for walk in walks:
        assert len(walk) == len(set(walk)) >= 5
        for name in walk:
            importlib.import_module(name if name.startswith("proofs_check") else f"deltatheory.{name}")
