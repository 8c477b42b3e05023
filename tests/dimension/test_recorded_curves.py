"""The search against full grids of runs that others recorded.

`li2018_curves.json` has eight curves of the notebook of Li et al. (2018), "Measuring the intrinsic dimension
of objective landscapes": name ↦ [d, accuracy], a row a run; d = 0 is direct training.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from deltatheory.dimension.search import DimensionSearch

CURVES = json.loads((Path(__file__).parent / "li2018_curves.json").read_text())
FRACTION, CHANCE, NOISE = 0.9, 0.1, 0.003  # all tasks have ten classes
PROBES = 5


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
    several = any(len(runs) > 1 for runs in scores.values())  # otherwise all replays are alike
    for _ in range(50 if several else 1):
        search = DimensionSearch(grid, level, floor=CHANCE, ceiling=ceiling, noise=NOISE)
        while len(search.trials) < PROBES and not search.bracketed():
            d = search.propose()
            search.tell(d, float(lot.choice(scores[d])))
        found = search.smallest()
        assert abs((len(grid) if found is None else grid.index(found)) - answer) <= 1
