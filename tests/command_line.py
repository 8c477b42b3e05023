"""The command line in this process, and small inputs for it."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from deltatheory.cli import app


def run(*args: object):
    return CliRunner().invoke(app, [str(one) for one in args])


def quick(command: str, *args: object):
    """A run of `train` or another command, as short as can be."""
    common = "--steps 8 --batch-size 8 --learning-rate 0.05 --no-progress"
    return run(command, *common.split(), *args)


def save_tiny(family: str, folder: Path) -> Path:
    """A tiny random model with its tokenizer, as `save_pretrained` leaves it."""
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def letters(path: Path, generation: bool = False, rows: int = 60) -> Path:
    """A file of texts whose letters tell the label."""
    lines = []
    for i in range(rows):
        text = " ".join("abcdefgh"[(i * k + i // 2) % 4 + 4 * (i % 2)] for k in range(1, 4 + i % 3))
        split = ("train", "train", "train", "dev", "test")[i // 2 % 5]
        answer = {"target": text[-1]} if generation else {"label": "pq"[i % 2]}
        number = " ".join("ijklmnop"[i // 8**k % 8] for k in (2, 1, 0))
        lines.append(json.dumps({"text": f"{text} {number}", "split": split, **answer}))
    path.write_text("\n".join(lines))
    return path
