"""Sites: what the modules that a delta changes get and give in the frozen network, and rows of J from there.

Where y = W a is a linear map, and b the gradient of an output of the network in y, the row of J for W is
Σ_t b_t ⊗ a_t over the tokens. What else a delta does acts in one place of one block, and its rows of J are
those of that place under b.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.autodiff import functional_call, per_example
from deltatheory.backbones import Edit
from deltatheory.backbones.edit import widened
from deltatheory.deltas import EditPlace

__all__ = ["EditRows", "Factors", "Site", "attend", "batches", "by_text", "watching", "weight_rows"]


class Site(NamedTuple):
    """Where something is changed: what a module gets or gives, by its name, or a block's attention."""

    kind: Literal["input", "output", "attention"]
    name: str | int


class Factors(NamedTuple):
    """What a site had before it in the frozen network, and the gradients of the outputs behind it.

    `before` is (x,) of an input, (x, y) of an output and (attend, q, k, v, mask) of attention; `after` is
    what comes behind, or the gradients in it, shape (B, outputs, ...), when they are there. Products and sums
    are formed in float32 of those in half precision.
    """

    before: tuple[Any, ...]
    after: Tensor


@contextmanager
def watching(root: nn.Module, sites: set[Site], seen: dict[Site, Factors]) -> Iterator[None]:
    """Let modules note what they get and give, with a graph from there on."""
    with ExitStack() as stack:
        for site in sites:
            if site.kind == "input":
                hook = root.get_submodule(str(site.name)).register_forward_pre_hook
                stack.callback(hook(partial(_before, seen, site), with_kwargs=True).remove)
            elif site.kind == "output":
                hook = root.get_submodule(str(site.name)).register_forward_hook
                stack.callback(hook(partial(_behind, seen, site), with_kwargs=True).remove)
        yield


def _noted(seen: dict[Site, Factors], site: Site, before: tuple[Any, ...], after: Tensor) -> Tensor:
    if site in seen:
        raise ValueError(f"module {site.name!r} runs twice in a pass: take `tangent_rows` of this model.")
    after = after if after.requires_grad else after.detach().requires_grad_()
    seen[site] = Factors(before, after)
    return after


def _before(
    seen: dict[Site, Factors], site: Site, _: nn.Module, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    if args:
        return (_noted(seen, site, args[:1], args[0]), *args[1:]), kwargs
    x = kwargs["hidden_states"]
    return args, {**kwargs, "hidden_states": _noted(seen, site, (x,), x)}


def _behind(seen: dict[Site, Factors], site: Site, _: nn.Module, args: tuple, kwargs: dict, out: Any) -> Any:
    x, y = args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out
    y = y.expand(len(x), *y.shape[1:]) if y.shape[0] == 1 else y  # one row of positions for all texts (BART)
    after = _noted(
        seen, site, (x.to(y.device), y), y
    )  # a module outside the blocks may take x from elsewhere
    return (after, *out[1:]) if isinstance(out, tuple) else after


def attend(seen: dict[Site, Factors], site: Site, inner: Any, *qkvm: Tensor) -> Tensor:
    """Attend as `inner` does, and note what it gets and gives."""
    return _noted(seen, site, (inner, *qkvm), inner(*qkvm))


def by_text(x: Any, texts: int) -> Any:
    """Return a tensor by text, also where a module gets the tokens of all texts in one row (OPT's FFN)."""
    if not isinstance(x, Tensor):
        return x
    x = widened(x.detach())
    return x if x.shape[0] == texts else x.unflatten(0, (texts, -1))


def weight_rows(
    a: Float[Tensor, "B T i"], b: Float[Tensor, "B outputs T o"], low: int = 0, high: int | None = None
) -> Float[Tensor, "B outputs n"]:
    """Return Σ_t b_t ⊗ a_t for the entries low .. high - 1 of b, the whole of a for each.

    >>> import torch
    >>> weight_rows(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[[3.0, 4.0]]]])).tolist()
    [[[3.0, 6.0, 4.0, 8.0]]]
    """
    return (b[..., low:high].mT @ a[:, None]).flatten(2)


def batches(lengths: np.ndarray, tokens: int, texts: int = 64) -> Iterator[list[int]]:
    """Yield the numbers of texts in batches of so many tokens at most, padding included, the short first.

    >>> [len(batch) for batch in batches(np.array([700, 4, 400, 500]), tokens=1024)]
    [2, 1, 1]
    """
    chosen: list[int] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if len(chosen) == texts or (chosen and (len(chosen) + 1) * lengths[i] > tokens):
            yield chosen
            chosen = []
        chosen.append(i)
    if chosen:
        yield chosen


class EditRows:
    """Rows of J of an `EditPlace`: Σ over sites of (∂ change / ∂d)ᵀ b, at what the site gets.

    Args:
        place: whose rows.
        model: whose modules its sites name.
        origin: of which its coordinates take type and device.
    """

    def __init__(self, place: EditPlace, model: nn.Module, origin: Tensor) -> None:
        self.place, self.modules = place, dict(model.named_modules())
        edit = place.edit(origin.new_zeros(place.size))
        owners = {name.rpartition(".")[0] for name in edit.parameters}
        self.sites = {
            *(Site("input", name) for name in edit.inputs),
            *(Site("output", name) for name in {*edit.terms, *edit.outputs, *owners}),
            *(Site("attention", t) for t in edit.attention),
        }

    def of(self, factors: Mapping[Site, Factors]) -> Float[Tensor, "B outputs size"]:
        """Return the rows that the sites among these add."""
        here = {site: factors[site] for site in self.sites & factors.keys()}
        data: list[Tensor] = []
        slots: dict[Site, slice] = {}
        for site, (before, after) in here.items():
            tensors = [x for x in before if isinstance(x, Tensor)]
            slots[site] = slice(len(data), len(data) + len(tensors) + 1)
            data += [*tensors, after]
        attends = {site: before[0] for site, (before, _) in here.items() if site.kind == "attention"}
        origin = data[-1].new_zeros(self.place.size)
        outputs = data[-1].shape[1]
        *_, jacobian = per_example(partial(self._paired, outputs, slots, attends), origin, data)
        return jacobian()

    def _paired(
        self,
        outputs: int,
        slots: Mapping[Site, slice],
        attends: Mapping[Site, Any],
        d: Tensor,
        *one: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return Σ over sites of what the sites of one example give at d, times the gradients in it."""
        edit = self.place.edit(d)
        total = d.new_zeros(outputs)
        for site in sorted(slots, key=lambda s: s.kind):  # an edit may keep inputs for its outputs
            *before, gradients = one[slots[site]]
            changed = self._changed(edit, site, [x[None] for x in before], attends.get(site))
            total = total + (gradients * changed).flatten(1).sum(1).to(total.device)
        return total, total.detach()

    def _changed(self, edit: Edit, site: Site, before: list[Tensor], attend: Any) -> Tensor:
        if site.kind == "attention":
            return edit.attention[int(site.name)](attend, *before)
        name = str(site.name)
        if site.kind == "input":
            return edit.inputs[name](*before)
        x, y = before
        own = {
            leaf.rpartition(".")[2]: p
            for leaf, p in edit.parameters.items()
            if leaf.rpartition(".")[0] == name
        }
        module = self.modules[name]
        if own.keys() == {"bias"} and isinstance(module, nn.Linear):  # what it gives is there already
            y = y + (own["bias"] - module.bias)
        elif own:
            y = functional_call(module, own, (x,))
        if name in edit.terms:
            y = y + edit.terms[name](x)
        return edit.outputs[name](x, y) if name in edit.outputs else y
