import torch
from command_line import letters, run

from deltatheory.backbones import load_backbone
from deltatheory.control.generation import load_policy
from deltatheory.deltas import make_delta
from deltatheory.deltas.files import load_delta, save_delta
from deltatheory.results import read_json

ASKED = "--policy liseco --policy pid --strength 2 --prompts 3 --words 2 --max-new-tokens 3 --layer 0"


def test_texts_are_steered_the_answer_stands_first_and_policies_are_files(gpt2, tmp_path):
    task = letters(tmp_path / "letters.jsonl", rows=80)
    delta = make_delta("bitfit", load_backbone(str(gpt2)))
    save_delta(tmp_path / "delta.safetensors", delta, values := torch.ones(delta.size))
    tuned = ("--policy", "tuned", "--tuned", tmp_path / "delta.safetensors")
    done = run("steer", "--model", gpt2, "--task", task, *ASKED.split(), *tuned, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[0]
    assert "of 3 texts on target" in first
    assert "without control" in first
    (file,) = (tmp_path / "out").rglob("result.json")
    result = read_json(file)
    assert [(r["policy"], r["strength"]) for r in result["rows"]] == [
        ("none", None),
        ("instruction", None),
        ("liseco", 2.0),
        ("pid", 2.0),
        ("tuned", 2.0),
    ]
    assert result["layers"] == [0]
    assert load_policy(file.parent / "liseco-2.safetensors").kind == "half-spaces"
    assert torch.equal(load_delta(file.parent / "tuned-2.safetensors", delta.backbone)[1], 2 * values)
    page = (file.parent / "report.html").read_text()
    for word in ("liseco", "perplexity", "The judge, a bag of words", "First continuations"):
        assert word in page


def test_a_trained_delta_and_its_policy_go_together(gpt2, tmp_path):
    task = letters(tmp_path / "letters.jsonl")
    for asked in (["--policy", "tuned"], ["--policy", "pid", "--tuned", "x"]):
        done = run("steer", "--model", gpt2, "--task", task, *asked)
        assert done.exit_code == 2
        assert "are a trained delta; give both, or neither." in " ".join(done.output.split())
