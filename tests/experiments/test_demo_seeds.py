"""What the benchmark of the demo says of its results."""

import pytest

from experiments.benchmarks.demo import compared


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high, "status": ""}


@pytest.mark.parametrize(
    ("measured", "said", "overlap"),
    [
        (estimate(272, 136, 562), "272 (136 to 562)", "yes"),
        (estimate(3000, 1011, 9000), "3,000 (1,011 to 9,000)", "no"),
        (estimate(None, 900, None), "beyond (900 to beyond)", "yes"),
        (estimate(None, None, None), "beyond (beyond to beyond)", "no"),
    ],
)
def test_intervals_overlap_or_do_not(measured, said, overlap):
    predicted = estimate(148, 21, 1010)
    assert compared({"predicted": predicted, "measured": measured}) == {
        "predicted": "148 (21 to 1,010)",
        "measured": said,
        "overlap": overlap,
    }
