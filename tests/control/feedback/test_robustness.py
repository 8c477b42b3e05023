import json

import pytest
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.control.feedback.robustness import steer_task
from deltatheory.training.trainer import Training


def run(folder, **options):
    return steer_task(
        tiny("bert"),
        toy_task(),
        "prefix:2",
        controllers=["tuned", "pid"],
        disturbances=["typos"],
        training=Training(steps=5, learning_rate=1e-2),
        out=folder,
        **options,
    )


def test_the_delta_kept_steers_to_the_same_numbers(tmp_path):
    first = run(tmp_path / "a")
    kept = json.loads((tmp_path / "a" / "result.json").read_text())
    assert [row["accuracy"] for row in kept["rows"]] == [row.accuracy for row in first.rows]
    again = run(tmp_path / "b", tuned=tmp_path / "a" / "delta.safetensors")
    assert again.rows == first.rows
    assert (tmp_path / "b" / "figure.svg").stat().st_size > 1000


def test_a_delta_of_another_kind_is_refused(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(ValueError, match=r"tuned=.*asked for"):
        run(tmp_path / "b", tuned=tmp_path / "a" / "delta.safetensors", options={"seed": 5})
