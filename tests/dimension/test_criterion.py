from __future__ import annotations

import json
import math

import pytest

from deltatheory.dimension.criterion import Criterion, DimensionEstimate


def test_the_level():
    assert Criterion(0.9).level(0.8, chance=0.5) == pytest.approx(0.72)
    assert Criterion(0.9, corrected=True).level(0.8, chance=0.5) == pytest.approx(0.77)
    for corrected in (False, True):
        assert Criterion(1.0, corrected=corrected).level(0.8, chance=0.5) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "wrong", [{"fraction": 0.0}, {"fraction": 1.1}, {"baseline": 0.0}, {"baseline": 90.0}]
)
def test_bad_criteria_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Criterion(**wrong)


def test_the_width_is_the_larger_side():
    assert DimensionEstimate(100.0, 80.0, 110.0, "").width == pytest.approx(0.2)
    assert DimensionEstimate(100.0, 95.0, 150.0, "").width == pytest.approx(0.5)
    for open_end in (DimensionEstimate(100.0, 80.0, None, ""), DimensionEstimate(None, 80.0, None, "")):
        assert open_end.width == math.inf


def test_both_are_plain_json():
    for x in (Criterion(), DimensionEstimate(1.0, 1.0, None, "reached")):
        assert type(x)(**json.loads(json.dumps(x.to_dict()))) == x
