"""`deltatheory advise`."""

import json
import re

from command_line import run

import deltatheory.advice
from deltatheory.advice import Advice, Candidate, Estimate
from deltatheory.problems import Setup

ADVICE = Advice(
    ranked=[
        Estimate("lora", {"r": 2}, 0.9, 0.8, 0.95, 1024, 12288, 0.5, True, 1e-2, 4e-3, 2.5e-2),
        Estimate("full", {}, 0.91, 0.85, 0.97, 4448, 53376, 0.9, False, None, None, None),
    ],
    frozen=0.5,
    winner="lora r=2",
    adapter_config={"r": 2},
    training_arguments={"learning_rate": 1e-2},
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
    given = "--model m --task t --max-parameters 1000 --steps 7 --examples 9 --seed 4 --no-progress"
    result = run("advise", *given.split(), "--candidate", "lora r=2", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert repr(calls[0]["setup"]) == repr(Setup("m", "t", seed=4))
    assert calls[0]["candidates"] == [Candidate("lora", {"r": 2})]
    assert (calls[0]["max_parameters"], calls[0]["steps"], calls[0]["examples"]) == (1000, 7, 9)
    assert re.search(r"lora r=2 +0.900 +0.800–0.950 +1,024 +0.01 +0.01", result.output)
    assert re.search(r"full .*outside", result.output)
    assert "Ties: none" in result.output
    assert json.loads((tmp_path / "advice.json").read_text())["winner"] == "lora r=2"
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {"r": 2}
    assert json.loads((tmp_path / "training_arguments.json").read_text()) == {"learning_rate": 1e-2}
    assert "<svg" in (tmp_path / "advice.svg").read_text()
