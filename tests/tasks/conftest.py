from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = ("apple", "river")


def _rows_of(per_split: dict[str, int]) -> list[dict]:
    """Make distinct texts in two alternating classes, with names in `target`."""
    return [
        {
            "split": split,
            "text": f"{WORDS[i % 2]} {split} number {i}",
            "label": i % 2,
            "target": WORDS[i % 2],
        }
        for split, count in per_split.items()
        for i in range(count)
    ]


@pytest.fixture
def rows_of() -> Callable[[dict[str, int]], list[dict]]:
    return _rows_of


@pytest.fixture
def rows() -> list[dict]:
    return _rows_of({"train": 12, "dev": 4, "test": 6})


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows in the form that the file's name says."""

    def write_rows(name: str, rows: list[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            return path
        form = name.removesuffix(".gz")
        if form.endswith((".csv", ".tsv")):
            file = io.StringIO(newline="")
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if form.endswith(".tsv") else ",")
            table.writeheader()
            table.writerows(rows)
            text = file.getvalue()
        elif form.endswith(".json"):
            text = json.dumps(rows)
        else:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_rows
