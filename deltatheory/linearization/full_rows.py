"""Rows of J of whole parameters at δ = 0, of several texts and all outputs from one backward pass.

The pass goes through the activations alone: where y = W a, and b is the gradient of an output in y, the row
of J for W is Σ_t b_t ⊗ a_t, formed text by text in one vector that is used again. Backward passes of one
example, which form the gradient of every weight themselves, take twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.backbones import Edit
from deltatheory.deltas import Delta, WeightPlace
from deltatheory.deltas.places import parameter_places
from deltatheory.deltas.subspace import FullFineTuning
from deltatheory.linearization.sites import EditRows, Factors, Site, attend, batches, by_text, watching
from deltatheory.problems import ClassificationProblem, Split

__all__ = ["FullRows"]

_TOKENS = 128  # of a pass: what all modules get and give is held at once, in about as many numbers as θ has


class FullRows:
    """Rows of J of full fine-tuning at δ = 0.

    Args:
        problem: of full fine-tuning, of which `serves` is true.
        of_logits: (logits, label) ↦ the outputs of an example.
        outputs: how many they are.
    """

    def __init__(
        self,
        problem: ClassificationProblem,
        of_logits: Callable[[Tensor, Tensor], Tensor],
        outputs: int,
    ) -> None:
        self.problem, self.of_logits, self.outputs = problem, of_logits, outputs
        moved, model = _full(problem.delta).moved, problem.backbone.model
        self._row = problem.delta.zero().clone()
        parts = moved.split(self._row)
        self._matrices: dict[Site, Tensor] = {}
        self._others: list[tuple[EditRows, list[Tensor]]] = []
        for place, names in (parameter_places(problem.backbone, moved.names) or {}).items():
            if isinstance(place, WeightPlace):
                part = parts[names[0]]
                linear = isinstance(model.get_submodule(place.module), nn.Linear)
                self._matrices[Site("output", place.module)] = part if linear else part.T  # Conv1D
            else:
                rows = EditRows(place, model, self._row)
                self._others.append((rows, [parts[name].view(-1) for name in names]))
        self._sites = self._matrices.keys() | set().union(*(rows.sites for rows, _ in self._others))

    @staticmethod
    def serves(problem: ClassificationProblem) -> bool:
        """Whether the parameters are all of linear maps, or vectors, and as fine as what is computed."""
        backbone, delta = problem.backbone, problem.delta
        if type(delta) is not FullFineTuning or backbone.dtype != backbone.wide_dtype:
            return False
        places = parameter_places(backbone, delta.moved.names)
        return places is not None and not any(
            isinstance(place, WeightPlace)
            and isinstance(backbone.model.get_submodule(place.module), nn.Embedding)
            for place in places
        )

    def of(self, split: Split, count: int) -> Iterator[tuple[int, Tensor, Iterable[Float[Tensor, " m"]]]]:
        """Yield the number of each of the first texts, its logits and its rows, one at a time in one vector.

        Args:
            split: train or test.
            count: how many texts.
        """
        backbone = self.problem.backbone
        for chosen in batches(split.lengths[:count], _TOKENS):
            batch, labels = self.problem.batch(split, chosen)
            seen: dict[Site, Factors] = {}
            attention = {int(s.name): partial(attend, seen, s) for s in self._sites if s.kind == "attention"}
            with watching(backbone.model, self._sites, seen):
                hidden = backbone.hidden_states(batch, Edit(attention=attention))
            logits = self.problem.read(hidden, batch)
            values = [self.of_logits(z, c).reshape(-1) for z, c in zip(logits, labels, strict=True)]
            y, after = torch.stack(values), [factors.after for factors in seen.values()]
            unit = torch.eye(self.outputs).to(y)[:, None].expand(-1, len(y), -1)
            gradients = torch.autograd.grad(y, after, unit, is_grads_batched=True)
            factors = {
                site: Factors(
                    tuple(by_text(x, len(y)) for x in before),
                    torch.stack([by_text(g, len(y)) for g in gradient], 1),
                )
                for (site, (before, _)), gradient in zip(seen.items(), gradients, strict=True)
            }
            others = [(rows.of(factors), parts) for rows, parts in self._others]
            for text, i in enumerate(chosen):
                yield i, logits[text].detach(), self._rows(text, factors, others)

    def _rows(
        self, text: int, factors: dict[Site, Factors], others: list[tuple[Tensor, list[Tensor]]]
    ) -> Iterator[Tensor]:
        for c in range(self.outputs):
            for site, part in self._matrices.items():
                before, after = factors[site]
                torch.mm(after[text, c].T, before[0][text], out=part)
            for rows, parts in others:
                for part, values in zip(parts, rows[text, c].split([len(p) for p in parts]), strict=True):
                    part.copy_(values)
            yield self._row


def _full(delta: Delta) -> FullFineTuning:
    assert isinstance(delta, FullFineTuning)
    return delta
