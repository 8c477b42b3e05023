"""Regular expressions that came with a file are tried where they can be stopped."""

from __future__ import annotations

import pytest
from tiny_models import tiny

from deltatheory.deltas import make_delta, patterns
from deltatheory.deltas.patterns import check_patterns

NAMES = [f"encoder.layer.{i}.attention.self.query" for i in range(12)]


@pytest.mark.parametrize("slow", ["([a-z.0-9]+)+X", ".*.*.*.*.*.*.*.*.*.*X", "(?:(?:[a-z.]|[0-9])+)+,"])
def test_a_pattern_that_tries_everything_is_refused(slow, monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"^here: .* are not matched in 0\.2 s with the names of 12 modules"):
        check_patterns(["query", slow], NAMES, "here")


def test_quick_and_bad_patterns_are_left_to_who_matches_them(monkeypatch):
    check_patterns([r".*\.query", r"layer\.[0-3]\..*", "(", "*"], NAMES, "here")
    monkeypatch.setattr(patterns.subprocess, "run", None)  # what repeats nothing needs no process
    check_patterns(["query", r"layer\.1\.attention\.self\.query", r"a\*b", "[ab]c."], NAMES, "here")


def test_the_ranks_of_a_lora_are_held_to_it(monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.2)
    with pytest.raises(ValueError, match="rank_pattern: its regular expressions"):
        make_delta("lora", tiny("bert"), r=2, rank_pattern={"([a-z.0-9]+)+X": 1})
    with pytest.raises(ValueError, match=r"rank_pattern has '.*\(.*', no regular expression"):
        make_delta("lora", tiny("bert"), r=2, rank_pattern={"(": 1})
