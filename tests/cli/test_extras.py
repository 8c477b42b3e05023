"""Missing packages name their extra, all of them, before the work."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import run
from packaging.requirements import Requirement

from deltatheory.cli.extras import EXTRAS, extra_of, need

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = {
    "python_flint": "flint",
    "scikit_learn": "sklearn",
}  # of what is imported, where it is not the distribution's


def test_the_table_is_that_of_the_project():
    """But for what an extra takes from another one, or only develops this package."""
    brought = {
        extra: {Requirement(one).name.replace("-", "_") for one in needed} - {"deltatheory"}
        for extra, needed in PROJECT["optional-dependencies"].items()
        if extra not in ("test", "dev", "demo")
    }
    assert EXTRAS.keys() == brought.keys()
    first = {NAMES.get(name, name): extra for extra in reversed(brought) for name in brought[extra]}
    assert {module: extra_of(module) for module in first} == first


def test_all_that_is_missing_is_named_at_once(monkeypatch):
    for name in ("matplotlib", "jinja2", "peft"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"^peft, matplotlib, jinja2: .* 'deltatheory\[peft,report\]'$"):
        need("models", "peft", "report")


@pytest.mark.parametrize("command", ["dimension", "train", "advise", "control", "diagnose", "steer", "check"])
def test_no_command_begins_without_what_it_draws_with(monkeypatch, tmp_path, command):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(command, "--out", tmp_path / "out", "--model", "/nowhere")
    assert (done.exit_code, done.stderr) == (
        2,
        "Error: matplotlib: not installed; pip install 'deltatheory[report]'\n",
    )
    assert not (tmp_path / "out").exists()


def test_an_import_that_fails_later_names_its_extra_too(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    done = run("train", "--task", tmp_path / "a.parquet", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "'deltatheory[data]'" in done.stderr


def test_the_script_without_its_own_extra_is_one_line():
    code = "import sys; sys.modules['typer'] = None; import deltatheory.cli"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        "Error: typer: not installed; pip install 'deltatheory[cli]'\n",
    )
