"""What the benchmark of the demo says of its results."""

from pathlib import Path

import pytest

from deltatheory.results import ResultLog
from experiments.benchmarks.demo import OPTIONS, compared, report, row


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


def test_a_seed_is_measured_once_and_the_page_counts_those_that_agree(tmp_path):
    asked = []

    def measured(seed):
        asked.append(seed)
        return {"overlap": "yes" if seed else "no"}

    log = ResultLog(tmp_path / "demo-cpu.jsonl")
    rows = [row(log, measured, seed) for seed in (0, 1, 0)]
    assert asked == [0, 1]
    assert rows[0] == rows[2] == {"seed": 0, "overlap": "no"}
    report(tmp_path, rows[:2])
    assert "for 1 of 2 seeds" in (tmp_path / "demo-cpu.md").read_text()


def test_it_times_what_make_demo_runs():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert f"$(BIN)/deltatheory {' '.join(OPTIONS)} --out runs/demo\n" in makefile
