"""Where a result comes from: versions, machine, commit, time and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def provenance() -> dict:
    """Say where a result comes from: versions, machine, commit, time and command.

    Packages are named only if the process has imported them. The commit is that of the checkout this package
    lies in, with `-dirty` after it where files differ from it; `None` for an installed package.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("deltatheory", "torch", "transformers", "numpy", "scipy"):
        if name in sys.modules:
            versions[name] = None  # imported from a folder that was never installed
            with suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
    return {
        "time": now(),
        "versions": versions,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "commit": commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def now() -> str:
    """Return the time in UTC, as rows say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def commit() -> str | None:
    """Return the checkout's commit, once: what a process runs is what was there when it started."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git here, or a checkout that is not ours to read
        return None
    return done.stdout.strip()
