"""Training of the linearized network in random subspaces: the same optimizer, steps and batches, no network.

For a Gaussian P the rows of J P are distributed as K^½ G/√D with G i.i.d. standard normal, so the tangent
kernel is all that is needed, for every d and any number of seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory._threads import one_thread
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.tangent import TangentRows
from deltatheory.problems import epochs
from deltatheory.training.trainer import Training

__all__ = ["LinearizedRuns", "kernel_root", "random_subspaces", "train_linearized"]


@dataclass(frozen=True, eq=False)
class LinearizedRuns:
    """Runs of the linearized network, at each of some learning rates.

    Attributes:
        train_loss: shape (rates, runs), mean loss over the last tenth of the steps.
        logits: shape (rates, runs, n, C), at the end.
        delta: shape (rates, runs, d), where it ended, or the mean of the last ones.
    """

    train_loss: Float[Tensor, "rates runs"]
    logits: Float[Tensor, "rates runs n C"]
    delta: Float[Tensor, "rates runs d"]


def kernel_root(features: TangentRows) -> Float[Tensor, "n outputs r"]:
    """Return a square root of K with as few columns as its rank can need: A with A Aᵀ = K, row by row."""
    flat = features.rows.flatten(0, 1)
    if flat.shape[0] < flat.shape[1]:
        values, vectors = torch.linalg.eigh(flat.double() @ flat.double().T)
        flat = (vectors * values.clamp(min=0).sqrt()).to(flat)
    return flat.view(*features.rows.shape[:2], -1)


def random_subspaces(
    root: Float[Tensor, "n outputs r"], size: int, d: int, seeds: int, seed: int
) -> Float[Tensor, "seeds n outputs d"]:
    """Return draws of J P_d for Gaussian P with unit-norm columns: K^½ G/√D."""
    generator = torch.Generator().manual_seed(seed)
    flat = root.flatten(0, 1)
    draws = [flat @ torch.randn(flat.shape[1], d, generator=generator).to(flat) for _ in range(seeds)]
    return torch.stack(draws).view(seeds, *root.shape[:2], d) / size**0.5


@one_thread()
@torch.no_grad()
def train_linearized(
    start: LinearizationStart,
    jacobian: Float[Tensor, "runs n outputs d"],
    training: Training,
    *,
    train: Sequence[Sequence[int]],
    rates: Sequence[float] | None = None,
) -> LinearizedRuns:
    """Train z(δ) = f(0) + J δ, with the loss of `start` and the optimizer, schedule and budget of `train`.

    Side by side: what a step of one run costs is mostly the calls that it takes.

    Args:
        start: f(0), the labels and the loss.
        jacobian: J P of each run.
        training: steps, batch size, learning rate; the k-th run draws its order of the data by its seed + k.
        train: the examples that each run is trained on: at least a batch, or equally many for all.
        rates: peaks of the learning rate, each for every run; that of `training` by default.

    >>> zeros = torch.zeros(2, 2)
    >>> start = LinearizationStart(zeros, torch.tensor([0, 1]), zeros)
    >>> one_step = Training(steps=1, learning_rate=0.5, warmup=0.0)  # the rate, downhill
    >>> train_linearized(start, torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1), one_step, train=[[0, 1]]).delta
    tensor([[[0.5000]]])
    """
    runs, examples, _, d = jacobian.shape
    schedules = [replace(training, learning_rate=rate) for rate in rates or [training.learning_rate]]
    deltas = [torch.zeros(runs, d, device=jacobian.device, dtype=jacobian.dtype) for _ in schedules]
    optimizer = torch.optim.AdamW([{"params": [delta]} for delta in deltas], weight_decay=0.0)
    chosen = [torch.tensor(own, device=jacobian.device) for own in train]
    # All texts count as equally long here: only the order of the data is drawn.
    orders = [
        epochs(torch.ones(len(own)).numpy(), training.batch_size, training.seed + k)
        for k, own in enumerate(train)
    ]
    # Selecting whole rows and multiplying from the left take a tenth of the time of other ways.
    every, before = jacobian.flatten(0, 1), torch.arange(runs, device=jacobian.device)[:, None] * examples
    losses, averages = [], [torch.zeros_like(delta) for delta in deltas]
    for step in range(training.steps):
        for group, schedule in zip(optimizer.param_groups, schedules, strict=True):
            group["lr"] = schedule.rate(step)
        batch = torch.stack([own[next(order)] for own, order in zip(chosen, orders, strict=True)])
        rows = every.index_select(0, (before + batch).flatten()).view(runs, -1, d)
        logits = _logits(start.logits[batch], torch.stack(deltas, 1) @ rows.mT)
        labels = start.labels[batch][:, None].expand(logits.shape[:-1])
        uphill = -start.loss.residual(logits, labels)[..., 1:] / batch.shape[1]
        gradients = uphill.flatten(2) @ rows
        for i, delta in enumerate(deltas):
            delta.grad = gradients[:, i].contiguous()
        optimizer.step()
        if training.average and (count := training.averaged_after(step + 1)):
            for average, delta in zip(averages, deltas, strict=True):
                average += (delta - average) / count
        losses.append(start.loss.values(logits, labels).mean(-1))
    ends = torch.stack(averages if training.average else deltas, 1)
    logits = _logits(start.logits.expand(runs, -1, -1), ends @ jacobian.flatten(1, 2).mT)
    tail = torch.stack(losses[-max(1, training.steps // 10) :]).mean(0)
    return LinearizedRuns(*(x.transpose(0, 1) for x in (tail, logits, ends)))


def _logits(start: Float[Tensor, "runs n C"], change: Float[Tensor, "runs rates no"]) -> Tensor:
    """Return logits, shape (runs, rates, n, C), from changes of z_c - z_0, flat over examples and outputs."""
    shaped = change.unflatten(2, (start.shape[1], -1))
    return start[:, None] + torch.cat([torch.zeros_like(shaped[..., :1]), shaped], -1)
