from __future__ import annotations

import json
import math

import pytest

from deltatheory.dimension.criterion import Criterion, DimensionEstimate


def test_the_level():
    known = {"chance": 0.5, "frozen": 0.6}
    assert Criterion(0.9).level(0.8, **known) == pytest.approx(0.72)
    assert Criterion(0.9, corrected=True).level(0.8, **known) == pytest.approx(0.77)
    assert Criterion(0.9, of="gain").level(0.8, **known) == pytest.approx(0.78)
    for origin in ({}, {"corrected": True}, {"of": "gain"}):
        assert Criterion(1.0, **origin).level(0.8, **known) == pytest.approx(0.8)


def test_a_loss_counts_its_fall_from_the_frozen_model():
    """From 0.7 to 0.2 nats: nine tenths of the fall are there at 0.25."""
    criterion = Criterion(metric="loss")
    frozen, baseline = (criterion.score(0.5, loss) for loss in (0.7, 0.2))
    level = criterion.level(baseline, chance=0.5, frozen=frozen)
    assert criterion.shown(level) == pytest.approx(0.25)
    assert frozen < level < baseline
    shares = criterion.shares(baseline, chance=0.5, frozen=frozen)
    assert shares == pytest.approx({"d50": 0.5, "d75": 0.75, "d90": 0.9})


def test_the_shares_are_those_of_the_levels_and_the_own_one_among_them():
    found = Criterion(0.8).shares(1.0, chance=0.5, frozen=0.5)
    assert found == pytest.approx({"d50": 0.0, "d75": 0.5, "d80": 0.6, "d90": 0.8})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": "f1"}, "metric='f1': allowed are 'accuracy' and 'loss'"),
        ({"of": "all"}, "of='all': allowed are 'baseline' and 'gain'"),
        ({"of": "gain", "corrected": True}, "corrected=True"),
        ({"metric": "loss", "corrected": True}, "corrected=True"),
        ({"metric": "loss", "baseline": 0.5}, "baseline=0.5: is an accuracy"),
    ],
)
def test_criteria_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Criterion(**wrong)


def test_configurations_of_older_criteria_keep_their_names():
    assert Criterion().to_dict() == {"fraction": 0.9, "baseline": None, "corrected": False}
    assert Criterion(metric="loss").to_dict()["metric"] == "loss"


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
