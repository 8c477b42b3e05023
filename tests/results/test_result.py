from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from deltatheory.results import (
    PAGE,
    Result,
    drawn,
    figure,
    plain,
    write_atomically,
)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    name: str
    values: Any


@dataclass(frozen=True)
class Sample(Result):
    """A result with everything that one may have."""

    parts: list[Part]
    pair: tuple[int, float]
    colour: Colour
    weights: Any = field(repr=False, compare=False)

    BESIDE: ClassVar[tuple[str, ...]] = ("weights",)

    def save_beside(self, folder):
        write_atomically(folder / "weights.txt", str(self.weights))


@dataclass(frozen=True)
class Drawn(Result):
    FILE: ClassVar[str] = "numbers.json"
    value: float = 1.0


@figure.register(Drawn)
def _(result):
    return f"a figure of {result.value}"


@drawn.register(Drawn)
def _(result):
    return {PAGE: f"<p>{result.value}</p>", "more.svg": "<svg/>"}


class TestResult:
    sample = Sample([Part("a", np.arange(2.0)), Part("b", torch.ones(1, 2))], (1, 0.5), Colour.RED, "W")

    def test_is_written_as_json_without_what_has_a_file_of_its_own(self, tmp_path):
        path = self.sample.save(tmp_path / "new" / "folder")
        assert path == tmp_path / "new" / "folder" / "result.json"
        assert json.loads(path.read_text()) == {
            "parts": [{"name": "a", "values": [0.0, 1.0]}, {"name": "b", "values": [[1.0, 1.0]]}],
            "pair": [1, 0.5],
            "colour": "red",
        }
        assert (path.parent / "weights.txt").read_text() == "W"

    def test_its_figure_and_pages_are_found_by_its_class(self, tmp_path):
        assert Drawn().plot() == "a figure of 1.0"
        assert Drawn().save(tmp_path) == tmp_path / PAGE
        assert sorted(p.name for p in tmp_path.iterdir()) == ["more.svg", "numbers.json", PAGE]
        assert (tmp_path / PAGE).read_text() == "<p>1.0</p>"

    def test_one_without_a_figure_says_so(self):
        with pytest.raises(TypeError, match="Sample: has no figure"):
            self.sample.plot()

    def test_a_number_that_json_does_not_have_leaves_the_old_file(self, tmp_path):
        Drawn().save(tmp_path)
        with pytest.raises(ValueError, match="value"):
            Drawn(float("nan")).save(tmp_path)
        assert json.loads((tmp_path / "numbers.json").read_text()) == {"value": 1.0}

    def test_a_result_in_a_result_says_itself(self):
        assert plain({"inner": [Drawn(2.0)], "at": Path("a/b")}) == {"inner": [{"value": 2.0}], "at": "a/b"}

    def test_results_stay_as_they_were(self):
        with pytest.raises(AttributeError):
            self.sample.pair = (2, 0.5)  # type: ignore[misc]


def test_a_result_is_one_line():
    @dataclass(frozen=True)
    class Run(Result):
        BESIDE: ClassVar[tuple[str, ...]] = ("value",)

        status: str
        test: dict[str, float]
        losses: list[float]
        passes: float
        value: int

    run = Run("finished", {"accuracy": 2 / 3, "loss": 1.0}, [0.5] * 100, 1234.5678, 7)
    assert repr(run) == "<Run status=finished, test=accuracy 0.667, loss 1, passes=1.23e+03>"
