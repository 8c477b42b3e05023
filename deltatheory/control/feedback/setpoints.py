"""Where the states behind the blocks should be: nominal states, and setpoints that know no label.

The state z_t behind block t is what the model's output is read through: the mean over the real tokens
("mean", encoders) or the last real token ("last", causal models). Of an encoder-decoder the tokens are those
of the block's stack, of the text or of what the decoder reads, and "mean" moves them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Batch
from deltatheory.backbones.batch import Pooling, pool
from deltatheory.control.feedback.disturbances import Disturbance, disturbed_batches
from deltatheory.control.feedback.hooks import watching
from deltatheory.problems import ClassificationProblem

__all__ = [
    "SETPOINTS",
    "ClassSetpoint",
    "NominalStates",
    "PopulationSetpoint",
    "Setpoint",
    "SubspaceSetpoint",
    "check_setpoint",
    "make_setpoint",
    "nominal_states",
]


@dataclass(frozen=True, eq=False)
class NominalStates:
    """States of undisturbed training texts that the tuned model gets right.

    Attributes:
        states: behind L blocks, of n texts.
        labels: of the texts.
        pooling: how the states were read.
        rehearsed: states of k training texts under disturbances, right or not.
        rehearsed_labels: of these texts.
    """

    states: Float[Tensor, "L n H"]
    labels: Int[Tensor, " n"]
    pooling: Pooling
    rehearsed: Float[Tensor, "L k H"] | None = None
    rehearsed_labels: Int[Tensor, " k"] | None = None

    @cached_property
    def mean(self) -> Float[Tensor, "L H"]:
        """The mean state of the task."""
        return self.states.mean(1)

    @cached_property
    def class_means(self) -> Float[Tensor, "L C H"]:
        """The mean states of the classes of which a text was right."""
        present = self.labels.unique()
        return torch.stack([self.states[:, self.labels == c].mean(1) for c in present], 1)

    @cached_property
    def class_of(self) -> Int[Tensor, " n"]:
        """The place of each text's class in `class_means`."""
        return torch.searchsorted(self.labels.unique(), self.labels)


def check_read_once(problem: ClassificationProblem) -> None:
    """Refuse a head for which both stacks read the text, before anything is run.

    Raises:
        ValueError: for one.
    """
    if problem.head.kind == "own" and problem.backbone.kind == "encoder-decoder":
        raise ValueError(
            f"head='own' of the encoder-decoder {problem.backbone.name!r} reads a text twice, and a "
            "disturbance changes one reading: take head='verbalizer'."
        )


@torch.no_grad()
def nominal_states(
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    *,
    examples: int = 256,
    pooling: Pooling | None = None,
    batch_size: int = 32,
    rehearsed: Sequence[Disturbance] = (),
) -> NominalStates:
    """Run training texts through the tuned model and keep the states of those it gets right.

    Args:
        problem: the task and its backbone.
        delta: δ of the tuned model.
        examples: how many of the first training texts are run.
        pooling: "mean" or "last"; by default "last" of causal models, else "mean".
        batch_size: of a pass.
        rehearsed: disturbances under which the texts are run, too, each under all of them.

    Raises:
        ValueError: if fewer than two classes have a text that is right, or for the own head of an
            encoder-decoder.
    """
    check_read_once(problem)
    pooling = pooling or ("last" if problem.backbone.kind == "causal" else "mean")
    run = partial(_run, problem, delta, pooling)
    texts = range(min(examples, len(problem.train)))
    cuts = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    states, labels, right = run(problem.batch(problem.train, rows) for rows in cuts)
    states, labels = states[:, right], labels[right]
    if len(labels.unique()) < 2:
        raise ValueError(
            f"examples={examples}: the tuned model gets texts of fewer than two classes right; train δ "
            "longer or at another learning rate, or give more examples."
        )
    if not rehearsed:
        return NominalStates(states, labels, pooling)
    own, found = problem.train.subset(texts), []
    for disturbance in rehearsed:
        with disturbance.acting(problem.backbone.layers):
            found.append(run(disturbed_batches(problem, own, disturbance, batch_size)))
    again, theirs = torch.cat([x for x, _, _ in found], 1), torch.cat([y for _, y, _ in found])
    known = torch.isin(theirs, labels)  # of a class without a nominal text there is no setpoint
    return NominalStates(states, labels, pooling, again[:, known], theirs[known])


def _run(
    problem: ClassificationProblem,
    delta: Tensor,
    pooling: Pooling,
    batches: Iterable[tuple[Batch, Tensor]],
) -> tuple[Float[Tensor, "L n H"], Int[Tensor, " n"], Tensor]:
    """Return the states of texts, their labels, and whether the tuned model gets them right."""
    kept, labels, right = [], [], []
    for batch, y in batches:
        states: list[Tensor] = []
        with watching(
            problem.backbone.model,
            problem.backbone.layers,
            lambda _, x, mask, states=states: states.append(pool(x, mask, pooling)),
        ):
            right.append(problem.logits(delta, batch).argmax(1) == y)
        problem.count(len(batch), forward=1.0)
        kept.append(torch.stack(states))
        labels.append(y)
    return torch.cat(kept, 1), torch.cat(labels), torch.cat(right)


class Setpoint(ABC):
    """Where the states behind the blocks should be."""

    @abstractmethod
    def error(self, t: int, z: Float[Tensor, "B H"], memory: list[Tensor]) -> Float[Tensor, "B H"]:
        """Return e = z - z* of a batch of states behind block t.

        Args:
            t: 0 .. L-1; every pass goes through all blocks in order.
            z: measured states.
            memory: what the setpoint has left there at the earlier blocks of this pass; empty at t = 0.
        """


@dataclass(frozen=True, eq=False)
class PopulationSetpoint(Setpoint):
    """z* = z - z̄ + m_t, z̄ the mean of the batch and m_t of the nominal states.

    What moves all texts alike (a trigger, a drift, noise that shrinks them) is taken back; what tells them
    apart stays. The whole batch must be disturbed alike, and be a sample of the task; robust prefix-tuning,
    too, corrects batches (Yang & Liu 2022). Mean activations as targets: Rodriguez et al. 2025; as setpoints
    of PID control: Nguyen et al. 2026 (arXiv 2510.04309).
    """

    nominal: NominalStates

    def error(self, t: int, z: Float[Tensor, "B H"], memory: list[Tensor]) -> Float[Tensor, "B H"]:
        """Return z̄ - m_t, the same for all texts."""
        return (z.mean(0) - self.nominal.mean[t]).expand_as(z)


@dataclass(frozen=True, eq=False)
class ClassSetpoint(Setpoint):
    """z* = Σ_c π_c m_{t,c}: the nominal state of the class that the states so far look like.

    π is the softmax of the mean over the blocks so far of the log odds of linear discriminant analysis:
    Gaussians around the nominal class means m_{t,c} with the common within-class covariance, shrunk towards
    the isotropic one, all classes alike before. Disturbances pile up with depth and the class stays, so what
    early blocks showed still counts. Tracking nominal trajectories by LQR: Skifstad, Yang & Chou 2026 (arXiv
    2604.19018), who are given the wanted class; here it is estimated. Where disturbances were rehearsed the
    estimator may know what they do to states of each class; where the states should be stays the same.

    Attributes:
        nominal: states.
        recentred: π is that of z - z̄ + m_t, as in `PopulationSetpoint`: what moves all texts alike must not
            make them look like another class.
        shrinkage: a of the covariance (1 - a) S + a (tr S/H) I, in (0, 1].
        temperature: by which the log odds are divided; above 0.
        rehearsed: the means and the covariance of the log odds are those of the nominal and the rehearsed
            states together.
    """

    nominal: NominalStates
    recentred: bool = False
    shrinkage: float = 0.75
    temperature: float = 4.0
    rehearsed: bool = False

    def __post_init__(self) -> None:
        check_number("shrinkage", self.shrinkage, above=0, most=1)
        check_number("temperature", self.temperature, above=0)
        if self.rehearsed and self.nominal.rehearsed is None:
            raise ValueError(
                "setpoint='rehearsed-class': nothing was rehearsed; give `nominal_states` or the protocol "
                "the disturbances to rehearse."
            )

    @cached_property
    def _seen(self) -> NominalStates:
        """The states that the log odds are fitted to."""
        nominal = self.nominal
        if not self.rehearsed or nominal.rehearsed is None or nominal.rehearsed_labels is None:
            return nominal
        states = torch.cat([nominal.states, nominal.rehearsed], 1)
        return NominalStates(states, torch.cat([nominal.labels, nominal.rehearsed_labels]), nominal.pooling)

    @cached_property
    def _discriminants(self) -> tuple[Float[Tensor, "L H C"], Float[Tensor, "L 1 C"]]:
        """Log odds are z W + b."""
        means = self._seen.class_means
        deviations = (self._seen.states - means[:, self._seen.class_of]).double()
        covariance = deviations.mT @ deviations / deviations.shape[1]
        size = covariance.diagonal(dim1=1, dim2=2).mean(1)
        isotropic = size[:, None, None] * torch.eye(means.shape[2]).to(covariance)
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * isotropic
        weight = torch.linalg.solve(covariance, means.mT.double()) / self.temperature
        offset = -0.5 * (weight * means.mT).sum(1, keepdim=True)
        return weight.to(means.dtype), offset.to(means.dtype)

    def error(self, t: int, z: Float[Tensor, "B H"], memory: list[Tensor]) -> Float[Tensor, "B H"]:
        """Return z - Σ_c π_c m_{t,c}."""
        weight, offset = self._discriminants
        seen = z - (z.mean(0) - self.nominal.mean[t]) if self.recentred else z
        memory.append(seen @ weight[t] + offset[t] + (memory[-1] if memory else 0))
        return z - torch.softmax(memory[-1] / (t + 1), 1) @ self.nominal.class_means[t]


@dataclass(frozen=True, eq=False)
class SubspaceSetpoint(Setpoint):
    """z* = m_t + V Vᵀ (z - m_t), V the leading principal directions of the nominal states.

    Closed-loop control of networks: Chen, Li & Zhang 2021; self-healing: Chen et al. 2022, 2024.

    Attributes:
        nominal: states.
        rank: columns of V, at least 1.
    """

    nominal: NominalStates
    rank: int

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.nominal.states.shape[2]:
            raise ValueError(f"rank={self.rank}: must lie in 1..{self.nominal.states.shape[2]}.")

    @cached_property
    def _bases(self) -> list[Float[Tensor, "_ H"]]:
        centred = self.nominal.states - self.nominal.mean[:, None]
        return [torch.linalg.svd(x, full_matrices=False)[2][: self.rank] for x in centred]

    def error(self, t: int, z: Float[Tensor, "B H"], memory: list[Tensor]) -> Float[Tensor, "B H"]:
        """Return (I - V Vᵀ)(z - m_t)."""
        d = z - self.nominal.mean[t]
        return d - (d @ self._bases[t].T) @ self._bases[t]


SETPOINTS: dict[str, Callable[[NominalStates], Setpoint]] = {
    "population": PopulationSetpoint,
    "class": ClassSetpoint,
    "recentred-class": partial(ClassSetpoint, recentred=True),
    "rehearsed-class": partial(ClassSetpoint, rehearsed=True, shrinkage=0.1),
    "subspace": lambda nominal: SubspaceSetpoint(nominal, min(64, nominal.states.shape[2])),
}


def make_setpoint(setpoint: str | Setpoint, nominal: NominalStates) -> Setpoint:
    """Return a setpoint by name, with its defaults, or the one that is given.

    Args:
        setpoint: a key of `SETPOINTS`, or a setpoint.
        nominal: states.

    Raises:
        ValueError: for an unknown name, or "rehearsed-class" where nothing was rehearsed.
    """
    check_setpoint(setpoint)
    return setpoint if isinstance(setpoint, Setpoint) else SETPOINTS[setpoint](nominal)


def check_setpoint(setpoint: Any) -> None:
    """Refuse what is neither a setpoint nor the name of one.

    Raises:
        ValueError: with what is allowed.
    """
    if not isinstance(setpoint, Setpoint) and setpoint not in SETPOINTS:
        raise ValueError(f"setpoint={setpoint!r}: allowed are {', '.join(SETPOINTS)}.")
