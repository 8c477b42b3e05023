"""Puts this folder on the path: tests in subfolders use `tiny_models` and `tiny_problems` too."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that share the longest fixture first: one process has them all, none waits for it."""
    items.sort(key=lambda item: item.path.name != "test_studies.py")
