"""One δ trained by the processes of `accelerate launch`: each takes its share of every batch."""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

from deltatheory._shapes import Float
from deltatheory.problems import BACKWARD, FORWARD, NOT_FINITE, Problem, like_lengths

__all__ = ["from_first", "is_first", "join", "largest", "loss_and_gradient", "processes"]

T = TypeVar("T")


def join(device: str) -> None:
    """Meet the other processes where `accelerate launch` or `torchrun` started several; else do nothing.

    Arguments:
        device: "cpu", or "cuda", which then is a GPU of its own for each process.

    Raises:
        ImportError: without `accelerate`.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    try:
        import torch.distributed.nn  # noqa: F401 - before there is a group, or its defaults keep one alive
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(
            "several processes for one model need accelerate: pip install accelerate"
        ) from error
    PartialState(cpu=device == "cpu")
    atexit.register(_part)


def _part() -> None:
    """End the process group: its threads free tensors, and to do so after Python has ended is an abort."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def processes() -> tuple[int, int]:
    """Return this process's rank and how many there are: 0 and 1 without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return processes()[0] == 0


def from_first(work: Callable[[], T]) -> T:
    """Do in the first process what all must agree on; return its result, or raise its error, in all."""
    rank, count = processes()
    if count == 1:
        return work()
    found: list = [None, None]
    if rank == 0:
        try:
            found[0] = work()
        except Exception as error:  # the others wait for word of it
            found[1] = error
    distributed.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def largest(number: int, device: torch.device) -> int:
    """Return the largest of the numbers that the processes have."""
    if processes()[1] == 1:
        return number
    found = torch.tensor(number, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def loss_and_gradient(
    problem: Problem, delta: Float[Tensor, " m"], indices: Sequence[int], micro_batch: int | None = None
) -> tuple[float, float, Float[Tensor, " m"]]:
    """Return loss and accuracy on a batch of training examples, and the loss's gradient in δ.

    With P processes the one of rank p takes every P-th example from the p-th on; means over their n_p answers
    are united as Σ n_p g_p / Σ n_p, which is the mean over the batch.

    Arguments:
        problem: the same in all processes.
        delta: the same in all processes.
        indices: of the whole batch.
        micro_batch: examples that pass through the network at once at most; on a CPU texts of like length do.

    Raises:
        FloatingPointError: in all processes, if the loss is not finite in one.
        RuntimeError: where another process failed otherwise.
    """
    rank, count = processes()
    mine = indices[rank::count]
    at_once = micro_batch or max(1, len(mine))
    parts = [mine[first : first + at_once] for first in range(0, len(mine), at_once)]
    if delta.device.type == "cpu":  # elsewhere the calls of a pass cost more than padding
        lengths = problem.train.lengths
        parts = [[part[i] for i in alike] for part in parts for alike in like_lengths(lengths[list(part)])]
    batches = [problem.batch(problem.train, part) for part in parts]
    if count == 1:
        found = problem.mean_with_gradient(delta, batches)
        return found.value, found.right / found.answers, found.gradient
    sums = torch.zeros(4, dtype=torch.float64, device=delta.device)  # answers, losses, right ones, failures
    gradient, failure = torch.zeros_like(delta), None
    try:
        if batches:
            own = problem.mean_with_gradient(delta, batches)
            sums += torch.tensor([own.answers, own.answers * own.value, own.right, 0]).to(sums)
            gradient = own.answers * own.gradient
    except FloatingPointError:
        sums[1] = math.nan
    except Exception as error:  # the others wait for this one's share
        sums[3], failure = 1, error
    problem.passes += (FORWARD + BACKWARD) * (len(indices) - len(mine))  # what the others do
    for part in (sums, gradient):
        distributed.all_reduce(part)
    answers, loss, accuracy, failures = sums.tolist()
    if failures:
        raise failure or RuntimeError(f"{failures:.0f} of {count} processes failed at a batch.")
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}: {NOT_FINITE}")
    return loss / answers, accuracy / answers, gradient / answers
