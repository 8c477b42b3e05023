"""`deltatheory tasks`, `deltas` and `projections`."""

import re

import pytest
from command_line import run
from tiny_models import tiny

import deltatheory.backbones
from deltatheory.deltas import DELTAS, make_delta
from deltatheory.projections import PROJECTIONS
from deltatheory.tasks import EMBEDDED


@pytest.mark.parametrize(
    ("command", "names"), [("tasks", EMBEDDED), ("deltas", DELTAS), ("projections", PROJECTIONS)]
)
def test_lists_have_one_row_a_name(command, names):
    result = run(command)
    assert result.exit_code == 0, result.output
    first_words = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    for name in names:
        assert first_words.count(name) == 1


def test_deltas_are_counted_in_a_model(monkeypatch):
    monkeypatch.setattr(deltatheory.backbones, "load_backbone", lambda _: tiny("llama"))
    output = run("deltas", "--model", "m").output
    size = make_delta("lora", tiny("llama")).size
    assert re.search(rf"lora +reparameterization .* no +{size:,}", output)
    assert re.search(r"bitfit .*by options", output)  # a llama has no biases
    assert re.search(r"subspace .*by options", output)
