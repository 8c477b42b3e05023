from __future__ import annotations

import json
import subprocess
import sys

from deltatheory.results import (
    provenance,
)
from deltatheory.results.provenance import commit


class TestProvenance:
    def test_is_json_and_names_versions(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/deltatheory", "measure", "--d", "4"])
        monkeypatch.delitem(sys.modules, "transformers", raising=False)
        said = provenance()
        json.dumps(said, allow_nan=False)
        assert said["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert "deltatheory" in said["versions"]
        assert "transformers" not in said["versions"]
        assert said["command"] == ["deltatheory", "measure", "--d", "4"]

    def test_commit_of_a_checkout(self, tmp_path, monkeypatch):
        module = sys.modules[commit.__module__]
        monkeypatch.setattr(module, "__file__", str(tmp_path / "deltatheory" / "results" / "provenance.py"))
        commit.cache_clear()
        assert provenance()["commit"] is None
        commit.cache_clear()

        def git(*command):
            identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
            done = subprocess.run(
                ["git", *identity, *command], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        git("init", "-q")
        (tmp_path / "x").write_text("1")
        git("add", "x")
        git("commit", "-qm", "x")
        git("tag", "-a", "v1", "-m", "x")
        assert provenance()["commit"] == git("rev-parse", "HEAD")
        (tmp_path / "x").write_text("2")
        assert provenance()["commit"] == git("rev-parse", "HEAD")  # what this process has started from
        commit.cache_clear()
        assert provenance()["commit"] == git("rev-parse", "HEAD") + "-dirty"
