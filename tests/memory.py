"""What torch's tensors take."""

from collections.abc import Callable
from itertools import accumulate

import torch


def peak(step: Callable[[], object]) -> int:
    """The most bytes beyond those at the start that torch's tensors take at once on the CPU."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(size for _, size in memory))
