"""Puts this folder on the path: tests in subfolders use `tiny_models` and `tiny_problems` too."""
