"""The search against full grids of runs that others recorded.

`li2018_curves.json` has eight curves of the notebook of Li et al. (2018), "Measuring the intrinsic dimension
of objective landscapes": name ↦ [d, accuracy], a row a run; d = 0 is direct training.
"""

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltatheory.dimension.posterior import LOGISTIC, UNKNOWN, CurvePosterior, CurveShape

CURVES = json.loads((Path(__file__).parent / "li2018_curves.json").read_text())
FRACTION, CHANCE, NOISE = 0.9, 0.1, 0.003  # all tasks have ten classes
PRIOR = replace(UNKNOWN, lot=0.1)  # most of these runs share their subspace
PROBES, RESOLUTION = 5, 0.05  # a grid point this little below the curve's crossing, in ln d, reaches it


@pytest.mark.parametrize("name", CURVES)
def test_five_probes_find_the_d90_of_the_full_grid_within_a_step(name):
    scores = defaultdict(list)
    for d, score in CURVES[name]:
        scores[int(d)].append(score)
    direct = scores.pop(0, None)
    grid = sorted(scores)
    ceiling = float(np.mean(direct or scores[grid[-1]]))  # two curves have no direct training
    level = FRACTION * ceiling
    answer = next((i for i, d in enumerate(grid) if np.mean(scores[d]) >= level), len(grid))
    lot = np.random.default_rng(0)
    gain = ceiling - CHANCE
    share = (level - CHANCE) / gain
    middle = CurveShape(np.array([math.log(grid[0] * grid[-1]) / 2]), LOGISTIC.y)
    several = any(len(runs) > 1 for runs in scores.values())  # otherwise all replays are alike
    for _ in range(10 if several else 1):
        posterior = CurvePosterior(middle, PRIOR, NOISE / gain)
        for _ in range(PROBES):
            d = posterior.propose(share, grid)
            posterior.tell(d, (float(lot.choice(scores[d])) - CHANCE) / gain)
        crossing = float(np.median(posterior.crossings(share))) - RESOLUTION
        found = next((i for i, d in enumerate(grid) if math.log(d) >= crossing), len(grid))
        assert abs(found - answer) <= 1
