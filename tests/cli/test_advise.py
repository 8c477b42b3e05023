"""`deltatheory advise`."""

import json
import re
from pathlib import Path

import pytest
from command_line import run
from tiny_models import tiny

import deltatheory.advice
from deltatheory.advice import Advice, Candidate, Decision, Estimate, in_each_block
from deltatheory.advice.result import Difference, Run
from deltatheory.cli.advise import _BLOCKS
from deltatheory.deltas import make_delta
from deltatheory.problems import Setup

ZERO, GAIN = Difference(0.0, 0.0, 0.0, 0.0), Difference(0.012, -0.02, 0.05, 0.4)
ADVICE = Advice(
    decision=Decision("lora r=2", 1024, 1e-2, 12288, 1.0, 0.6),
    ranked=[
        Estimate("full", {}, 0.91, 0.85, 0.97, 0.9, 4448, 53376, 0.9, False, GAIN, None, None, None),
        Estimate("lora", {"r": 2}, 0.9, 0.8, 0.95, 0.8, 1024, 12288, 0.5, True, ZERO, 1e-2, 4e-3, 2.5e-2),
    ],
    runs=[Run("lora r=2", 0.875, 64)],
    frozen=0.5,
    winner="lora r=2",
    adapter_config={"r": 2},
    training_arguments={"learning_rate": 1e-2},
    adapter_training_arguments=None,
    findings=["Ties: none"],
    passes=448.0,
    seconds=3.0,
    provenance={},
)


def test_advice_comes_as_a_table_a_figure_and_numbers(monkeypatch, tmp_path):
    calls = []

    def advise(setup, **options):
        calls.append({"setup": setup, **options})
        return ADVICE

    monkeypatch.setattr(deltatheory.advice, "advise", advise)
    given = (
        "--model m --task t --max-parameters 1000 --max-memory 2 --train-runs 3 --steps 7 --examples 9 "
        "--seed 4 --no-progress"
    )
    result = run("advise", *given.split(), "--candidate", "lora r=2", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert repr(calls[0]["setup"]) == repr(Setup("m", "t", seed=4))
    assert calls[0]["candidates"] == [Candidate("lora", {"r": 2})]
    assert (calls[0]["max_parameters"], calls[0]["max_memory"], calls[0]["examples"]) == (1000, 2.0, 9)
    assert (calls[0]["training"].steps, calls[0]["training"].seed, calls[0]["train_runs"]) == (7, 4, 3)
    first, *rest = result.output.splitlines()
    assert first == (
        "Take lora r=2 (1,024 parameters, learning rate 0.01, 0.0123 MB of optimizer state, 1 min of "
        "training); no other candidate is expected to be more than one point better, with probability 0.60."
    )
    table = "\n".join(rest)
    assert re.search(r"lora r=2 +1,024 +0.900 +0.800–0.950 +– +0.01", table)
    assert re.search(r"full +4,448 .*\+1.2 \(-2.0 to \+5.0\) .*outside", table)
    assert table.index("lora r=2") < table.index("full")
    assert re.search(r"lora r=2 +0.875 +64", table)
    assert "Ties: none" in result.output
    assert json.loads((tmp_path / "advice.json").read_text())["winner"] == "lora r=2"
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"r": 2}
    assert json.loads((tmp_path / "training_arguments.json").read_text()) == {"learning_rate": 1e-2}
    page = (tmp_path / "report.html").read_text()
    assert page.index("Take lora r=2") < page.index("<svg")


def test_each_block_is_raced_with_a_run_in_each_and_it_says_why(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(deltatheory.advice, "advise", lambda _, **options: calls.append(options) or ADVICE)
    monkeypatch.setattr("deltatheory.cli.advise.tell", lambda *_, **__: None)
    monkeypatch.setattr(Setup, "backbone", tiny("bert"), raising=False)
    given = ("advise", "--model", "m", "--task", "t", "--no-progress", "--out", str(tmp_path), "--each-block")
    result = run(*given)
    assert result.exit_code == 0, result.output
    ours = [
        Candidate("lora", {"r": 4, "targets": [f"{t}.attention.self.{x}" for x in ("query", "value")]})
        for t in (0, 1)
    ]
    assert (calls[0]["candidates"], calls[0]["train_runs"]) == (ours, 2)
    assert _BLOCKS.format(runs=2) in result.output
    assert run(*given, "--train-runs", "0").exit_code == 0
    assert calls[1]["train_runs"] == 0
    page = Path(__file__).parents[2] / "experiments/results/chosen/places/result.json"
    numbers = json.loads(page.read_text())["numbers"]["minilm, layer"]
    of = numbers["within_1_point"]
    assert (of["loss"], of["middle"], of["race"], numbers["tasks"]) == (3, 3, 5, 6)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_candidate_in_each_block_is_the_candidate_in_parts(family):
    backbone = tiny(family)
    parts = [make_delta(one.method, backbone, **one.options) for one in in_each_block("lora:2", backbone)]
    whole = make_delta("lora", backbone, r=2)
    assert len(parts) == len(backbone.layers)
    assert [name for part in parts for name in part.targets] == list(whole.targets)


def test_only_what_has_a_place_in_a_block_is_put_into_each():
    backbone = tiny("bert")
    assert [one.options["blocks"] for one in in_each_block("prefix:2", backbone)] == [[0], [1]]
    for bad in ("full", "prefix:2 blocks=[1]"):
        with pytest.raises(ValueError, match="cannot be put into each block; allowed are, without blocks"):
            in_each_block(bad, backbone)
