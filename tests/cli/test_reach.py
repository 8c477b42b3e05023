"""`deltatheory reach`: the answer first, a table that fits, and a second run that searches nothing."""

import json

from command_line import run

from deltatheory.cli.output import WIDTH

QUICK = "--k 1..2 --test-examples 6 --steps 3 --restarts 1 --rounds 1 --candidates 3 --no-progress"


def test_the_answer_stands_first_and_the_same_command_searches_nothing(gpt2, task, tmp_path):
    line = ("reach", "--model", gpt2, "--task", task, "--goal", "top:9", *QUICK.split(), "--out", tmp_path)
    done = run(*line)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("With 2 tokens ")
    assert "of 6 targets rank first (continuous); discrete " in lines[0]
    rules = [text for text in lines if set(text) == {"─"}]
    assert len(rules) == 2
    assert max(map(len, rules)) <= WIDTH
    kept = (tmp_path / "reach.jsonl").read_bytes()
    numbers = json.loads((tmp_path / "result.json").read_text())
    assert numbers["lengths"] == [1, 2]
    assert "Reached by k tokens" in (tmp_path / "report.html").read_text()
    again = run(*line)
    assert again.stdout == done.stdout
    assert (tmp_path / "reach.jsonl").read_bytes() == kept
