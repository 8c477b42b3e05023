"""Search prompts of k tokens that bring a target to the first place, one for each text."""

from __future__ import annotations

from typing import Any

from experiments.environment import Environment
from experiments.trial import Trial

EXAMPLE = Trial(
    "reachability",
    "",
    "",
    settings={
        "own_draw": True,
        "train": 8,
        "test": 4,
        "max_length": 12,
        "goal": "label",
        "k": [1, 2],
        "search": {"steps": 3, "restarts": 1, "rounds": 2, "candidates": 4, "pool": 4, "chunk": 4},
    },
)


def run(trial: Trial, place: Environment) -> dict[str, Any]:
    """Return ranks without control, and for each way the least k that reached each target."""
    from deltatheory.control.reach import PromptSearch, reach

    given = trial.settings
    found = reach(
        place.setup(trial), given["k"], goal=given["goal"], search=PromptSearch(**given["search"])
    ).to_dict()
    # The row says what was asked, and by which code; what texts say stays in the data.
    left = ("texts", "targets", "settings", "provenance")
    return {name: value for name, value in found.items() if name not in left}
