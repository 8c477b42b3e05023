"""Feedback through plain forward hooks: PID across the blocks, and LQR around nominal trajectories.

The error e_t = z_t - z*_t of the state behind block t (`setpoints`) is fed back: a
controller adds u_t, a function of e_0 .. e_t, to the tokens that z_t is read from, so that z_t moves by u_t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deltatheory import autodiff
from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.backbones.batch import Pooling, pool
from deltatheory.backbones.edit import widened
from deltatheory.control.feedback.hooks import spread, watching
from deltatheory.control.feedback.setpoints import NominalStates, Setpoint
from deltatheory.control.solvers.base import Solution
from deltatheory.control.solvers.low_rank_riccati import LowRankGains, low_rank_riccati
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.problems import ClassificationProblem

__all__ = [
    "PID",
    "Controller",
    "LQRFeedback",
    "Meter",
    "class_directions",
    "held_directions",
    "lqr_gains",
    "prefix_values",
    "shift_adjoints",
    "state_adjoints",
    "steered",
]

_DEPENDENT = 1e-5  # a singular value, beside the largest, whose direction the others span


class Controller(ABC):
    """u_t as a function of the errors e_0 .. e_t of one pass.

    Attributes:
        setpoint: whose errors are fed back.
    """

    setpoint: Setpoint

    @abstractmethod
    def control(self, t: int, errors: Sequence[Float[Tensor, "B H"]]) -> Float[Tensor, "B H"]:
        """Return u_t."""


@dataclass(frozen=True, eq=False)
class PID(Controller):
    """u_t = -(P e_t + I Σ_{s<=t} e_s + D (e_t - e_{t-1})), in time the blocks.

    After PID steering (Nguyen et al. 2026, arXiv 2510.04309), with the errors of the pass itself.

    >>> from deltatheory.control.feedback.setpoints import PopulationSetpoint
    >>> origin = PopulationSetpoint(NominalStates(torch.zeros(2, 1, 1), torch.zeros(1).long(), "mean"))
    >>> pid = PID(origin, proportional=0.5, integral=0.25, derivative=2.0)
    >>> float(pid.control(1, [torch.ones(1, 1), 3 * torch.ones(1, 1)]))  # -(½ 3 + ¼ (1 + 3) + 2 (3 - 1))
    -6.5

    Attributes:
        setpoint: whose errors are fed back.
        proportional: P; 1 alone puts every state on its setpoint.
        integral: I.
        derivative: D; e_{-1} is e_0.
    """

    setpoint: Setpoint
    proportional: float = 0.5
    integral: float = 0.0
    derivative: float = 0.0

    def control(self, t: int, errors: Sequence[Float[Tensor, "B H"]]) -> Float[Tensor, "B H"]:
        """Return u_t."""
        u = self.proportional * errors[-1]
        if self.integral:
            u = u + self.integral * torch.stack(list(errors)).sum(0)
        if self.derivative and t > 0:
            u = u + self.derivative * (errors[-1] - errors[-2])
        return -u


@dataclass(frozen=True, eq=False)
class LQRFeedback(Controller):
    """u_t = -(S + r I)⁻¹ S e_t, S the Riccati matrix of the blocks that follow (`low_rank_riccati`).

    The error is measured behind the block (`LowRankGains.after`), so it has in it what the linearization of
    the block leaves out. A-LQR (Skifstad, Yang & Chou 2026, arXiv 2604.19018) with few outputs.
    """

    setpoint: Setpoint
    gains: LowRankGains

    def control(self, t: int, errors: Sequence[Float[Tensor, "B H"]]) -> Float[Tensor, "B H"]:
        """Return u_t."""
        return self.gains.after(t, errors[-1])


@dataclass(eq=False)
class Meter:
    """What control has cost so far.

    Attributes:
        squares: Σ |u_t|² over blocks and texts.
        texts: that were steered, or tokens.
    """

    squares: Tensor | float = 0.0
    texts: int = 0

    @property
    def energy(self) -> float:
        """Σ_t |u_t|² of a text in the mean."""
        return float(self.squares) / max(self.texts, 1)


@contextmanager
def steered(
    model: nn.Module,
    layers: Iterable[nn.Module],
    controller: Controller,
    pooling: Pooling | Literal["each"],
) -> Iterator[Meter]:
    """Let a controller act behind every block while the context is open; the hooks are removed at its end.

    With "each" every real token is a state of its own, and is moved by its own control. In `generate` a token
    is then moved alike whether its keys and values are kept or it is run again: the text is the same with the
    cache and without. With "last" it is not, since a token that is run again is no longer the last: policies
    of `deltatheory.control.generation` remember which tokens they have moved.

    Args:
        model: any `transformers` model, called with its attention mask (`watching`).
        layers: its blocks, in order.
        controller: for these blocks.
        pooling: how states are measured, that of the controller's nominal states, or "each" token.

    Raises:
        ValueError: for "each" token of an encoder-decoder, whose tokens do not pass all blocks.
    """
    config: Any = model.config
    if pooling == "each" and config.is_encoder_decoder:
        raise ValueError(
            "pooling='each': tokens of an encoder-decoder do not pass all blocks; allowed are 'last', 'mean'."
        )
    meter = Meter()
    errors: list[Tensor] = []
    memory: list[Tensor] = []

    def act(t: int, x: Tensor, mask: Tensor) -> Tensor:
        real = mask.bool()
        z = x[real] if pooling == "each" else pool(x, mask, pooling)
        if t == 0:
            errors.clear()
            memory.clear()
            meter.texts += len(z)
        errors.append(controller.setpoint.error(t, z, memory))
        u = controller.control(t, errors)
        meter.squares = meter.squares + u.detach().square().sum()
        if pooling != "each":
            return spread(x, u, mask, pooling)
        return torch.zeros_like(x).masked_scatter(real[..., None], u) + x

    with watching(model, layers, act):
        yield meter


def class_directions(nominal: NominalStates) -> list[Float[Tensor, "H _"]]:
    """Return, a block, an orthonormal basis of the differences of the nominal class means: C - 1 columns."""
    means = nominal.class_means
    centred = means - means.mean(1, keepdim=True)
    return [torch.linalg.svd(m, full_matrices=False)[2][:-1].T for m in centred]


def held_directions(
    first: Sequence[Float[Tensor, "H _"]], states: Float[Tensor, "L n H"], principal: int
) -> list[Float[Tensor, "H _"]]:
    """Return, a block, an orthonormal basis of some directions and the leading principal ones of the states.

    Args:
        first: directions that are held in any case.
        states: nominal ones of n texts.
        principal: how many principal directions.
    """
    held = []
    for own, x in zip(first, states, strict=True):
        leading = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:principal].T
        basis, size, _ = torch.linalg.svd(torch.cat([own / own.norm(dim=0), leading], 1), full_matrices=False)
        held.append(basis[:, size > _DEPENDENT * size[0]])
    return held


def state_adjoints(
    backbone: Backbone, edit: Edit, batch: Batch, pooling: Pooling
) -> list[Callable[[Float[Tensor, " H"]], Float[Tensor, " H"]]]:
    """Return w ↦ A_tᵀ w for every block: A_t maps a shift of the state before it to one of the state behind.

    A shift v is added to the tokens that the state is read from, the same in all texts; A_t v is the mean
    change of the state behind block t, linearized along the texts' own trajectories. The states of an
    encoder-decoder are those of the stack that the block is in; what its decoder takes from the encoder is
    left out, so that each stack has a chain of its own.

    Args:
        backbone: whose blocks.
        edit: what the passes do differently.
        batch: nominal texts.
        pooling: of the states.
    """
    x = widened(backbone.embed(batch, edit).detach())
    if edit.prompt is not None:
        batch = backbone.prompted(batch, len(edit.prompt))
    adjoints = []
    for t in range(len(backbone.layers)):
        own, mask = backbone.own_tokens(t, batch)

        def behind(v: Tensor, t: int = t, x: Tensor = x, mask: Tensor = mask, own: slice = own) -> Tensor:
            moved = x.clone()
            moved[:, own] = spread(x[:, own], v.expand(len(x), -1), mask, pooling)
            return pool(backbone.behind(t, moved, batch, edit)[:, own], mask, pooling).mean(0)

        seam = batch.decoder is not None and t == backbone.encoder_blocks
        adjoints.append(torch.zeros_like if seam else autodiff.vjp(behind, x.new_zeros(x.shape[2]))[1])
        with torch.no_grad():
            x = backbone.step(t, x, batch, edit)
    return adjoints


def shift_adjoints(
    problem: ClassificationProblem, delta: Float[Tensor, " m"], batch: Batch, pooling: Pooling
) -> list[Callable[[Float[Tensor, " H"]], Float[Tensor, " H"]]]:
    """Return `state_adjoints` of the tuned model.

    Args:
        problem: the task and its backbone.
        delta: δ of the tuned model.
        batch: nominal texts.
        pooling: of the states.
    """
    adjoints = state_adjoints(problem.backbone, problem.delta.edit(delta), batch, pooling)
    problem.count(len(batch), forward=2.0)
    return adjoints


def lqr_gains(
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    nominal: NominalStates,
    *,
    control_weight: float = 1.0,
    principal: int = 0,
    texts: int = 32,
) -> Solution:
    """Return the gains that hold the class directions of all states, with the blocks linearized on texts.

    Args:
        problem: the task and its backbone.
        delta: δ of the tuned model.
        nominal: states.
        control_weight: r, beside a weight of 1 on each direction.
        principal: leading principal directions of the nominal states that are held too.
        texts: how many of the first training texts the blocks are linearized along.

    Returns:
        The solution of `low_rank_riccati`, its passes counted: 1 a product and text, over the blocks.
    """
    batch, _ = problem.batch(problem.train, range(min(texts, len(problem.train))))
    before = problem.passes
    adjoints = shift_adjoints(problem, delta, batch, nominal.pooling)
    directions = class_directions(nominal)
    if principal:
        directions = held_directions(directions, nominal.states, principal)
    none = directions[0][:, :0]  # what lies before the first block is not held
    solution = low_rank_riccati(adjoints, [none, *directions], control_weight=control_weight)
    problem.count(solution.details["products"] * len(batch) / len(adjoints), backward=0.5)
    return replace(solution, passes=problem.passes - before)


def prefix_values(prefix: PrefixTuning, shifts: Mapping[int, Float[Tensor, " H"]]) -> Float[Tensor, " m"]:
    """Return the change of δ that adds constant vectors to the output of the attention of some blocks.

    A head's weights on its prefix sum to 1, so a vector added to all k values of the head is added to its
    output; behind it comes the linear map W_O. Exact where that has the shift in its range (it is square and
    invertible where there are as many value heads as heads), else the nearest in least squares.

    Args:
        prefix: with gate="values" and without an MLP.
        shifts: block number ↦ what to add.

    Raises:
        ValueError: for another prefix, or a block that it does not have.
    """
    if prefix.gate != "values" or prefix.hidden is not None:
        raise ValueError(f"prefix is {prefix.specification()}: give gate='values' and hidden=None.")
    pieces = prefix.coordinates.split(prefix.initial())
    for t, shift in shifts.items():
        if t not in prefix.blocks:
            raise ValueError(f"shifts has block {t}: allowed are {prefix.blocks}.")
        name = prefix.backbone.module_name(t, "attention_output")
        linear = prefix.backbone.model.get_submodule(name)
        value = pieces[f"{t}.value"]
        heads, _, width = value.shape
        out = value.new_zeros(1, _outputs_of_heads(prefix, width))
        rows = linear(torch.eye(out.shape[1]).to(out)) - linear(out)  # W_Oᵀ in either layout
        rows = rows.view(heads, -1, width, len(shift)).sum(1).flatten(0, 1)  # heads that share their values
        head = torch.linalg.lstsq(rows.T, shift[:, None]).solution
        pieces[f"{t}.value"] = head.view(heads, 1, width).expand_as(value)
    return prefix.coordinates.join(pieces)


def _outputs_of_heads(prefix: PrefixTuning, width: int) -> int:
    config: Any = prefix.backbone.model.config
    return config.num_attention_heads * width
