"""Tangent kernels K = J Jᵀ at δ = 0 by factors: no gradient in a large weight matrix is formed.

Where y = W a is a linear map, and b the gradient of an output of the network in y, the row of J for W is
Σ_t b_t ⊗ a_t over the tokens, so two examples have the product Σ_ts (a_it · a_js)(b_it · b_js). The factors
a and b come from the frozen network, batch by batch, and serve every delta: all of W, or the D M of a LoRA,
whose inputs are M a. What else a delta does acts in one place of one block, and its rows of J are those of
that place under b. The blocks are passed from the last to the first, each run again from its stored input,
so that the factors of one block are held at a time. Where a `device_map` has spread the blocks, each has its
factors and forms its part of K on its own device; states and costates change devices between the blocks, and
parts of K, n x n, come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Batch, Edit
from deltatheory.deltas import Delta, EditPlace, Place, WeightPlace
from deltatheory.linearization.outputs import LinearizationStart, Outputs, output_map
from deltatheory.linearization.sites import (
    EditRows,
    Factors,
    Site,
    attend,
    batches,
    by_text,
    watching,
    weight_rows,
)
from deltatheory.linearization.tangent import TangentRows, check_counts, start_of, tangent_rows
from deltatheory.problems import ClassificationProblem
from deltatheory.problems.heads import Verbalizer

__all__ = ["TangentKernel", "places_of", "tangent_kernels"]

SEVERAL = "several layers"  # name of the part that acts in more than one
_TEXTS, _TOKENS = 64, 1024  # of a pass at most: its activations are the memory that it takes
_BLOCK = 64  # rows and columns of a Gram matrix that are formed together
_PAIRED = 16  # texts whose tokens are paired with all before at once
_SLICE = 1 << 22  # numbers of those rows of J that are formed at once: what a cache holds


@dataclass(frozen=True, eq=False)
class TangentKernel:
    """K of one delta, as the sum of what its places add.

    Attributes:
        parts: name ↦ what the places of that name add, shape (no, no), ordered by example, then output, in
            float64 on the CPU. By module the names are those of linear maps and embeddings, and "" of all
            that is no weight of one; by layer "embedding", "block 0", ..., "head" and "several layers".
        start: the logits at δ = 0, the labels, and what judges an example.
        exact: False where long rows were sketched, so that K is an unbiased estimate.
        train: the first `train` examples are training examples, the others are held out.
        passes: forward-equivalents spent on all kernels of the call, in passes over single examples.
        seconds: time taken by all of them.
    """

    parts: dict[str, Float[Tensor, "no no"]]
    start: LinearizationStart
    exact: bool
    train: int
    passes: float
    seconds: float

    def kernel(self) -> Float[Tensor, "no no"]:
        """Return K."""
        return torch.stack(list(self.parts.values())).sum(0)

    def rooted(self, size: int) -> TangentRows:
        """Return K^½ as rows of J in coordinates of their own: what depends on J Jᵀ alone is the same.

        Args:
            size: m, the number of coordinates of the delta.
        """
        values, vectors = torch.linalg.eigh(self.kernel())
        logits = self.start.logits
        rows = (vectors * values.clamp(min=0).sqrt()).to(logits).view(len(logits), -1, len(values))
        return TangentRows(rows, self.start, self.train, size, None, self.passes, self.seconds)


def tangent_kernels(
    problem: ClassificationProblem,
    deltas: Sequence[Delta],
    *,
    train: int,
    test: int,
    outputs: Outputs = "logits",
    by: Literal["module", "layer"] = "module",
    sketch: int = 4096,
    on_example: Callable[[int, int], None] | None = None,
) -> list[TangentKernel]:
    """Compute the kernels of several deltas at δ = 0 over the first examples of the train and test splits.

    Deltas that say where they act (`Delta.tangent_places`) share two forward passes over each example and one
    backward pass for each output, through the activations alone. The kernel of another is that of its rows.

    Args:
        problem: on whose backbone, examples and head; its own delta plays no part.
        deltas: on its backbone.
        train: number of training examples.
        test: number of held-out examples.
        outputs: "logits" (C-1 rows an example), "margin" or "contrast" (one).
        by: what the parts of a kernel are; that of rows is one part, "".
        sketch: longest row to keep of a delta that does not say where it acts.
        on_example: called with (done, total) examples, for progress bars.

    Raises:
        ValueError: for no delta, more examples than there are, or fewer than 2 training examples.
    """
    if not deltas:
        raise ValueError(f"deltas={list(deltas)!r}: give at least one.")
    began = time.perf_counter()
    known = {i: own for i, delta in enumerate(deltas) if (own := places_of(problem, delta)) is not None}
    found: dict[int, tuple[dict[str, Tensor], LinearizationStart, bool]] = {}
    passes = 0.0
    if known:
        shared: Any = problem.with_delta(deltas[0])
        sweep = _Sweep(shared, train, test, outputs)
        grams = iter(sweep.grams([place for own in known.values() for place in own], on_example))
        for i, own in known.items():
            parts: dict[str, Tensor] = {}
            for place, gram in zip(own, grams, strict=False):
                module = place.module if isinstance(place, WeightPlace) else ""
                name = module if by == "module" else sweep.layer(gram.acted)
                parts[name] = parts.get(name, 0) + gram.total
            found[i] = parts, sweep.start, True
        passes = sweep.problem.passes
    for i, delta in enumerate(deltas):
        if i not in known:
            of_rows: Any = problem.with_delta(delta)
            rows = tangent_rows(
                of_rows,
                train=train,
                test=test,
                outputs=outputs,
                sketch=sketch,
                seed=problem.seed,
                on_example=on_example,
            )
            found[i] = {"": rows.kernel().cpu()}, rows.start, rows.sketch is None
            passes += of_rows.passes
    seconds = time.perf_counter() - began
    return [TangentKernel(*found[i], train, passes, seconds) for i in range(len(deltas))]


def places_of(problem: ClassificationProblem, delta: Delta) -> list[Place] | None:
    """Return where a delta acts, if it says so and the head is not among it: an `lm_head` may be tied."""
    places, head = delta.tangent_places(), problem.backbone.lm_head
    if places is None or head is None or not isinstance(problem.head, Verbalizer):
        return places
    of_head = {id(p) for p in head.parameters()}
    named = problem.backbone.model.named_modules()
    tied = {name for name, module in named if any(id(p) in of_head for p in module.parameters(recurse=False))}
    return None if any(isinstance(p, WeightPlace) and p.module in tied for p in places) else places


@dataclass(eq=False)
class _Chunk:
    """Some examples: their numbers, texts and classes, what the blocks receive, and the costate λ behind one.

    Attributes:
        rows: their numbers.
        batch: their texts.
        labels: their classes.
        states: x_0, ..., x_t, to the block that is next on the way back.
        costate: the gradient of each output in x_{t+1}, shape (outputs, B, T, H).
    """

    rows: list[int]
    batch: Batch
    labels: Tensor
    states: list[Tensor] = field(default_factory=list)
    costate: Tensor | None = None


class _Sweep:
    """One way forward through the blocks and one back, on which the factors come up block by block."""

    def __init__(self, problem: ClassificationProblem, train: int, test: int, outputs: Outputs) -> None:
        check_counts(problem, train=train, test=test)
        self.problem, self.backbone, self.examples = problem, problem.backbone, train + test
        classes = problem.task.num_classes
        self.of_logits, self.outputs = output_map(outputs, problem.loss_function, classes, problem.seed)
        self.chunks = list(self._chunks(train, test))
        labels = torch.cat([problem.train.labels[:train], problem.test.labels[:test]])
        like = {"device": self.backbone.device, "dtype": self.backbone.wide_dtype}
        logits = torch.empty(len(labels), classes, **like)
        with torch.no_grad():
            for chunk in self.chunks:
                x = self.backbone.embed(chunk.batch)
                for t in range(len(self.backbone.layers)):
                    chunk.states.append(x)
                    x = self.backbone.step(t, x, chunk.batch)
                chunk.states.append(x)
                logits[chunk.rows] = self._logits(x, chunk.batch)
        problem.count(len(labels), forward=1.0)
        self.start = start_of(problem, logits, labels, train, outputs)

    def _chunks(self, train: int, test: int) -> Iterator[_Chunk]:
        for split, count, first in ((self.problem.train, train, 0), (self.problem.test, test, train)):
            for chosen in batches(split.lengths[:count], _TOKENS, _TEXTS):
                yield _Chunk([first + i for i in chosen], *self.problem.batch(split, chosen))

    def _logits(self, x: Tensor, batch: Batch) -> Tensor:
        return self.problem.read(self.backbone.readout(x, batch), batch)

    def grams(
        self, places: Sequence[Place], on_example: Callable[[int, int], None] | None
    ) -> list[_WeightGram | _EditGram]:
        """Return what each place adds to K, in their order."""
        blocks = len(self.backbone.layers)
        sums = [_gram_of(place, self.examples * self.outputs, self) for place in places]
        lowest = min(min(gram.stages) for gram in sums)
        stages = range(blocks, lowest - 1, -1)
        for done, stage in enumerate(stages, 1):
            here = [gram for gram in sums if stage in gram.stages]
            sites = {site for gram in here for site in gram.sites}
            for chunk in self.chunks:
                factors = self._back(stage, chunk, sites)
                for gram in here:
                    if gram.sites & factors.keys():
                        gram.acted.add(stage)
                        gram.see(chunk.rows, factors)
            for gram in here:
                gram.leave(stage)
            if on_example:
                on_example(self.examples * done // len(stages), self.examples)
        self.problem.count(self.examples, forward=1.0, backward=0.5 * self.outputs)
        return sums

    def layer(self, stages: set[int]) -> str:
        """Return the name of the layer that acts in these stages, as those of a `LayeredSystem`."""
        if len(stages) != 1:
            return SEVERAL
        (stage,) = stages
        return {-1: "embedding", len(self.backbone.layers): "head"}.get(stage, f"block {stage}")

    def stages_of(self, site: Site) -> set[int]:
        """Return which stages may hold a site: a block's number, or before (-1) and behind all of them."""
        if site.kind == "attention":
            return {self.backbone.block_of_attention(int(site.name))}
        block = self.backbone.block_of(str(site.name))
        return {-1, len(self.backbone.layers)} if block is None else {block}

    def _back(self, stage: int, chunk: _Chunk, sites: set[Site]) -> dict[Site, Factors]:
        """Run a stage of a chunk again, take the costate through it, and return the factors of its sites."""
        blocks, texts = len(self.backbone.layers), len(chunk.rows)
        seen: dict[Site, Factors] = {}
        x = chunk.states.pop().detach().requires_grad_() if stage >= 0 else None
        attention = {int(s.name): partial(attend, seen, s) for s in sites if s.kind == "attention"}
        with watching(self.backbone.model, sites, seen):
            if x is None:
                y = self.backbone.embed(chunk.batch)
            elif stage < blocks:
                y = self.backbone.step(stage, x, chunk.batch, Edit(attention=attention))
            else:
                logits = self._logits(x, chunk.batch)
                values = [self.of_logits(z, c).reshape(-1) for z, c in zip(logits, chunk.labels, strict=True)]
                y = torch.stack(values)
                chunk.costate = torch.eye(self.outputs).to(y)[:, None].expand(-1, len(y), -1)
        assert chunk.costate is not None
        wanted = ([] if x is None else [x]) + [factors.after for factors in seen.values()]
        if not wanted:  # before the blocks, where a place lies behind them
            return {}
        gradients = torch.autograd.grad(y, wanted, chunk.costate, is_grads_batched=True, allow_unused=True)
        of = [
            to.new_zeros(self.outputs, *to.shape) if g is None else g
            for to, g in zip(wanted, gradients, strict=True)
        ]
        if x is not None:
            chunk.costate = of.pop(0)
        return {
            site: Factors(
                tuple(by_text(x, texts) for x in factors.before),
                torch.stack([by_text(g, texts) for g in gradients], 1),
            )
            for (site, factors), gradients in zip(seen.items(), of, strict=True)
        }


def _gram_of(place: Place, size: int, sweep: _Sweep) -> _WeightGram | _EditGram:
    return (
        _WeightGram(place, size, sweep) if isinstance(place, WeightPlace) else _EditGram(place, size, sweep)
    )


class _WeightGram:
    """Σ_ts (M a_it · M a_js)(b_it · b_js): by pairs of tokens, or by rows of J where that costs less."""

    def __init__(self, place: WeightPlace, size: int, sweep: _Sweep) -> None:
        self.place = place
        self.sites = {Site("output", module) for module in (place.module, *place.tied)}
        self.stages = set.union(*map(sweep.stages_of, self.sites))
        self.total = torch.zeros(size, size, dtype=torch.float64)
        self.acted: set[int] = set()
        self.outputs = sweep.outputs
        self._held: list[tuple[list[int], Tensor, Tensor]] = []

    def see(self, rows: list[int], factors: Mapping[Site, Factors]) -> None:
        """Keep a and b of a chunk, shapes (B, T, in) and (B, outputs, T, out), T of all tied modules."""
        found = [factors[site] for site in sorted(self.sites & factors.keys())]
        a, b = found[0].before[0], found[0].after
        if len(found) > 1:
            a, b = torch.cat([x.before[0] for x in found], 1), torch.cat([x.after for x in found], 2)
        if self.place.positions:
            a = torch.arange(b.shape[2], device=b.device).expand(len(b), -1)
        if self.place.scale != 1:
            b = self.place.scale * b
        if self.place.matrix is not None:
            a = a @ self.place.matrix.T.to(a.device)
        self._held.append((rows, a, b))

    def leave(self, stage: int) -> None:
        """Add what the stage's factors give, and drop them."""
        if not self._held:
            return
        order = torch.cat([_numbers(rows, self.outputs) for rows, _, _ in self._held])
        tokens = _Tokens.of(self._held)
        if not tokens.inputs.is_floating_point() or self._by_pairs(len(tokens.texts), len(order)):
            gram = _pairs(tokens, len(order) // self.outputs)
        else:
            gram = _gram(self._rows(len(order)))
        self.total[order[:, None], order] += gram
        self._held = []

    def _by_pairs(self, tokens: int, rows: int) -> bool:
        """Return whether pairs of tokens take fewer multiplications than rows of J."""
        *_, width = self._held[0][1].shape
        *_, out = self._held[0][2].shape
        pairs = tokens**2 * (width + self.outputs**2 * out)
        return pairs < (2 * tokens * self.outputs + rows**2) * width * out

    def _rows(self, count: int) -> Iterator[Tensor]:
        """Yield the rows of J, for a slice of the module's outputs at a time."""
        *_, width = self._held[0][1].shape
        *_, out = self._held[0][2].shape
        step = max(1, _SLICE // (count * width))
        for low in range(0, out, step):
            yield torch.cat([weight_rows(a, b, low, low + step).flatten(0, 1) for _, a, b in self._held])


def _gram(parts: Iterable[Tensor]) -> Float[Tensor, "n n"]:
    """Return Σ R Rᵀ over parts of the columns, from its blocks on and below the diagonal."""
    total: Any = 0.0
    for part in parts:
        for piece in part.split(max(1, _SLICE // len(part)), 1):
            gram = piece.new_zeros(len(piece), len(piece))
            for low in range(0, len(piece), _BLOCK):
                high = low + _BLOCK
                gram[low:high, :high] = piece[low:high] @ piece[:high].T
            total = total + gram.double().cpu()
    return total.tril() + total.tril(-1).T


def _numbers(rows: Sequence[int], outputs: int) -> Tensor:
    """Return the rows of K of some examples."""
    return (torch.tensor(rows)[:, None] * outputs + torch.arange(outputs)).flatten()


class _Tokens(NamedTuple):
    """Tokens in which the outputs have a gradient, by text; padding has none.

    Attributes:
        inputs: a, shape (N, in), or (N,) of token numbers, which are one-hot vectors.
        gradients: b, shape (outputs, N, out).
        texts: shape (N,), the number of each token's text.
    """

    inputs: Tensor
    gradients: Tensor
    texts: Tensor

    @classmethod
    def of(cls, held: Iterable[tuple[list[int], Tensor, Tensor]]) -> _Tokens:
        """Return those of texts with a of shape (B, T, in) and b of shape (B, outputs, T, out)."""
        inputs, gradients, numbers, before = [], [], [], 0
        for rows, a, b in held:
            texts, places = (b != 0).any(-1).any(1).nonzero(as_tuple=True)
            inputs.append(a[texts, places])
            gradients.append(b[texts, :, places].transpose(0, 1))
            numbers.append(texts + before)
            before += len(rows)
        return cls(torch.cat(inputs), torch.cat(gradients, 1), torch.cat(numbers))


def _pairs(tokens: _Tokens, count: int) -> Float[Tensor, "n n"]:
    """Return Σ_ts (a_it · a_js)(b_it · b_js), from the products of some texts with all up to them.

    Args:
        tokens: of all texts.
        count: of the texts.
    """
    inputs, gradients, texts = tokens
    outputs = len(gradients)
    firsts = torch.searchsorted(texts, torch.arange(count + 1, device=texts.device)).tolist()
    whole = torch.zeros(count, outputs, count, outputs, dtype=torch.float64)
    for low in range(0, count, _PAIRED):
        high = min(low + _PAIRED, count)
        stop = firsts[high]
        own = slice(firsts[low], stop)
        if inputs.is_floating_point():
            of_inputs = inputs[own] @ inputs[:stop].T
        else:
            of_inputs = (inputs[own, None] == inputs[:stop]).to(gradients)
        for c, d in product(range(outputs), repeat=2):
            pairs = (gradients[c, own] @ gradients[d, :stop].T).mul_(of_inputs)
            by_text = pairs.new_zeros(high - low, stop).index_add_(0, texts[own] - low, pairs)
            sums = by_text.new_zeros(high - low, high).index_add_(1, texts[:stop], by_text)
            whole[low:high, c, :high, d] = sums.double().cpu()
    whole = whole.flatten(2).flatten(0, 1)
    return whole.tril() + whole.tril(-1).T


class _EditGram:
    """R Rᵀ of the rows of an edit."""

    def __init__(self, place: EditPlace, size: int, sweep: _Sweep) -> None:
        self.rows = EditRows(place, sweep.backbone.model, sweep.problem.delta.zero())
        self.sites = self.rows.sites
        self._left = set.union(*map(sweep.stages_of, self.sites))
        self.stages = frozenset(self._left)
        self.total = torch.zeros(size, size, dtype=torch.float64)
        self.acted: set[int] = set()
        self.outputs = sweep.outputs
        self._held: Tensor | None = None

    def see(self, rows: list[int], factors: Mapping[Site, Factors]) -> None:
        """Add the rows of a chunk."""
        found = self.rows.of(factors)
        if self._held is None:
            self._held = found.new_zeros(len(self.total), found.shape[-1])
        self._held[_numbers(rows, self.outputs)] += found.flatten(0, 1).to(self._held.device)

    def leave(self, stage: int) -> None:
        """Add R Rᵀ when no stage is left, and drop R."""
        self._left.discard(stage)
        if not self._left and self._held is not None:
            self.total += _gram([self._held])
            self._held = None
