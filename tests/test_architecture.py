"""The house as it should stand: a room imports only from floors below it, and no two names are the same."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("deltatheory", "experiments", "proofs_check")

# Rooms of the package from the ground up; a module at its root is a room of its own.
FLOORS = (
    {
        "_memory",
        "_numbers",
        "_options",
        "_shapes",
        "_texts",
        "_threads",
        "autodiff",
        "results",
        "self_check",
        "theorems",
    },
    {"backbones", "projections", "tasks"},
    {"deltas"},
    {"problems"},
    {"adapters"},
    {"training"},  # its results are handed on as adapters
    {"linearization"},  # its runs keep the trainer's schedule
    {"advice", "control", "dimension"},
    {"testing"},
    {"report"},
    {"cli"},
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MOST_PARAMETERS = 9
MOST_AT_THE_ROOT = 12


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the three packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def _for_types_only(tree: ast.Module) -> set[int]:
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {id(inner) for block in blocks for inner in ast.walk(block)}


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of these packages that a module imports, at its head or inside a function."""
    tree, found = modules()[name], set()
    skipped = _for_types_only(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in modules() else node.module for one in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & modules().keys()) - {name}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def in_package(package: str) -> list[str]:
    return [name for name in modules() if name.split(".")[0] == package]


def test_every_room_has_a_floor():
    assert {room(name) for name in in_package("deltatheory")} - {"", "__main__"} == FLOOR.keys()


def test_a_room_imports_only_from_floors_below_it():
    upward = [
        f"{name} imports {other}"
        for name in in_package("deltatheory")
        for other in imports(name)
        if room(name) in FLOOR and room(other) in FLOOR
        if room(name) != room(other) and FLOOR[room(name)] <= FLOOR[room(other)]
        if not {room(name), room(other)} <= FLOORS[0]
    ]
    assert not upward


@pytest.mark.parametrize("package", PACKAGES)
def test_there_is_no_circle_of_imports(package):
    inside = in_package(package)
    try:
        TopologicalSorter({name: imports(name) & set(inside) for name in inside}).prepare()
    except CycleError as circle:
        raise AssertionError(" -> ".join(circle.args[1])) from None


def test_nothing_imports_the_command_line_or_the_experiments():
    above = ("deltatheory.cli", "deltatheory.__main__", "experiments")
    found = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name)
        if other.startswith(above) and not name.startswith(above)
    ]
    assert not found


def test_no_test_module_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("test_", "tests.")) for name in names), path


def test_the_verifier_needs_nothing_of_the_package():
    """Certificates are made from the theorems; what checks them stands alone."""
    makers = ("proofs_check.prove", "proofs_check.catalogue", "proofs_check.museum", "proofs_check.__main__")
    found = [
        f"{name} imports {other}"
        for name in in_package("proofs_check")
        for other in imports(name)
        if not name.startswith(makers) and (other.startswith("deltatheory") or other.startswith(makers))
    ]
    assert not found


def test_only_report_draws():
    def draws(tree: ast.Module) -> bool:
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        return any(one.split(".")[0] == "matplotlib" for one in names)

    drawing = {room(name) for name in in_package("deltatheory") if draws(modules()[name])}
    assert drawing == {"report"}


def test_few_modules_stand_at_the_root():
    assert len(list((ROOT / "deltatheory").glob("*.py"))) <= MOST_AT_THE_ROOT


def test_no_class_name_stands_twice():
    names = Counter(
        node.name
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def _parameters(node: ast.FunctionDef) -> int:
    given = node.args
    own = [a for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")]
    return len(own)


def test_no_public_function_has_more_than_nine_parameters():
    long = [
        f"{name}.{node.name}: {_parameters(node)}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__")
        if _parameters(node) > MOST_PARAMETERS
    ]
    assert not long
