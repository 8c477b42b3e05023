"""Training of the linearized network in random subspaces: the same optimizer, steps and batches, no network.

For a Gaussian P the rows of J P are distributed as K^½ G/√D with G i.i.d. standard normal, so the tangent
kernel is all that is needed, for every d and any number of seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory._threads import one_thread
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.tangent import TangentRows
from deltatheory.problems import epochs
from deltatheory.training.trainer import Training

__all__ = ["LinearizedRun", "kernel_root", "random_subspaces", "train_linearized"]


@dataclass(frozen=True, eq=False)
class LinearizedRun:
    """Runs of the linearized network, one a seed.

    Attributes:
        train_loss: shape (seeds,), mean loss over the last tenth of the steps.
        logits: shape (seeds, n, C), at the end, training examples first.
        delta: shape (seeds, d), where it ended, or the mean of the last ones.
    """

    train_loss: Float[Tensor, " seeds"]
    logits: Float[Tensor, "seeds n C"]
    delta: Float[Tensor, "seeds d"]


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
    jacobian: Float[Tensor, "seeds n outputs d"],
    training: Training,
    *,
    train: int,
) -> LinearizedRun:
    """Train z(δ) = f(0) + J δ, with the loss of `start` and the optimizer, schedule and budget of `train`.

    Args:
        start: f(0), the labels and the loss.
        jacobian: J P for each seed.
        training: steps, batch size, learning rate; its seed orders the data.
        train: the first `train` examples are trained on.

    >>> zeros = torch.zeros(2, 2)
    >>> start = LinearizationStart(zeros, torch.tensor([0, 1]), zeros)
    >>> one_step = Training(steps=1, learning_rate=0.5, warmup=0.0)  # the rate, downhill
    >>> train_linearized(start, torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1), one_step, train=2).delta
    tensor([[0.5000]])
    """
    seeds, _, _, d = jacobian.shape
    delta = torch.zeros(seeds, d, 1, device=jacobian.device, dtype=jacobian.dtype)
    optimizer = torch.optim.AdamW([delta], weight_decay=0.0)
    # All texts count as equally long here: only the order of the data is drawn.
    order = epochs(torch.ones(train).numpy(), training.batch_size, training.seed)
    losses, average = [], torch.zeros_like(delta)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        batch = next(order)
        rows = jacobian[:, batch].reshape(seeds, -1, d)
        logits = _logits(start.logits[batch], rows @ delta)
        labels = start.labels[batch].expand(seeds, -1)
        uphill = -start.loss.residual(logits, labels)[..., 1:] / len(batch)
        delta.grad = rows.transpose(1, 2) @ uphill.reshape(seeds, -1, 1)
        optimizer.step()
        if training.average and (count := training.averaged_after(step + 1)):
            average += (delta - average) / count
        losses.append(start.loss.values(logits, labels).mean(-1))
    delta = average if training.average else delta
    logits = _logits(start.logits, jacobian.reshape(seeds, -1, d) @ delta)
    tail = torch.stack(losses[-max(1, training.steps // 10) :]).mean(0)
    return LinearizedRun(tail, logits, delta[..., 0])


def _logits(start: Tensor, change: Tensor) -> Tensor:
    """Add changes of z_c - z_0, flat over (examples, outputs), to logits of shape (examples, C)."""
    shaped = change.view(len(change), len(start), -1)
    return start + torch.cat([torch.zeros_like(shaped[..., :1]), shaped], -1)
