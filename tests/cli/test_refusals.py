"""What is wrong on a command line is told before the work: no model is loaded, and no pass is made."""

import pytest
from command_line import run

from deltatheory.problems import Problem

BEFORE_LOADING = [
    ("control --solver gaus", "solver='gaus': allowed are gauss-newton"),
    ("control --solver ilqr", "solver='ilqr': takes"),
    ("control --setting budgt=3", "budgt: 'gauss-newton' has no such setting"),
    ("control --energy nan", "--energy=nan: must be finite"),
    ("control --setting budget=NaN", "budget=nan: must be finite"),
    ("diagnose --steps 0", "steps=0: must be at least 1"),
    ("diagnose --learning-rate 0", "--learning-rate=0.0: must be above 0"),
    ("steer --controller pdi", "controller='pdi'"),
    ("steer --disturbance typo", "disturbance='typo'"),
    ("steer --tuned nothing.safetensors", "No file 'nothing.safetensors'"),
    ("steer --policy lisco", "policy='lisco': allowed are mean-difference"),
    ("steer --policy pid --strength nan", "strength=nan"),
    ("steer --policy pid --toward nowhere", "target='nowhere': allowed are"),
    ("steer --policy pid --tokens first", "tokens='first': allowed are all"),
    ("steer --policy pid --prompts 0", "--prompts=0: must be at least 1"),
    ("steer --policy pid --controller lqr", "is of a tuned classifier"),
    ("steer --strength 2", "--strength=[2.0]: is of texts under a policy"),
    ("reach --k 0", "k=0: must be at least 1"),
    ("reach --k -3..2", "k='-3..2': allowed are a number"),
    ("reach --k 9..1", "k='9..1': allowed are a number"),
    ("reach --way discreet", "way='discreet': allowed are continuous, discrete, prefix"),
    ("reach --goal first", "goal='first': allowed are 'label'"),
    ("reach --goal next --among classes", "goal='next': is a token of the vocabulary"),
    ("reach --rounds 0", "rounds=0: must be above 0"),
    ("train --autocast", "--autocast: bfloat16 is for CUDA"),
    ("train --option rank=2", "option 'rank'"),
    ("train --checkpoint-every 0", "checkpoint-every"),
    ("train --max-new-tokens 0", "max-new-tokens"),
    ("train --learning-rate inf", "--learning-rate=inf: must be finite"),
    ("dimension --runs 2", "runs=2.0: must be at least 3"),
    ("dimension --fraction nan", "--fraction=nan"),
    ("advise --steps 0", "steps=0"),
    ("advise --max-minutes inf", "--max-minutes=inf"),
    ("check T99", "T99"),
    *(
        (f"{command} --suffix x", "--suffix='x': --head='label-words' takes none")
        for command in (
            "control",
            "diagnose",
            "steer",
            "train",
            "dimension",
            "advise",
            "check",
            "explain x.safetensors",
        )
    ),
    ("explain x.safetensors --keep 0", "keep=0.0"),
    ("explain x.safetensors --head hed", "hed"),
    ("explain x.safetensors --task no-such-task", "no-such-task"),
]
BEFORE_A_PASS = [
    ("control --delta prefix:2 --option gat=1", "option 'gat'"),
    ("steer --delta lora:2 --controller robust-prefix", "the delta 'lora' does not take it"),
    ("advise --candidate layernorm --candidate subspace", "option"),
]


@pytest.mark.parametrize(("line", "said"), BEFORE_LOADING)
def test_it_is_refused_before_anything_is_loaded(line, said, task, tmp_path, monkeypatch):

    out = ("--out", tmp_path / "out", "--model", tmp_path / "absent")
    done = run(*line.split(), *out, *(() if "--task" in line or "explain" in line else ("--task", task)))
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.stderr.split()), done.stderr
    assert "absent" not in done.stderr
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(("line", "said"), BEFORE_A_PASS)
def test_it_is_refused_before_the_first_pass(line, said, given, tmp_path, monkeypatch):
    monkeypatch.setattr(Problem, "count", lambda *_, **__: pytest.fail("a pass"))
    done = run(*line.split(), *given, "--out", tmp_path, "--no-progress")
    assert done.exit_code == 2, done.output
    assert said in done.stderr
