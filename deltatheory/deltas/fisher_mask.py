"""FISH mask (Sung et al. 2021): tune the entries of θ with the largest Fisher information."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.coordinates import Coordinates
from deltatheory.deltas.subspace import scope_names

__all__ = ["FisherMask", "diagonal_fisher"]


def diagonal_fisher(gradients: Iterable[Float[Tensor, " D"]]) -> Float[Tensor, " D"]:
    """Return the diagonal of the empirical Fisher information, (1/N) Σ g_i² (Sung et al. 2021, section 3).

    The square is not additive, so each g_i is the gradient of one example's loss; `FullFineTuning` with the
    same scope has them in the order that `FisherMask` expects.

    Args:
        gradients: g_1, ..., g_N; an iterator is used up one at a time.

    Raises:
        ValueError: for no gradient.

    >>> import torch
    >>> diagonal_fisher([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])])
    tensor([5., 2.])
    """
    total, count = None, 0
    for gradient in gradients:
        square = gradient.detach().square()
        total, count = square if total is None else total.add_(square), count + 1
    if total is None:
        raise ValueError("gradients=[]: give at least one.")
    return total / count


class FisherMask(Delta):
    """θ = θ₀ + Eδ, where E puts δ on the entries with the highest scores (Sung et al. 2021, section 3).

    Give one of `count` and `fraction`, or the entries themselves as `indices`.

    Args:
        backbone: what it changes.
        count: number of entries to tune.
        fraction: the same as a share of the scope's D entries, rounded, at least one.
        scores: shape (D,), the scope's parameters in the model's order (see `diagonal_fisher`), or name ↦
            tensor of the parameter's shape, where parameters without one score 0; by default |θ₀|.
        indices: entries in 0..D-1.
        scope: "blocks" or "all", as in `Subspace`.

    Raises:
        ValueError: for not exactly one of count, fraction and indices, a value outside its range, or scores
            that are not finite, name no parameter of the scope, or have a wrong shape.
    """

    name: ClassVar[str] = "fisher-mask"
    family: ClassVar[str] = "specification"
    formula: ClassVar[str] = "θ = θ₀ + Eδ"
    acts: ClassVar[str] = "chosen entries of the parameters of the scope"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"count": 400}, {"count": 40, "scope": "all"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        count: int | None = None,
        fraction: float | None = None,
        scores: Tensor | Mapping[str, Tensor] | None = None,
        indices: Sequence[int] | None = None,
        scope: str = "blocks",
    ) -> None:
        super().__init__(backbone)
        self.scope, self._by_magnitude = scope, scores is None and indices is None
        self._origin = {n: backbone.model.get_parameter(n).detach() for n in scope_names(backbone, scope)}
        D = sum(p.numel() for p in self._origin.values())
        if sum(x is not None for x in (count, fraction, indices)) != 1:
            raise ValueError(
                f"count={count}, fraction={fraction}, indices={indices}: give exactly one of the three."
            )
        if indices is not None:
            if scores is not None:
                raise ValueError("scores: not with indices, which choose the entries already.")
            chosen = torch.tensor(sorted(set(indices)), dtype=torch.long)
            if len(chosen) != len(indices) or not len(chosen) or chosen[0] < 0 or chosen[-1] >= D:
                raise ValueError(f"indices: must be at least one, distinct, and lie in 0..{D - 1}.")
        else:
            if fraction is not None:
                if not 0 < fraction <= 1:
                    raise ValueError(f"fraction={fraction}: must lie in (0, 1].")
                count = max(1, round(fraction * D))
            if count is None or not 1 <= count <= D:
                raise ValueError(f"count={count}: must lie in 1..{D}, the entries of scope={scope!r}.")
            # Sorted stably: the entries chosen among equal scores are the same on every machine.
            order = self._scores(scores).argsort(descending=True, stable=True)
            chosen = order[:count].sort().values
        self.indices = chosen.to(backbone.device)
        self.size = len(chosen)
        self._places: dict[str, tuple[Tensor, slice]] = {}
        start = 0
        for name, p in self._origin.items():
            bounds = torch.tensor([start, start + p.numel()], device=backbone.device)
            low, high = torch.searchsorted(self.indices, bounds).tolist()
            if low < high:
                self._places[name] = self.indices[low:high] - start, slice(low, high)
            start += p.numel()

    def _scores(self, scores: Tensor | Mapping[str, Tensor] | None) -> Tensor:
        origin = self._origin
        if scores is None:
            scores = {name: p.abs() for name, p in origin.items()}
        if isinstance(scores, Mapping):
            for name, score in scores.items():
                if name not in origin:
                    raise ValueError(f"scores has {name!r}, which is no parameter of scope={self.scope!r}.")
                if score.shape != origin[name].shape:
                    shape, allowed = tuple(score.shape), tuple(origin[name].shape)
                    raise ValueError(f"scores[{name!r}].shape={shape}: allowed is {allowed}.")
            scores = Coordinates({n: tuple(p.shape) for n, p in origin.items()}).join(
                {n: scores.get(n, torch.zeros_like(p)) for n, p in origin.items()}
            )
        D = sum(p.numel() for p in origin.values())
        if scores.shape != (D,):
            raise ValueError(f"scores.shape={tuple(scores.shape)}: allowed is ({D},).")
        if not scores.isfinite().all():
            raise ValueError("scores: must be finite.")
        return scores

    def parameters(self, delta: Float[Tensor, " m"]) -> dict[str, Tensor]:
        """Return those parameters that have a chosen entry, θ₀ + Eδ."""
        return {
            name: origin.to(delta.dtype).reshape(-1).index_add(0, index, delta[part]).view_as(origin)
            for name, (index, part) in self._places.items()
            for origin in [self._origin[name]]
        }

    def specification(self) -> dict:
        """Name, scope, and the count (by magnitude) or the entries themselves (by given scores)."""
        chosen = {"count": self.size} if self._by_magnitude else {"indices": self.indices.tolist()}
        return {"delta": self.name, "scope": self.scope, **chosen}
