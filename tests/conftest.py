"""Puts this folder on the path: tests in subfolders use `tiny_models` and `tiny_problems` too."""

import functools
import inspect
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest

# Folders whose tests run commands and verbs as a whole: the parts that they call have tests of their own.
WHOLES = {"advice", "cli", "dimension", "experiments", "training"}

_jaxtyped = jaxtyping.jaxtyped


def _checked_from_first_call(of: Any, *, typechecker: Callable) -> Any:
    """Build the check of a function at its first call under it: building takes longer than most calls."""
    if not inspect.isfunction(of):
        return _jaxtyped(of, typechecker=typechecker)
    checked = None

    @functools.wraps(of)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return of(*args, **kwargs)
        checked = checked or _jaxtyped(of, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = lambda **how: functools.partial(_checked_from_first_call, **how)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that share the longest fixture first: one process has them all, none waits for it."""
    items.sort(key=lambda item: item.path.name != "test_studies.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Check annotations in a sixth of the tests of parts, by name: a third of its time goes there."""
    whole = item.path.parent.name in WHOLES
    jaxtyping.config.update("jaxtyping_disable", whole or zlib.crc32(item.nodeid.encode()) % 6 > 0)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
