"""Puts this folder on the path: tests in subfolders use `tiny_models` and `tiny_problems` too."""

import zlib
from collections.abc import Iterator

import jaxtyping
import pytest

# Folders whose tests run commands and verbs as a whole: the parts that they call have tests of their own.
WHOLES = {"advice", "cli", "dimension", "experiments", "training"}


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
