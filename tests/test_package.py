"""What a stranger installs: what it needs, what it carries, and that its papers agree with it."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import deltatheory

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = (
    "transformers",
    "tokenizers",
    "datasets",
    "pyarrow",
    "typer",
    "rich",
    "tqdm",
    "matplotlib",
    "jinja2",
)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    loaded = run_python(
        "import sys, deltatheory; print(*{name.split('.')[0] for name in sys.modules})"
    ).split()
    assert not set(loaded) & {"torch", "numpy", "scipy", *EXTRAS}


def test_every_public_name_is_there_without_any_extra():
    absent = (*EXTRAS, "jaxtyping", "beartype")
    names = run_python(
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import deltatheory as d; "
        "print(*[getattr(d, name).__name__ for name in d.__all__ if name != '__version__'])"
    )
    assert names.split() == [name for name in deltatheory.__all__ if name != "__version__"]


def test_dir_and_unknown_names():
    assert dir(deltatheory) == sorted(deltatheory.__all__)
    with pytest.raises(AttributeError, match="'intrinsic_dimenson'"):
        _ = deltatheory.intrinsic_dimenson


def test_the_version_is_the_same_everywhere():
    assert PROJECT["dynamic"] == ["version"]
    assert f"version: {deltatheory.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    releases = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == "Unreleased" or Version(releases[0]) == Version(deltatheory.__version__)


def test_the_templates_are_in_the_package():
    templates = files("deltatheory.report") / "templates"
    assert "{{ title }}" in (templates / "page.html").read_text()
    for name in ("answer.html",):
        assert '{% extends "page.html" %}' in (templates / name).read_text()


PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
}


def brought_by(wanted: list[Requirement], met: set[str]) -> Iterator[Requirement]:
    """What an install brings in this environment, as far as it is installed, all the way down."""
    for one in wanted:
        yield one
        key = f"{canonicalize_name(one.name)}{sorted(one.extras)}"
        if key in met:
            continue
        met.add(key)
        with suppress(PackageNotFoundError):
            deeper = [Requirement(text) for text in requires(one.name) or []]
            extras = one.extras or {""}
            yield from brought_by(
                [
                    r
                    for r in deeper
                    if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)
                ],
                met,
            )


def test_constraints_pin_all_that_an_install_brings_within_what_is_asked_for():
    assert PINS["torch"] == Version("2.13.0")
    extras = PROJECT["optional-dependencies"].values()
    named = map(Requirement, [*PROJECT["dependencies"], *(one for extra in extras for one in extra)])
    found = list(brought_by([one for one in named if one.name != "deltatheory"], set()))
    assert len({one.name for one in found}) > 80
    wrong = {
        str(one): PINS.get(canonicalize_name(one.name))
        for one in found
        if not one.name.startswith(("nvidia-", "cuda-", "triton"))  # torch pins those itself
        if PINS.get(canonicalize_name(one.name)) not in one.specifier
    }
    assert not wrong


def test_the_readme_names_only_commands_and_options_that_exist():
    import typer

    from deltatheory.cli import app

    group = typer.main.get_command(app)
    for line in re.findall(r"deltatheory ([a-z][^`\n]*)", (ROOT / "README.md").read_text()):
        words = line.split()
        command = getattr(group, "commands", {}).get(words[0])
        if command is None:  # prose
            assert not any(word.startswith("--") for word in words), line
            continue
        known = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_promise_names_tests_that_there_are():
    text = (ROOT / "RELIABILITY.md").read_text("utf-8")
    paths = {ROOT / path for path in re.findall(r"tests/[\w/]+\.py", text)}
    there = set(re.findall(r"def (test_\w+)", "".join(path.read_text("utf-8") for path in paths)))
    named = set(re.findall(r"::(test_\w+)", text))
    assert len(named) > 30
    assert named <= there
