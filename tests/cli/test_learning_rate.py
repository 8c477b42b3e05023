"""`--learning-rate auto`: predicted, said, kept, and refused where it means nothing."""

import json

import pytest
from command_line import run

SHORT = ["--steps", "8", "--batch-size", "8", "--no-progress", "--no-compare", "--learning-rate", "auto"]


def read(path):
    return json.loads(path.read_text())


def test_a_training_takes_the_predicted_rate_and_goes_on_with_it(given, tmp_path):
    done = run("train", *given, *SHORT, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Learning rate " in done.stderr
    assert "predicted with" in done.stderr
    assert done.stdout.startswith("Test accuracy ")  # the answer is the first line
    kept = read(tmp_path / "learning_rate.json")
    assert read(tmp_path / "result.json")["settings"]["training"]["learning_rate"] == kept["rate"]
    for left in ("result.json", "checkpoint.safetensors"):
        (tmp_path / left).unlink()
    other = kept["rate"] / 2  # as another device may have found it
    kept["rate"] = kept["settings"]["training"]["learning_rate"] = other
    (tmp_path / "learning_rate.json").write_text(json.dumps(kept))
    assert "as predicted when this run began" in run("train", *given, *SHORT, "--out", tmp_path).output
    assert read(tmp_path / "result.json")["settings"]["training"]["learning_rate"] == other


def test_a_rate_of_another_training_is_not_taken(given, tmp_path):
    (tmp_path / "learning_rate.json").write_text('{"rate": 5.0, "settings": {}}')
    (tmp_path / "run.json").write_text("{}")
    done = run("train", *given, *SHORT, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "predicted with" in done.output


def test_adam_takes_the_predicted_rate_as_a_controller(given, tmp_path):
    adam = ("--solver", "adam", "--setting", "learning_rate=auto", "--setting", "budget=9.0")
    done = run("control", *given, *adam, "--examples", 8, "--no-progress", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Learning rate " in done.output
    assert read(tmp_path / "result.json")["settings"]["solver"]["learning_rate"] > 0


@pytest.mark.parametrize(("rate", "says"), [("1e-6", "too small"), ("auto", "to train best")])
def test_a_diagnosis_says_which_rates_work(rate, says, given, tmp_path):
    done = run(
        "diagnose", *given, "--learning-rate", rate, "--examples", 8, "--no-progress", "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    finding = read(tmp_path / "diagnosis.json")["findings"][-1]
    assert says in finding["says"]
    assert finding["says"].endswith("work")
    assert (finding["verdict"] == "found") == (rate != "auto")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "train --learning-rate auto --optimizer sgd",
            "--learning-rate='auto': is predicted for --optimizer",
        ),
        ("train --learning-rate fast", "learning-rate"),
        ("control --setting learning_rate=auto", "learning_rate='auto': is predicted for --solver='adam'"),
        ("diagnose --learning-rate fast", "learning-rate"),
    ],
)
def test_it_is_refused_where_it_means_nothing(line, says, tmp_path):
    done = run(*line.split(), "--model", tmp_path / "absent", "--out", tmp_path)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
