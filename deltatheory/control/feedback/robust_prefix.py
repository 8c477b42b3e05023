"""Robust prefix-tuning (Yang & Liu 2022): a prefix that is tuned on every batch, without its labels.

The states of training texts that the tuned model gets right span, behind every block, a subspace of low
dimension. At test time a further prefix, started at zero and added to the trained one, is moved by a few
steps of Adam so that the states of the batch come to lie in it. As a control problem: the running cost
½|(I - Q_t) z_t|² is measured and descended online; the terminal cost needs the label and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Batch
from deltatheory.backbones.batch import pool
from deltatheory.backbones.edit import widened
from deltatheory.control.feedback.setpoints import NominalStates
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.problems import ClassificationProblem

__all__ = ["RobustPrefix", "principal_bases"]


def principal_bases(states: Float[Tensor, "L n H"], mass: float = 0.99) -> list[Float[Tensor, "_ H"]]:
    """Return, a block, the fewest leading principal directions that hold a share of the singular mass.

    The rank is the smallest k with Σ_{i<=k} σ_i > mass Σ_i σ_i, σ the singular values (not their squares) of
    the mean-centred states.

    >>> cloud = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])  # σ = 3√2 and √2: 3/4, 1/4
    >>> [len(principal_bases(cloud, mass)[0]) for mass in (0.7, 0.8)]
    [1, 2]

    Args:
        states: of n texts behind L blocks.
        mass: the share, in (0, 1].

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass={mass}: must lie in (0, 1].")
    bases = []
    for x in states:
        _, sigma, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        share = sigma.cumsum(0) / sigma.sum()
        bases.append(v[: int((share <= mass).sum()) + 1])
    return bases


@dataclass(frozen=True, eq=False)
class RobustPrefix:
    """δ ↦ δ + ψ, ψ from some steps of Adam on Σ_t mean |(I - Q_t)(z_t - z̄_t)|² over the first blocks.

    z̄ is the mean of the batch, or of the nominal states where the batch is one text. Prefixes of the first
    blocks are tuned, keys and values and no gates; later ones do not act on what is measured.

    Attributes:
        problem: with a prefix without an MLP.
        nominal: the states that span the subspaces.
        bases: of `principal_bases`.
        learning_rate: of Adam.
        iterations: steps a batch.
        blocks: how many are measured and tuned.
    """

    problem: ClassificationProblem
    nominal: NominalStates
    bases: list[Float[Tensor, "_ H"]]
    learning_rate: float = 0.05
    iterations: int = 5
    blocks: int = 3

    def __post_init__(self) -> None:
        delta = self.problem.delta
        if not isinstance(delta, PrefixTuning) or delta.hidden is not None:
            raise ValueError(
                f"problem.delta is {delta.specification()}, and robust prefix-tuning moves the keys and "
                "values of a prefix: give a prefix with hidden=None, or leave this controller out."
            )
        if not 1 <= self.blocks <= len(self.bases):
            raise ValueError(f"blocks={self.blocks}: must lie in 1..{len(self.bases)}.")
        check_number("iterations", self.iterations, whole=True, least=1)
        check_number("learning_rate", self.learning_rate, above=0)

    def excess(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, ""]:
        """Return what lies outside the subspaces, summed over the measured blocks; differentiable in δ."""
        backbone, edit = self.problem.backbone, self.problem.delta.edit(delta)
        x, total = widened(backbone.embed(batch, edit)), 0.0
        for t in range(self.blocks):
            own, mask = backbone.own_tokens(t, batch)
            x = backbone.behind(t, x, batch, edit)
            z = pool(x[:, own], mask, self.nominal.pooling)
            x = backbone.normed(t, x, batch, edit)
            z = z - (z.mean(0) if len(z) > 1 else self.nominal.mean[t])
            total = total + (z - (z @ self.bases[t].T) @ self.bases[t]).square().mean()
        return torch.as_tensor(total)

    def adapted(self, delta: Float[Tensor, " m"], batch: Batch) -> Float[Tensor, " m"]:
        """Return δ + ψ for a batch; 2 passes an iteration through the measured blocks are counted."""
        where = self._tuned()
        extra = torch.zeros_like(delta).requires_grad_()
        optimizer = torch.optim.Adam([extra], lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.iterations):
                (extra.grad,) = torch.autograd.grad(self.excess(delta + where * extra, batch), extra)
                optimizer.step()
        share = self.blocks / len(self.problem.backbone.layers)
        self.problem.count(self.iterations * share * len(batch), forward=1.0, backward=0.5)
        return delta + where * extra.detach()

    def _tuned(self) -> Float[Tensor, " m"]:
        """Return 1 at the keys and values of the tuned blocks and 0 elsewhere."""
        coordinates = self.problem.delta.coordinates  # type: ignore[attr-defined]
        pieces = coordinates.split(self.problem.delta.initial())
        ones = {}
        for name, x in pieces.items():
            block, part = name.split(".")
            ones[name] = torch.full_like(x, float(part != "gate" and int(block) < self.blocks))
        return coordinates.join(ones)
