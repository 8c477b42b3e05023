"""What no prefix of k tokens can do: the bound of theorem T39, for one head and for those of block 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Batch, Edit
from deltatheory.backbones.edit import Attend

__all__ = ["FirstBlockBound", "PrefixBound", "first_block_bound", "prefix_reach_bound"]


@dataclass(frozen=True, eq=False)
class PrefixBound:
    """What k prefix tokens of bounded norm can do to one output of one attention head.

    Attributes:
        output: shape (e,), o: the head's output without prefix, in float64.
        share: λ_max, the most attention that the prefix can take.
        radius: λ_max σ_max(W_v) M: the component orthogonal to o of an output is at most this long.
        rounding: error per unit roundoff: an output that the head computes in a type of unit u, and this
            bound in float64, are together off by less than u times this.
    """

    output: Float[Tensor, " e"]
    share: float
    radius: float
    rounding: float

    def ratio(self, target: Float[Tensor, " e"]) -> float:
        """Return ‖y_⊥‖ / radius, y_⊥ the component of a target orthogonal to o; no output has more than 1."""
        return self._across(target) / self.radius

    def unreachable(self, target: Float[Tensor, " e"]) -> bool:
        """Return whether the bound rules the target out, beyond what rounding may do; False says nothing.

        The target counts as computed in its own dtype, as the head would.
        """
        unit = torch.finfo(target.dtype).eps
        own = len(target) * float(target.double().norm())
        return self._across(target) > self.radius + unit * (self.rounding + own)

    def _across(self, target: Float[Tensor, " e"]) -> float:
        y, o = target.double(), self.output.double()
        if y.shape != o.shape or not y.isfinite().all():
            raise ValueError(f"target: allowed are {len(o)} finite numbers, its shape is {tuple(y.shape)}.")
        o = o / o.norm().clamp(min=torch.finfo(o.dtype).tiny)
        return float((y - (y @ o) * o).norm())


def prefix_reach_bound(
    query: Float[Tensor, " d"],
    keys: Float[Tensor, "n d"],
    values: Float[Tensor, "n e"],
    key_weight: Float[Tensor, "d h"],
    value_weight: Float[Tensor, "e h"],
    *,
    length: int,
    norm: float,
) -> PrefixBound:
    """Bound the outputs of one head in one layer over all prefixes of k tokens u_i with ‖u_i‖ <= M.

    The prefix has keys W_k u_i and values W_v u_i. With α = ‖W_kᵀ q‖ M/√d and g = Σ_j exp(q·k_j/√d) the
    prefix takes λ <= k e^α/(k e^α + g) of the attention, the output is (1 - λ) o + λ Σ_i w_i W_v u_i with
    Σ w_i = 1, so it lies within λ σ_max(W_v) M of (1 - λ) o (after Bhargava et al. 2023, theorem 1, whose
    k e^α/g is larger). It holds for one head whose query, keys and values do not depend on the prefix: for
    the first layer of a network, not for a stack.

    >>> zero, two = torch.zeros(2), torch.eye(2)
    >>> bound = prefix_reach_bound(zero, torch.ones(3, 2), torch.ones(3, 2), two, two, length=1, norm=2.0)
    >>> round(bound.share, 6), round(bound.radius, 6)  # q = 0 attends alike to 1 + 3 tokens
    (0.25, 0.5)

    Args:
        query: q.
        keys: k_j of the tokens that q sees.
        values: v_j.
        key_weight: W_k.
        value_weight: W_v.
        length: k.
        norm: M.

    Raises:
        ValueError: for a length below 1, a norm that is not positive and finite, or entries that are not
            finite.
    """
    check_number("length", length, whole=True, least=1)
    check_number("norm", norm, above=0)
    given = {"query": query, "keys": keys, "values": values}
    for name, part in (given | {"key_weight": key_weight, "value_weight": value_weight}).items():
        if not part.isfinite().all():
            raise ValueError(f"{name}: it has NaN or infinite entries.")
    q, K, V, Wk, Wv = (part.double() for part in (query, keys, values, key_weight, value_weight))
    root = math.sqrt(len(q))
    scores = K @ q / root
    alpha = float((Wk.T @ q).norm()) * norm / root
    share = float(torch.sigmoid(math.log(length) + alpha - scores.logsumexp(0)))
    radius = share * float(torch.linalg.matrix_norm(Wv, 2)) * norm
    # A sum of m products is off by m units of its terms, and with a score s its weight by s m; twice, for the
    # bound.
    terms = len(q) + Wk.shape[1] + len(K) + len(Wv) + length + 8
    largest = float(q.norm()) / root * max(float(K.norm(dim=1).max()), float(Wk.norm()) * norm)
    rounding = 2 * terms * (3 + 2 * largest) * max(float(V.norm(dim=1).max()), float(Wv.norm()) * norm)
    return PrefixBound(scores.softmax(0) @ V, share, radius, rounding)


@dataclass(frozen=True)
class FirstBlockBound:
    """What prefixes of one length can do, at most, to the heads of the first block.

    Attributes:
        length: k.
        share: of a head's attention that the prefix can take: least, median and most over heads and texts.
        radius: how far it can move the head's output across its former direction, over that output's length:
            the same.
    """

    length: int
    share: tuple[float, float, float]
    radius: tuple[float, float, float]


@torch.no_grad()
def first_block_bound(
    backbone: Backbone, batch: Batch, longest: Float[Tensor, "2 heads"], lengths: list[int]
) -> list[FirstBlockBound]:
    """Return the bound of T39 for the query of each text's last token, in every head of the first block.

    The query and the text's own keys and values do not depend on a prefix there, and only there.

    Args:
        backbone: frozen.
        batch: texts.
        longest: norms that keys, and values, of a prefix have at most, by key head.
        lengths: k.

    Returns:
        One for each length; none where scores are more than q·k times a constant (relative positions, caps).
    """
    module: Any = backbone.attention_modules[0]
    scale = getattr(module, "scaling", None)
    if scale is None or getattr(module, "attn_logit_softcapping", None) or backbone.position_table(0):
        return []
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    backbone.hidden_states(batch, Edit(attention={0: partial(_seen, seen)}))
    queries, keys, values = (x.double() for x in seen[0])
    size, group = queries.shape[-1], queries.shape[1] // keys.shape[1]
    one, found = torch.eye(size, dtype=torch.float64, device=queries.device), []
    for length in lengths:
        heads = []
        for i, tokens in enumerate(batch.mask.long().sum(1).tolist()):
            for h in range(queries.shape[1]):
                key, value = longest[:, h // group].tolist()
                bound = prefix_reach_bound(
                    queries[i, h, tokens - 1] * scale * math.sqrt(size),
                    keys[i, h // group, :tokens],
                    values[i, h // group, :tokens],
                    key * one,
                    value * one,
                    length=length,
                    norm=1.0,
                )
                heads.append((bound.share, bound.radius / float(bound.output.norm())))
        ends = torch.tensor(heads).double().quantile(torch.tensor([0.0, 0.5, 1.0]).double(), 0).T.tolist()
        found.append(FirstBlockBound(length, *map(tuple, ends)))
    return found


def _seen(
    seen: list[tuple[Tensor, Tensor, Tensor]], attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> Tensor:
    seen.append((q, k, v))
    return attend(q, k, v, mask)
