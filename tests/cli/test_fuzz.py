"""A few command lines and damaged files at random; `python -m tests.fuzz --minutes N` goes on for longer."""

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

few = settings(
    max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return fuzz.Inputs(tmp_path_factory.mktemp("fuzz"))


@few
@given(fuzz.lines())
def test_a_command_line_ends_as_it_should(inputs, line):
    fuzz.check(line, inputs)


@few
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(inputs, data):
    fuzz.check(data.draw(fuzz.readings(inputs)), inputs)


def test_the_fuzz_sees_what_it_looks_for(inputs, monkeypatch):
    right = fuzz.Line("deltas", ("--model", "MODEL"))
    assert fuzz.check(right, inputs) == 0
    with pytest.raises(fuzz.Fault, match="accepts '--model MODEL'"):
        fuzz.check(fuzz.Line("deltas", right.arguments, refused="--model MODEL"), inputs)

    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("deltatheory.backbones.load_backbone", broken)
    with pytest.raises(fuzz.Fault, match="KeyError"):
        fuzz.check(right, inputs)
