"""Policies of hidden states: what is added to the state of a token behind a block while text is generated.

All are one law, x ← x + u(x), at some blocks and for some tokens of a text:

- `AddedDirection`: u is a fixed vector.
- `HalfSpaces`: the least |u| with which probes read what they should (one half-space: in closed form).
- `ScoreFeedback`: u = f(e) g, e the error of what a direction reads; PID and LQR tracking differ in f and g.
- `ValueGuidance`: u climbs a value function that is not linear.
- `LowRankIntervention`: u replaces what a few directions read by a learned linear map of the state.

`CacheEdit` changes the keys and values of a prompt instead, once; a `Prefix` stands before those of all
tokens, and a `TunedDelta` is a model that was tuned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Bool, Float
from deltatheory.backbones import Edit

__all__ = [
    "AddedDirection",
    "CacheEdit",
    "GenerationPolicy",
    "HalfSpaces",
    "LayerPolicy",
    "Memory",
    "ScoreFeedback",
    "StatePolicy",
    "Tokens",
    "ValueGuidance",
    "blocks_of",
    "check_tokens",
    "check_where",
    "projection",
]

Tokens = Literal["all", "prompt", "answer", "last"]
_MOST = 6  # half-spaces at a block: projection looks at every set of them
_SLACK = 1e-9
_STEPS = 3  # up a value function
_PID = ("proportional", "integral", "token_integral", "derivative")


def check_tokens(tokens: Any) -> None:
    """Refuse what is no rule for tokens.

    Raises:
        ValueError: with those there are.
    """
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens={tokens!r}: allowed are {', '.join(get_args(Tokens))}.")


def blocks_of(model: Mapping[str, Any], tokens: Tokens) -> range:
    """Return the numbers of the blocks that the tokens of a rule pass.

    A prompt is read by the encoder, where there is one, and its answer by the decoder.

    >>> blocks_of({"blocks": 5, "encoder_blocks": 2}, "prompt"), blocks_of({"blocks": 5}, "prompt")
    (range(0, 2), range(0, 5))

    Args:
        model: `fingerprint` of a model.
        tokens: the rule; "all" tokens of an encoder-decoder pass one of its stacks or the other.
    """
    encoder, blocks = model.get("encoder_blocks", 0), model["blocks"]
    if not encoder or tokens == "all":
        return range(blocks)
    return range(encoder) if tokens == "prompt" else range(encoder, blocks)


def check_where(model: Mapping[str, Any], layers: Sequence[int], tokens: Tokens) -> None:
    """Refuse blocks that are not there, or that none of the tokens of a rule passes.

    Raises:
        ValueError: with the first of them.
    """
    if not layers or list(layers) != sorted(set(layers)):
        raise ValueError(f"layers={tuple(layers)}: give ascending numbers, at least one.")
    passed = blocks_of(model, tokens)
    for t in layers:
        check_number("layer", t, whole=True, least=0, most=model["blocks"] - 1)
        if t not in passed:
            raise ValueError(
                f"layer={t}: no token of tokens={tokens!r} passes it; blocks {passed.start} to "
                f"{passed.stop - 1} are the {'decoder' if passed.start else 'encoder'}'s, where they do."
            )


@dataclass(eq=False)
class Memory:
    """What a policy has left at earlier blocks and tokens.

    Attributes:
        blocks: of this pass; empty at its first block.
        tokens: of those that a cache holds, a row a text; empty where a pass begins with the first token.
    """

    blocks: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[tuple[str, int], Tensor] = field(default_factory=dict)


class GenerationPolicy:
    """What acts on a model while it generates.

    Attributes:
        model: `fingerprint` of the model that it was made for.
    """

    model: Mapping[str, Any]

    def edit(self) -> Edit:
        """Return what every pass does differently."""
        return Edit()


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerPolicy(GenerationPolicy, ABC):
    """A policy that is tensors with a row for each of some layers.

    Attributes:
        layers: numbers of the n blocks where it does, ascending; those of a decoder follow its encoder's.
        model: `fingerprint` of the model that it was made for.
    """

    kind: ClassVar[str]
    law: ClassVar[str]
    layers: tuple[int, ...]
    model: Mapping[str, Any]

    def __post_init__(self) -> None:
        width = self.model["hidden_size"]
        check_where(self.model, self.layers, self.rule())
        for name, tensor in self.tensors().items():
            if len(tensor) != len(self.layers) or not tensor.isfinite().all():
                raise ValueError(f"{name}: must be finite, with a row for each of the layers {self.layers}.")
            if name in ("direction", "gain", "source") and tensor.shape[-1] != width:
                raise ValueError(f"{name}: is for states of {tensor.shape[-1]}, and the model has {width}.")

    def rule(self) -> Tokens:
        """Return which tokens must pass its layers."""
        return "all"

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name, each with a row a layer."""

    def numbers(self) -> dict[str, Any]:
        """Return its other settings by name."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class StatePolicy(LayerPolicy):
    """x ← x + u(x) behind some blocks, for some tokens.

    Attributes:
        tokens: which: "all"; those of the "prompt"; those of the "answer"; or each token in its turn as the
            "last", from which the next is read: the end of the prompt and the tokens of the answer. A prompt
            passes the encoder of an encoder-decoder; what its decoder reads begins with the end of a prompt.
    """

    tokens: Tokens = "last"

    def __post_init__(self) -> None:
        check_tokens(self.tokens)
        super().__post_init__()

    def rule(self) -> Tokens:
        """Return which tokens it moves."""
        return self.tokens

    def numbers(self) -> dict[str, Any]:
        """Return its other settings by name."""
        return {"tokens": self.tokens}

    @abstractmethod
    def correction(
        self, i: int, x: Float[Tensor, "B T H"], where: Bool[Tensor, "B T"], memory: Memory
    ) -> Float[Tensor, "B T H"]:
        """Return u behind the i-th of the layers; what is not `where` is not used.

        A token's u depends on its own states and on tokens before it, never on how many pass at once: so a
        cache changes no text.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class AddedDirection(StatePolicy):
    """u = g, the same for all tokens.

    Differences of means at a block are ActAdd's and contrastive activation addition's (Turner et al. 2023,
    arXiv 2308.10248), probe directions those of inference-time intervention (Li et al. 2023, arXiv
    2306.03341, there at the output of heads), leading directions of differences those of representation
    engineering (Zou et al. 2023, arXiv 2310.01405): the three are described from memory.

    Attributes:
        gain: g of every layer.
    """

    kind: ClassVar[str] = "added-direction"
    law: ClassVar[str] = "x + gain[i]"
    gain: Float[Tensor, "n H"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the vectors that are added."""
        return {"gain": self.gain}

    def correction(self, i: int, x: Tensor, where: Tensor, memory: Memory) -> Tensor:
        """Return g."""
        return self.gain[i].to(x).expand_as(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreFeedback(StatePolicy):
    """u = (P e + I Σ e over the blocks + J mean of e over the tokens so far + D (e - e before)) g.

    e = c - d·x is the error of what a direction reads. PID steering (Nguyen et al., arXiv 2510.04309) has P,
    I and D over the blocks, with errors of means found beforehand; here they are the token's own, and the
    mean over the tokens so far is a second integral that cannot wind up. With P = 1 alone and g = (S + r I)⁻¹
    S v, S the Riccati matrix of the blocks that follow and v a gap, it is LQR tracking (Skifstad, Yang &
    Chou, arXiv 2604.19018) in low rank.

    Attributes:
        direction: d of every layer.
        target: c of every layer.
        gain: g of every layer.
        proportional: P.
        integral: I, over the blocks of a pass.
        token_integral: J, over tokens.
        derivative: D, from block to block.
    """

    kind: ClassVar[str] = "score-feedback"
    law: ClassVar[str] = (
        "e = target[i] - direction[i]·x; x + (proportional e + integral Σ_layers e + token_integral "
        "mean_tokens e + derivative (e - e of the layer before)) gain[i]"
    )
    direction: Float[Tensor, "n H"]
    target: Float[Tensor, " n"]
    gain: Float[Tensor, "n H"]
    proportional: float = 1.0
    integral: float = 0.0
    token_integral: float = 0.0
    derivative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _PID:
            check_number(name, getattr(self, name))

    def tensors(self) -> dict[str, Tensor]:
        """Return what is read, what it should be, and what is added."""
        return {"direction": self.direction, "target": self.target, "gain": self.gain}

    def numbers(self) -> dict[str, Any]:
        """Return which tokens, P, I, J and D."""
        return {**super().numbers(), **{name: getattr(self, name) for name in _PID}}

    def correction(self, i: int, x: Tensor, where: Tensor, memory: Memory) -> Tensor:
        """Return f(e) g."""
        e = torch.where(where, float(self.target[i]) - x @ self.direction[i].to(x), 0.0)
        u = self.proportional * e
        if self.integral:
            memory.blocks["sum"] = memory.blocks.get("sum", torch.zeros_like(e)) + e
            u = u + self.integral * memory.blocks["sum"]
        if self.token_integral:
            total, count = (
                memory.tokens.get((name, i), torch.zeros_like(e[:, 0]))[:, None] + values.cumsum(1)
                for name, values in (("errors", e), ("count", where.to(e)))
            )
            memory.tokens["errors", i], memory.tokens["count", i] = total[:, -1], count[:, -1]
            u = u + self.token_integral * total / count.clamp(min=1)
        if self.derivative:
            u = u + self.derivative * (e - memory.blocks.get("error", e))
            memory.blocks["error"] = e
        return u[..., None] * self.gain[i].to(x)


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueGuidance(StatePolicy):
    """u from a few steps max(0, c - V(x)) ∇V/|∇V|² up a value function V(x) = a + w·relu(W x + b).

    Value-function guidance after RE-Control (Kong et al. 2024, arXiv 2406.05954), described from memory:
    there a network learns rewards of a model's own answers, and steps have a fixed length. A linear V makes
    the step of LiSeCo.

    Attributes:
        direction: W of every layer, k features.
        offset: b.
        weight: w.
        base: a.
        target: c.
    """

    kind: ClassVar[str] = "value-guidance"
    law: ClassVar[str] = (
        f"{_STEPS} times: V = base[i] + weight[i]·relu(direction[i] x + offset[i]), g its gradient; x + "
        "max(0, target[i] - V) g/|g|²"
    )
    direction: Float[Tensor, "n k H"]
    offset: Float[Tensor, "n k"]
    weight: Float[Tensor, "n k"]
    base: Float[Tensor, " n"]
    target: Float[Tensor, " n"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the value functions and what they should say."""
        names = ("direction", "offset", "weight", "base", "target")
        return {name: getattr(self, name) for name in names}

    def correction(self, i: int, x: Tensor, where: Tensor, memory: Memory) -> Tensor:
        """Return the sum of the steps."""
        directions, offset, weight = (one[i].to(x) for one in (self.direction, self.offset, self.weight))
        u = torch.zeros_like(x)
        for _ in range(_STEPS):
            features = (x + u) @ directions.T + offset
            value = float(self.base[i]) + features.relu() @ weight
            gradient = ((features > 0).to(x) * weight) @ directions
            size = gradient.square().sum(-1).clamp(min=torch.finfo(x.dtype).tiny)
            u = u + ((float(self.target[i]) - value).clamp(min=0) / size)[..., None] * gradient
        return u


@dataclass(frozen=True, eq=False, kw_only=True)
class CacheEdit(LayerPolicy):
    """Once, when a prompt has been read: its last token's keys and values in the cache ← themselves + S.

    Cache steering (Belitsky et al. 2025, arXiv 2507.08799), described from memory. The first token of the
    answer has been read by then; those that follow attend to what was edited, and cost nothing more. The
    prompt of an encoder-decoder lies in the cache of its decoder's attention to the encoder.

    Attributes:
        key: S of the keys of every layer, as the cache holds them, for h heads of width e.
        value: S of the values.
    """

    kind: ClassVar[str] = "cache-edit"
    law: ClassVar[str] = (
        "once, behind the prompt: cache.layers[layers[i]].keys[:, :, last token] += key[i], .values alike; "
        "of an encoder-decoder cache.cross_attention_cache.layers[layers[i] - encoder_blocks]"
    )
    key: Float[Tensor, "n h e"]
    value: Float[Tensor, "n h e"]

    def tensors(self) -> dict[str, Tensor]:
        """Return what is added."""
        return {"key": self.key, "value": self.value}

    def rule(self) -> Tokens:
        """Return the tokens that attend to a prompt's cache."""
        return "answer"


def projection(normals: Float[Tensor, "m H"], missing: Float[Tensor, "*b m"]) -> Float[Tensor, "*b H"]:
    """Return the shortest u with normals @ u >= missing, exactly, in double precision.

    u = Nᵀλ with λ >= 0 the multipliers of the active half-spaces: every independent set of them is tried, and
    the one whose u keeps the others too is the optimum (Karush, Kuhn and Tucker).

    >>> projection(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [-1.0]])).tolist()
    [[2.0, 0.0], [0.0, 0.0]]

    Args:
        normals: N, at most six.
        missing: how much each N x falls short of its bound; below 0 it does not.
    """
    n, d = normals.double(), missing.double()
    if len(n) == 1:
        return d.clamp(min=0) * (n / n.square().sum())
    gram = n @ n.T
    best, worst = torch.zeros_like(d), d.clamp(min=0).amax(-1)
    scale = _SLACK * (1 + d.abs().amax(-1))
    for size in range(1, len(n) + 1):
        for chosen in map(list, combinations(range(len(n)), size)):
            block = gram[chosen][:, chosen]
            if (worst <= scale).all():
                break
            if torch.linalg.matrix_rank(block, hermitian=True) < size:
                continue
            multipliers = torch.zeros_like(d)
            multipliers[..., chosen] = torch.linalg.solve(block, d[..., chosen, None])[..., 0]
            left = (d - multipliers @ gram).amax(-1).clamp(min=0)
            left = torch.where((multipliers >= -scale[..., None]).all(-1), left, torch.inf)
            better = (left < worst) & (worst > scale)
            best = torch.where(better[..., None], multipliers, best)
            worst = torch.where(better, left, worst)
    return best @ n


@dataclass(frozen=True, eq=False, kw_only=True)
class HalfSpaces(StatePolicy):
    """u = argmin |u| such that d_j·(x + u) >= b_j + (1 - α) h_j before, for all j.

    One half-space and α = 1 is LiSeCo (Cheng & Amo Alonso, arXiv 2405.15454), in closed form: u =
    max(0, b - d·x) d/|d|². Behind each of the layers every token's state lies in the half-space. Several are
    the quadratic program of control barrier functions, solved by their active sets. With the decay α below 1
    the barrier h_j = d_j·x - b_j may fall, or must rise, by a share α from layer to layer: h_j >= (1 - α) h_j
    of the layer before (of x itself at the first). The barriers of BarrierSteer (Tran et al., arXiv
    2602.20102) are learned networks that are merged; the linear ones here are ours.

    Attributes:
        direction: d_j of every layer, at most six.
        bound: b_j.
        decay: α, in (0, 1].
    """

    kind: ClassVar[str] = "half-spaces"
    law: ClassVar[str] = (
        "x + the shortest u with direction[i, j]·(x + u) >= bound[i, j] + (1 - decay) h_j of the layer "
        "before, h_j = direction[i, j]·x - bound[i, j] of the corrected x; for one and decay 1: x + max(0, "
        "bound[i] - direction[i]·x) direction[i]/|direction[i]|²"
    )
    direction: Float[Tensor, "n m H"]
    bound: Float[Tensor, "n m"]
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, above=0, most=1)
        if not 1 <= self.bound.shape[1] <= _MOST:
            raise ValueError(f"bound: has {self.bound.shape[1]} half-spaces; allowed are 1 to {_MOST}.")
        for t, normals, bounds in zip(self.layers, self.direction, self.bound, strict=True):
            _check_meet(t, normals, bounds)

    def tensors(self) -> dict[str, Tensor]:
        """Return normals and bounds."""
        return {"direction": self.direction, "bound": self.bound}

    def numbers(self) -> dict[str, Any]:
        """Return which tokens, and α."""
        return {**super().numbers(), "decay": self.decay}

    def correction(self, i: int, x: Tensor, where: Tensor, memory: Memory) -> Tensor:
        """Return the shortest u."""
        normals, wide = self.direction[i].to(x.device).double(), x.double()
        height = wide @ normals.T - self.bound[i].to(wide)
        if self.decay == 1:
            return projection(normals, -height).to(x.dtype)
        floor = (1 - self.decay) * memory.blocks.get("height", height)
        u = projection(normals, floor - height)
        memory.blocks["height"] = height + u @ normals.T
        return u.to(x.dtype)


def _check_meet(t: int, normals: Tensor, bounds: Tensor) -> None:
    """Refuse half-spaces without a common point."""
    gram = (normals.double() @ normals.double().T).cpu().numpy()  # a common point may be sought in their span
    if not (gram.diagonal() > 0).all():
        raise ValueError(f"direction: one at layer {t} is 0; a half-space needs a normal.")
    scale = np.sqrt(gram.diagonal())
    found = linprog(
        np.zeros(len(gram)),
        A_ub=-gram / np.outer(scale, scale),
        b_ub=-bounds.double().cpu().numpy() / scale,
        bounds=(None, None),
    )
    if found.status == 2:
        raise ValueError(
            f"bound: the half-spaces at layer {t} have no point in common; lower a bound, or leave one out."
        )
