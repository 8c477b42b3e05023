"""What is measured once of a problem for all theorems: Jacobian, activations, attention, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltatheory import autodiff
from deltatheory.backbones import Edit
from deltatheory.backbones.edit import widened
from deltatheory.linearization.tangent import tangent_rows
from deltatheory.problems import ClassificationProblem
from deltatheory.theorems.loss_functions import Quadratic
from deltatheory.theorems.theorem import Sides

__all__ = ["Measurement", "Probe", "operator_norm"]

_EXAMPLES = 16  # rows of the Jacobian, one margin each
_SAFETY = 16  # a step of a network is several sums, and their rounding errors do not all cancel
_DIRECTIONS = 12  # of δ, fewer than the rows, so that the linearised loss is strongly convex


@dataclass(frozen=True)
class Measurement:
    """The two sides of a theorem on a model.

    Attributes:
        sides: in floats.
        hypotheses: which hold, and whose constants were measured where.
        trivial: what is known without the bound (a probability is at most 1); `None` where nothing is.
        rounding: by how much the sides may be off, where the network computed them each in another way; 0
            where the theorem is evaluated in float64 on numbers that the network gave.
    """

    sides: Sides
    hypotheses: str
    trivial: float | None = None
    rounding: float = 0.0


class Probe:
    """A problem at δ = 0, with what the theorems need of it, computed when first asked for.

    Args:
        problem: any, with at least 16 training examples.
        seed: of every random direction.
    """

    def __init__(self, problem: ClassificationProblem, seed: int = 0) -> None:
        self.problem, self.seed = problem, seed
        self.backbone = problem.backbone
        # In an encoder-decoder of the encoder, whose blocks have more than one token.
        self.layer = (self.backbone.cached_attentions.start or len(self.backbone.layers)) // 2
        self.batch, self.labels = problem.batch(problem.train, range(min(8, len(problem.train))))
        longest = int(np.argmax(problem.train.lengths[:_EXAMPLES]))
        self.text, self.label = problem.batch(problem.train, [longest])

    def random(self, *shape: int) -> np.ndarray:
        """Return standard normal numbers, the same for the same shape."""
        return np.random.default_rng([self.seed, *shape]).standard_normal(shape)

    def tensor(self, *shape: int) -> Tensor:
        """Return `random` as a tensor of the problem's kind."""
        return torch.from_numpy(self.random(*shape)).to(self.origin)

    @cached_property
    def origin(self) -> Tensor:
        """δ = 0."""
        return self.problem.delta.initial()

    @cached_property
    def features(self) -> Any:
        """The margins of some training examples and their rows of J."""
        count = min(_EXAMPLES, len(self.problem.train))
        return tangent_rows(self.problem, train=count, test=0, outputs="margin", sketch=1 << 30)

    @cached_property
    def jacobian(self) -> np.ndarray:
        """J of the margins, shape (n, m)."""
        return self.features.rows.flatten(0, 1).double().cpu().numpy()

    @cached_property
    def restricted(self) -> tuple[np.ndarray, np.ndarray]:
        """(J S, r): J in a few random orthonormal directions, and how far each margin is from 1."""
        m = self.jacobian.shape[1]
        S = np.linalg.qr(self.random(m, min(_DIRECTIONS, m)))[0]
        margins = self.features.start.logits[:, 1].double().cpu().numpy()
        return self.jacobian @ S, 1 - margins

    @cached_property
    def linearised(self) -> dict[str, Any]:
        """The linearised loss in these directions, as an instance of the subspace theorems."""
        J, r = self.restricted
        n, D = J.shape
        H = J.T @ J / n
        star = np.linalg.lstsq(J, r, rcond=None)[0]
        f = Quadratic(H, star, float(np.sum((J @ star - r) ** 2) / (2 * n)))
        values = np.linalg.eigvalsh(H)
        d = D // 3
        A = np.eye(D)[:, :d]
        x: dict[str, Any] = {"f": f, "L": float(values[-1]), "mu": float(values[0]), "x0": np.zeros(D)}
        x |= {"star": star, "A": A, "G": A @ A.T, "step": 1 / float(values[-1]), "N": 10, "h": 1.0, "d": d}
        at = A @ np.linalg.solve(A.T @ H @ A, -A.T @ f.gradient(x["x0"]))
        x |= {"x": at, "lowest": f.minimum_on(x["x0"], A), "z1": np.ones(d), "z2": np.zeros(d)}
        shifts = [np.roll(np.eye(D), k, axis=1)[:, :d] for k in range(D)]  # every axis equally often
        return x | {"a2": 1.0, "s2": 1.0, "bases": shifts}

    @cached_property
    def rounding(self) -> float:
        """The share by which rounding in the network may move a state, a loss or a gradient.

        The unit of the dtype for every step, times the condition of the gradient: its relative change by that
        of the word embeddings, measured at a change that stands out of the rounding.

        Raises:
            ValueError: where that leaves no digit to compare.
        """
        unit = torch.finfo(self.backbone.dtype).eps
        words = self.backbone.words
        size = math.sqrt(unit)

        def slope(change: float) -> Tensor:
            moved = Edit(outputs={words: lambda _, y: y * (1 + change * self.tensor(*y.shape))})
            return autodiff.grad(
                lambda d: self.loss_of(self.problem.delta.edit(d).then(moved)), self.origin
            ).detach()

        still = slope(0.0)
        condition = float((slope(size) - still).norm() / (size * still.norm()).clamp(min=unit))
        share = _SAFETY * unit * (len(self.backbone.layers) + 2) * max(1.0, condition)
        if not share < 0.1:
            kind = str(self.backbone.dtype).removeprefix("torch.")
            raise ValueError(f"rounding in {kind} leaves no digits to compare; compute in a wider type.")
        return share

    def loss(self, delta: Tensor) -> Tensor:
        """Return the loss on a few training examples."""
        return self.problem.loss(delta, self.batch, self.labels)

    @cached_property
    def gradient(self) -> Tensor:
        """∇loss at δ = 0."""
        return autodiff.grad(self.loss, self.origin).detach()

    def loss_of(self, edit: Edit) -> Tensor:
        """Return the loss on the same examples with another edit in the place of δ."""
        return self.problem.loss_function.mean(self.logits_of(edit), self.labels)

    def logits_of(self, edit: Edit) -> Tensor:
        """Return the logits behind it."""
        return self.problem.read(self.backbone.hidden_states(self.batch, edit), self.batch, edit)

    @cached_property
    def states(self) -> list[Tensor]:
        """x_0, ..., x_T of one text."""
        with torch.no_grad():
            states = [widened(self.backbone.embed(self.text))]
            for t in range(len(self.backbone.layers)):
                states.append(self.backbone.step(t, states[-1], self.text))
        return [x.detach() for x in states]

    @cached_property
    def head(self) -> dict[str, np.ndarray]:
        """Queries, keys and values of the first head of the middle layer on one text, each (T, e)."""
        kept: dict[str, Tensor] = {}

        def keep(attend: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            kept.update(q=q, k=k, v=v)
            return attend(q, k, v, mask)

        with torch.no_grad():
            edit = Edit(attention={self.layer: keep})
            self.backbone.step(self.layer, self.states[self.layer], self.text, edit)
        return {name: x[0, 0].double().cpu().numpy() for name, x in kept.items()}

    def weight(self, part: Any) -> tuple[str, Tensor]:
        """Return the name and the matrix (out, in) of a part of the middle layer."""
        name = self.backbone.module_name(self.layer, part) + ".weight"
        return name, widened(self.backbone.model.get_parameter(name).detach())

    def watched(self, module: Any) -> tuple[Tensor, Tensor]:
        """Return what goes into and comes out of a module of the middle layer on one text."""
        kept: list[tuple[Tensor, Tensor]] = []
        handle = module.register_forward_hook(lambda _m, args, out: kept.append((args[0], out)))
        try:
            with torch.no_grad():
                self.backbone.step(self.layer, self.states[self.layer], self.text)
        finally:
            handle.remove()
        return kept[0]


def operator_norm(
    f: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, steps: int = 8
) -> tuple[float, Tensor]:
    """Return a lower estimate of the norm of df/dx at x, and its direction, by power iteration."""
    direction, value = start / start.norm(), 0.0
    _, pull = autodiff.vjp(f, x)
    for _ in range(steps):
        _, pushed = autodiff.jvp(f, x, direction)
        value = float(pushed.norm())
        back = pull(pushed)
        direction = back / back.norm()
    return value, direction
