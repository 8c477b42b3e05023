"""`deltatheory dimension`: every option reaches the library, and what came out is told."""

import inspect
import re

import pytest
from command_line import run
from sample_results import MEASURED, REFUSED, UNREACHED, a_result

import deltatheory.dimension
from deltatheory.cli.dimension import dimension as dimension_command
from deltatheory.dimension import Criterion, DimensionSettings
from deltatheory.problems import Setup
from deltatheory.tasks.table import TableOptions


@pytest.fixture
def stand_in(monkeypatch):
    """In place of a run: what it was called with, and what it shall do."""
    calls: list[dict] = []

    def answer(result=None, error: BaseException | None = None):
        def intrinsic_dimension(setup, **options):
            calls.append({"setup": setup, **options})
            if error is not None:
                raise error
            return result

        monkeypatch.setattr(deltatheory.dimension, "intrinsic_dimension", intrinsic_dimension)
        return calls

    return answer


def test_options_and_defaults_are_those_of_the_library():
    command = inspect.signature(dimension_command).parameters
    makers = (Setup, TableOptions, DimensionSettings, Criterion)
    known = {n: p.default for kind in makers for n, p in inspect.signature(kind).parameters.items()}
    own = {"method", "out", "progress", "revision", "dtype"}  # the last two are parts of the model
    assert set(command) - own == set(known)
    del known["train_examples"]  # the command takes 512 of them, for its time
    assert {name: command[name].default for name in known} == known


def test_every_option_reaches_the_function(stand_in, tmp_path):
    calls = stand_in(a_result())
    given = (
        "--model m --task t --method measure --projection srdct --head probe --scope all --fraction 0.8 "
        "--baseline 0.95 --corrected --steps 7 --batch-size 3 --train-examples 0 --test-examples 99 "
        "--average 0.25 --metric accuracy --of baseline "
        "--max-length 32 --runs 2.5 --precision 0.5 --micro-batch 2 --gradient-checkpointing --burn-in 3 "
        f"--seed 4 --device cuda:1 --out {tmp_path} --no-progress"
    )
    result = run("dimension", *given.split())
    assert result.exit_code == 0, result.output
    (call,) = calls
    chosen = {"head": "probe", "test_examples": 99, "max_length": 32, "seed": 4, "device": "cuda:1"}
    assert repr(call["setup"]) == repr(Setup("m", "t", **chosen))
    assert call["settings"] == DimensionSettings(
        projection="srdct",
        scope="all",
        steps=7,
        batch_size=3,
        micro_batch=2,
        gradient_checkpointing=True,
        average=0.25,
        runs=2.5,
        precision=0.5,
        burn_in=3,
    )
    assert call["criterion"] == Criterion(0.8, 0.95, True)
    assert call["method"] == "measure"
    assert call["log"].path == tmp_path / "trials.jsonl"
    assert (tmp_path / "report.html").exists()


def test_results_come_as_a_table_with_what_missed_and_where_the_page_is(stand_in, tmp_path):
    stand_in(a_result(measured=UNREACHED))
    output = run("dimension", "--out", str(tmp_path)).output
    assert re.search(r"predicted before training +190 +90–400 +0.800", output)
    assert re.search(r"measured by training +not reached +above 3.300", output)
    assert "the level 0.8 is not reached at d <= 4096" in " ".join(output.split())
    assert "Linearization: <b>12 %</b> & more." in output
    assert (tmp_path / "report.html").as_uri() in output


def test_a_refused_prediction_is_the_first_that_is_said(stand_in, tmp_path):
    both = {"measured": {"d50": MEASURED, "d90": UNREACHED}}
    stand_in(a_result(predicted=REFUSED, fractions=both))
    output = run("dimension", "--out", str(tmp_path)).stdout
    first = (
        f"Predicted before training: d90 is not predicted, {REFUSED.status}; measured by training: d90 = 240"
    )
    assert output.startswith(first)
    assert re.search(r"measured by training +d50 +240 +180–310 +the sharpest", output)
    assert re.search(r"measured by training +d90 +not reached", output)


BAD = [
    (("--task", "stdlib-topic"), "stdlib-topics"),
    (("--task", "absent.jsonl"), "absent.jsonl"),
    (("--projection", "hashd"), "hashed"),
    (("--fraction", "1.5"), "fraction=1.5"),
    (("--steps", "0"), "steps=0"),
    (("--method", "guess"), "measure"),
]


@pytest.mark.parametrize(
    ("options", "named"), BAD, ids=lambda x: " ".join(x) if isinstance(x, tuple) else None
)
def test_bad_input_is_one_line_and_exit_code_2(options, named, tmp_path):
    result = run("dimension", *options, "--out", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    if result.stderr.startswith("Error: "):  # else it is typer's own, about a choice
        assert result.stderr.count("\n") == 1


def test_a_run_that_is_stopped_says_how_to_go_on(stand_in, tmp_path):
    stand_in(error=KeyboardInterrupt())
    (tmp_path / "trials.jsonl").touch()
    result = run("dimension", "--out", str(tmp_path))
    assert result.exit_code == 130
    assert f"kept in {tmp_path / 'trials.jsonl'}; the same command" in result.stderr
