"""A classification problem on some examples as a controlled system: layers are time, δ is the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from deltatheory import autodiff
from deltatheory._shapes import Float, Int
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.backbones.edit import editing
from deltatheory.control.systems.system import System
from deltatheory.problems import ClassificationProblem

__all__ = ["LayeredSystem"]

# Where the support of a step is looked for: factors of a random δ. A unit that is off at one of them (a
# closed gate, a saturated softmax, a ReLU) is on at another; at the last two a ReLU has both signs.
_FACTORS = (0.02, 0.3, 1.0, -1.0)
# Examples that a block is probed on, the longest: relative positions may act at some distance only. Embedding
# and head see all.
_PROBED = 4


class _Readout(nn.Module):
    """What lies between the last block and the pooling, as a module whose parameters can be replaced."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model
        self._readout = backbone.readout

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        return self._readout(x, batch)


class LayeredSystem(System):
    """x_1 = embed(u_0), x_{t+1} = block_t(x_t, u_t) for t = 1 .. L, x_T = head(readout(x_{L+1}), u_{L+1}).

    T = L + 2 for L blocks. x_0 is empty, x_1 .. x_{L+1} are the hidden states of all examples, prompt
    included, and x_T are the logits, shape (B, C); Φ is their mean loss. u_t holds those
    coordinates of δ that act in step t, as `coordinates(t)` lists them. A coordinate that acts in several
    steps (a subspace, a tied weight) has a copy in each: the gradient in δ is the sum over its copies
    (`join`), and only controls whose copies agree are a δ (`value_of`). Coordinates that act in no step on
    these examples, such as the embedding of a word that is not there, belong to no u_t.

    With an energy weight r the running costs are ℓ_t = ½ r Σ_i u_{t,i}² / n_i, where n_i is the number of
    copies, so that they sum to ½ r |δ|² over the coordinates that act.

    The supports are found once, here, from derivatives of the steps at random δ, and the steps are held
    against `problem.logits` on a few examples. Each block evaluated counts as its share of a forward pass
    in `problem.passes`; backward passes are counted by those who take them.

    Args:
        problem: its backbone, head and delta.
        indices: of the examples; all of the split by default.
        split: where the examples are from.
        energy_weight: r, at least 0.

    Attributes:
        problem: as given.
        batch: the B examples, without a prompt.
        labels: shape (B,).
        energy_weight: r.
        copies: shape (m,): in how many steps each coordinate of δ acts.

    Raises:
        ValueError: for no example, an index outside the split, a negative energy, states that are not finite,
            a model that is spread over devices, or a delta that no cut at the layers expresses, because it
            acts on a block as a whole (ladder side-tuning).
    """

    problem: ClassificationProblem
    batch: Batch
    labels: Int[Tensor, " B"]
    copies: Int[Tensor, " m"]

    def __init__(
        self,
        problem: ClassificationProblem,
        indices: Sequence[int] | None = None,
        *,
        split: Literal["train", "dev", "test"] = "train",
        energy_weight: float = 0.0,
    ) -> None:
        if not energy_weight >= 0:
            raise ValueError(f"energy_weight={energy_weight}: must be at least 0.")
        problem.backbone.check_on_one_device("LayeredSystem")
        examples = getattr(problem, split)
        chosen = range(len(examples)) if indices is None else list(indices)
        if not chosen or not all(0 <= i < len(examples) for i in chosen):
            raise ValueError(f"indices={indices!r}: give at least one of 0..{len(examples) - 1}.")
        self.problem, self.energy_weight = problem, energy_weight
        self.batch, self.labels = problem.batch(examples, chosen)
        layers = len(problem.backbone.layers)
        self.horizon = layers + 2
        edit = problem.delta.edit(problem.delta.initial())
        self._refuse_whole_blocks(edit)
        self._prompt = 0 if edit.prompt is None else len(edit.prompt)
        self._prompted = self._with_prompt(self.batch)
        self._readout = _Readout(problem.backbone)
        longest = self.batch.mask.sum(1).argsort(descending=True, stable=True)
        # A decoder that has read little shows a block few states: each is then drawn several times.
        few = self.batch.select(longest[:_PROBED].repeat(1 if self.batch.decoder is None else _PROBED))
        self._coordinates = [self._support(t, few) for t in range(self.horizon)]
        self.copies = torch.zeros(self.dimension, dtype=torch.long, device=self.batch.mask.device)
        for where in self._coordinates:
            self.copies[where] += 1
        self._check(few)

    def _refuse_whole_blocks(self, edit: Edit) -> None:
        backbone = self.problem.backbone
        blocks = {id(layer) for layer in backbone.layers}
        for name in [*edit.inputs, *edit.outputs]:
            if id(backbone.model.get_submodule(name)) in blocks:
                raise ValueError(
                    f"delta={self.problem.delta.name!r}: changes the block {name!r} as a whole, with a state "
                    "of its own beside x_t; take a delta that acts inside the blocks, or leave that part out."
                )

    def _with_prompt(self, batch: Batch) -> Batch:
        return self.problem.backbone.prompted(batch, self._prompt) if self._prompt else batch

    @property
    def names(self) -> tuple[str, ...]:
        """What each step is: "embedding", "block 0", ..., "head"."""
        return ("embedding", *(f"block {i}" for i in range(self.horizon - 2)), "head")

    # The coordinates of δ and their copies.

    @property
    def dimension(self) -> int:
        """m, the number of coordinates of δ."""
        return self.problem.delta.size

    def shares(self, t: int) -> bool:
        """Return whether a coordinate of u_t acts in another step too."""
        return bool((self.copies[self._coordinates[t]] > 1).any())

    def coordinates(self, t: int) -> Int[Tensor, " m_t"]:
        """Return which coordinates of δ act in step t, in the order in which u_t holds them."""
        return self._coordinates[t]

    def split(self, value: Float[Tensor, " m"]) -> list[Tensor]:
        """Return the controls u_0 .. u_{T-1} of a δ."""
        return [value[where] for where in self._coordinates]

    def join(self, parts: Sequence[Tensor]) -> Float[Tensor, " m"]:
        """Return Σ_t of parts shaped as controls, each put where it acts: the adjoint of `split`.

        Of the ∂J/∂u_t it makes ∂J/∂δ (Li et al. 2017; a shared control sums over t).
        """
        total = torch.zeros_like(self.problem.delta.initial())
        for where, part in zip(self._coordinates, parts, strict=True):
            total = total.index_add(0, where, part)
        return total

    def value_of(self, controls: Sequence[Tensor]) -> Float[Tensor, " m"]:
        """Return the δ of controls: the inverse of `split`, with 0 where nothing acts.

        Raises:
            ValueError: if the copies of a coordinate differ.
        """
        delta = self.join(controls) / self.copies.clamp(min=1)
        apart = max(
            float((u - v).abs().max()) if u.numel() else 0.0
            for u, v in zip(self.split(delta), controls, strict=True)
        )
        if not apart <= 1e-5 * max(1.0, float(delta.abs().max())):
            raise ValueError(
                f"controls: copies of one coordinate are up to {apart:.2g} apart: they are no δ."
            )
        return delta

    def _support(self, t: int, few: Batch) -> Int[Tensor, " m_t"]:
        """Find the coordinates whose derivative in step t is not 0 at one of a few random δ."""
        inner = 0 < t < self.horizon - 1
        batch = self._with_prompt(few if inner else self.batch)
        zero = self.problem.delta.initial()
        generator = torch.Generator().manual_seed(t)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(zero)

        delta, acts = normal(*zero.shape), torch.zeros_like(zero, dtype=torch.bool)
        for factor in _FACTORS:
            x = normal(len(batch), batch.width, self.problem.backbone.hidden_size)
            out, pull = autodiff.vjp(
                lambda y, x=x: self._step(t, x, y, few if inner else self.batch), factor * delta
            )
            gradient = pull(normal(*out.shape))
            acts |= gradient.isfinite() & (gradient != 0)
        if inner:
            self.problem.count(len(_FACTORS) * len(few) / (self.horizon - 2), forward=1.0, backward=1.0)
        return acts.nonzero().flatten()

    def _check(self, few: Batch) -> None:
        """Hold the steps against the whole network at a random δ."""
        zero = self.problem.delta.initial()
        generator = torch.Generator().manual_seed(self.horizon)
        delta = 0.1 * torch.randn(zero.shape, generator=generator, dtype=torch.float32).to(zero)
        with torch.no_grad():
            x = zero[:0]
            for t, where in enumerate(self._coordinates):
                x = self._step(t, x, torch.zeros_like(zero).index_copy(0, where, delta[where]), few)
                if not x.isfinite().all():
                    raise ValueError(
                        f"problem: what comes out of {self.names[t]!r} is not finite; look for NaN in the "
                        "weights, or compute in a type with a wider range."
                    )
            expected = self.problem.logits(delta, few)
        self.problem.count(len(few), forward=2.0)
        scale = float(expected.abs().max())
        error = float((x - expected).abs().max())
        if not error <= torch.finfo(self.problem.backbone.dtype).eps ** 0.5 * max(scale, 1.0):
            raise ValueError(
                f"delta={self.problem.delta.name!r}: cut at the layers, the logits are {error:.2g} off "
                f"those of the whole network (up to {scale:.2g}); it acts on something that lies in no step."
            )

    # The system.

    def initial_state(self) -> Tensor:
        """Return x_0, which is empty: the texts are part of the first step."""
        return self.problem.delta.initial()[:0]

    def zero_controls(self) -> list[Tensor]:
        """Return the controls of δ = 0."""
        return self.split(self.problem.delta.initial())

    def step(self, t: int, x: Tensor, u: Tensor) -> Tensor:
        """Return x_{t+1}; equal to what the whole network computes at that place."""
        self.count(t, forward=1.0)
        delta = torch.zeros_like(self.problem.delta.initial()).index_copy(0, self._coordinates[t], u)
        return self._step(t, x, delta, self.batch)

    def _step(self, t: int, x: Tensor, delta: Tensor, batch: Batch) -> Tensor:
        backbone, edit = self.problem.backbone, self.problem.delta.edit(delta)
        if t == 0:
            return backbone.embed(batch, edit).to(backbone.wide_dtype)
        if t < self.horizon - 1:
            prompted = self._prompted if batch is self.batch else self._with_prompt(batch)
            return backbone.step(t - 1, x, prompted, edit)
        with editing(backbone.model, Edit(inputs=edit.inputs, terms=edit.terms, outputs=edit.outputs), {}):
            new = {f"model.{name}": value for name, value in edit.parameters.items()}
            hidden = autodiff.functional_call(self._readout, new, (x, batch))
        return self.problem.read(hidden, batch, edit)

    def running_cost(self, t: int, x: Tensor, u: Tensor) -> Float[Tensor, ""]:
        """Return ½ r Σ_i u_i² / n_i, n_i the copies of coordinate i."""
        return 0.5 * self.energy_weight * (u.square() / self.copies[self._coordinates[t]]).sum()

    def terminal_cost(self, x: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
        """Return the mean loss of the logits."""
        return self.problem.loss_function.mean(x, self.labels)

    @property
    def examples(self) -> int:
        """B."""
        return len(self.batch)

    @property
    def passes(self) -> float:
        """Forward-equivalents that the problem has spent so far."""
        return self.problem.passes

    def count(self, t: int | None = None, *, forward: float = 0.0, backward: float = 0.0) -> None:
        """Count passes over the examples in `problem.passes`, of all steps or of step t alone.

        Each block is one L-th of a pass; embedding and head are counted as nothing.
        """
        share = 1.0 if t is None else (0 < t < self.horizon - 1) / (self.horizon - 2)
        self.problem.count(share * len(self.batch), forward=forward, backward=backward)
