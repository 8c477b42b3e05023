from __future__ import annotations

import errno
import json
import os

import pytest

from deltatheory.results import (
    files,
    write_atomically,
    write_json,
)


class TestWriting:
    def test_text_and_bytes(self, tmp_path):
        write_atomically(tmp_path / "a" / "x.txt", "é\n")
        assert (tmp_path / "a" / "x.txt").read_bytes() == "é\n".encode()
        write_atomically(tmp_path / "a" / "x.txt", b"\x00")
        assert (tmp_path / "a" / "x.txt").read_bytes() == b"\x00"

    def test_a_failure_leaves_the_old_content_and_no_rest(self, tmp_path, monkeypatch):
        path = tmp_path / "x.txt"
        write_atomically(path, "old")

        def full(descriptor, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "write", full)
            with pytest.raises(OSError, match="No space left"):
                write_atomically(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
    def test_keeps_links_and_ordinary_permissions(self, tmp_path):
        plain = tmp_path / "plain"
        plain.write_text("")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        write_atomically(tmp_path / "link", "x")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "x"
        assert (tmp_path / "real").stat().st_mode == plain.stat().st_mode

    def test_write_json(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": [1, 2.5, None, "δ"]})
        assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2.5, None, "δ"]}
        with pytest.raises(ValueError, match=r"obj\['a'\]\[0\] is inf"):
            write_json(tmp_path / "x.json", {"a": [float("inf")]})
        assert json.loads((tmp_path / "x.json").read_text())["a"][0] == 1
