"""What one forward pass does differently from the frozen backbone, as a value."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from deltatheory._shapes import Float

__all__ = ["AddedAttention", "Attend", "AttentionEdit", "Edit", "editing", "widened", "with_prefix"]

# (query, key, value, mask) ↦ output; shapes (B, heads, T, e), (B, kv_heads, S, e) twice, (B, 1, T, S), and
# (B, T, heads, e) of the output. Where relative positions add to the scores (T5), the mask is that sum, for
# every head; where all queries see the same, it may have one row.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# The block's own `attend` and the same four arguments ↦ output.
AttentionEdit = Callable[[Attend, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of the forward pass; the empty one is the frozen backbone.

    Every tensor in it may depend on δ: the pass stays a pure, differentiable function of them. Between
    half-precision modules its functions compute in float32; what they return is rounded.

    Attributes:
        parameters: new values of entries of `model.named_parameters()`.
        inputs: module name ↦ (x ↦ x'), applied to the module's first argument.
        terms: module name ↦ (x ↦ Δ), added to the module's output, as a change of its weight would be.
        outputs: module name ↦ ((x, y) ↦ y'), applied to the module's first argument and its output.
        attention: number (`Backbone.attention_modules`: that of the block) ↦ change of an attention, after
            the query, key and value maps.
        prompt: shape (k, H), one for all texts, or (B, k, H), one for each: put before the word embeddings;
            positions then count from the first of them.
        shift: added to the position of every token; of an encoder-decoder, of those of the decoder.
        head: new values of parameters of the head that reads the states, by their names there.
    """

    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    terms: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    outputs: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    attention: Mapping[int, AttentionEdit] = field(default_factory=dict)
    prompt: Float[Tensor, "*B k H"] | None = None
    shift: int = 0
    head: Mapping[str, Tensor] = field(default_factory=dict)

    def then(self, other: Edit) -> Edit:
        """Return both edits in one; where they meet, `other` acts on what this one left, and terms add up.

        Raises:
            ValueError: if both set the same parameter, or a head: their changes must be added before.

        >>> double, plus_one = Edit(inputs={"fc": lambda x: 2 * x}), Edit(inputs={"fc": lambda x: x + 1})
        >>> double.then(plus_one).inputs["fc"](3)
        7
        """
        both = sorted({**self.parameters, **self.head}.keys() & {**other.parameters, **other.head}.keys())
        if both:
            raise ValueError(f"parameters: both edits set {both[0]!r}; add their changes before.")
        prompts = [p for p in (self.prompt, other.prompt) if p is not None]
        return Edit(
            parameters={**self.parameters, **other.parameters},
            inputs=_merged(self.inputs, other.inputs, lambda f, g: lambda x: g(f(x))),
            terms=_merged(self.terms, other.terms, lambda f, g: lambda x: f(x) + g(x)),
            outputs=_merged(self.outputs, other.outputs, lambda f, g: lambda x, y: g(x, f(x, y))),
            attention=_merged(self.attention, other.attention, _nested),
            prompt=torch.cat(prompts, -2) if prompts else None,
            shift=self.shift + other.shift,
            head={**self.head, **other.head},
        )

    def inside(self, name: str, attention: Mapping[int, AttentionEdit]) -> Edit:
        """Return what it does inside a module, by the names there.

        Args:
            name: of the module; what is done to it as a whole is not inside.
            attention: the attentions in it.
        """
        within = f"{name}."
        own: dict[str, Any] = {
            kind: {n.removeprefix(within): v for n, v in named.items() if n.startswith(within)}
            for kind, named in self._named().items()
        }
        return Edit(**own, attention=attention)

    def outside(self, names: Sequence[str]) -> Edit:
        """Return what it does outside of these modules and their attentions, which are all of its own."""
        inside = tuple(f"{name}." for name in names)
        own: dict[str, Any] = {
            kind: {n: v for n, v in named.items() if not n.startswith(inside)}
            for kind, named in self._named().items()
        }
        return replace(self, **own, attention={})

    def _named(self) -> dict[str, Mapping[str, Any]]:
        kinds = ("parameters", "inputs", "terms", "outputs")
        return {kind: getattr(self, kind) for kind in kinds}

    def at(self, device: torch.device) -> Edit:
        """Return the edit that computes on one device, where δ is, wherever its modules are.

        What they get and give goes there and back; parameters go to their modules.
        """
        return replace(
            self,
            inputs={name: partial(_computed_at, device, f) for name, f in self.inputs.items()},
            terms={name: partial(_computed_at, device, f) for name, f in self.terms.items()},
            outputs={name: partial(_computed_at, device, f) for name, f in self.outputs.items()},
            attention={t: partial(_attended_at, device, f) for t, f in self.attention.items()},
        )


def _computed_at(device: torch.device, change: Callable[..., Tensor], *given: Tensor) -> Tensor:
    return change(*(x.to(device) for x in given)).to(given[0].device)


def _attended_at(device: torch.device, change: AttentionEdit, attend: Attend, *qkvm: Tensor) -> Tensor:
    return _computed_at(device, partial(change, partial(_computed_at, qkvm[0].device, attend)), *qkvm)


@dataclass(frozen=True, eq=False)
class AddedAttention:
    """The edit attention(q, K, V) + term(q, K, V).

    Behind another edit the term still stands on the frozen attention: were it given the edited one, what that
    one adds would be added again.

    Attributes:
        term: what is added, as an edit.
    """

    term: AttentionEdit

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Return the sum."""
        return attend(q, k, v, mask) + self.term(attend, q, k, v, mask)


def with_prefix(
    key: Float[Tensor, "*b h k e"],
    value: Float[Tensor, "*b h k e"],
    scores: Callable[[int, int], Tensor] | None = None,
) -> AttentionEdit:
    """Return attention(q, [P_K; K], [P_V; V]), the prefix seen by all tokens (Li & Liang 2021, eq. 3).

    Args:
        key: P_K of every key head, one for all texts or one for each.
        value: P_V.
        scores: (queries, all keys) ↦ what their relative positions add to the scores, of which those of the
            prefix are taken; 0 by default.

    A prefix whose key is that of the only token takes half of its attention:

    >>> import torch
    >>> from torch.nn.functional import scaled_dot_product_attention
    >>> attend = lambda q, k, v, mask: scaled_dot_product_attention(q, k, v, mask)
    >>> one, mask = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    >>> float(with_prefix(one[0], 3 * one[0])(attend, one, one, one, mask))
    2.0
    """
    return partial(_behind_prefix, key, value, scores)


def _behind_prefix(
    key: Tensor,
    value: Tensor,
    scores: Callable[[int, int], Tensor] | None,
    attend: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
) -> Tensor:
    own_k, own_v = (x.to(k.dtype).expand(len(k), -1, -1, -1) for x in (key, value))
    length = key.shape[-2]
    longer = pad(mask, (length, 0))
    if scores is not None:
        before = scores(q.shape[2], length + k.shape[2])[..., :length]
        longer = longer + pad(before, (0, k.shape[2]))
    return attend(q, torch.cat([own_k, k], 2), torch.cat([own_v, v], 2), longer)


def _merged(first: Mapping, second: Mapping, join: Callable[[Any, Any], Any]) -> dict:
    shared = {key: join(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **shared}


def _nested(first: AttentionEdit, second: AttentionEdit) -> AttentionEdit:
    if isinstance(second, AddedAttention):
        return lambda attend, *qkvm: first(attend, *qkvm) + second.term(attend, *qkvm)
    return lambda attend, *qkvm: second(lambda *inner: first(attend, *inner), *qkvm)


_ATTENTION: ContextVar[dict[nn.Module, AttentionEdit]] = ContextVar("attention edits")
_IMPLEMENTATION = "deltatheory"


def _edited_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Run a module's eager attention under its edit, behind the interface of `transformers`."""
    if (bias := options.pop("position_bias", None)) is not None:
        attention_mask = attention_mask + bias
    attend = partial(_eager_attention, module, options)
    edit = _ATTENTION.get().get(module)
    if edit is None:
        return attend(query, key, value, attention_mask), None
    return edit(attend, query, key, value, attention_mask).to(query.dtype), None


def _eager_attention(
    module: nn.Module, options: Mapping[str, Any], q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> Tensor:
    eager = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    return eager(module, q, k, v, mask, **options)[0]


@contextmanager
def editing(root: nn.Module, edit: Edit, attention: Mapping[int, nn.Module]) -> Iterator[None]:
    """Let hooks and attention of an edit act inside `root`; parameters and prompt are the caller's.

    Args:
        root: whose modules `edit` names.
        edit: what to do.
        attention: number ↦ its attention module.

    Raises:
        ValueError: for a module name that `root` does not have.
    """
    with ExitStack() as stack:
        for name, change in edit.inputs.items():
            hook = partial(_before, change)
            stack.callback(_named(root, name).register_forward_pre_hook(hook, with_kwargs=True).remove)
        for name, term in edit.terms.items():
            hook = partial(_after, partial(_plus, term))
            stack.callback(_named(root, name).register_forward_hook(hook, with_kwargs=True).remove)
        for name, change in edit.outputs.items():
            hook = partial(_after, change)
            stack.callback(_named(root, name).register_forward_hook(hook, with_kwargs=True).remove)
        if edit.attention:
            from transformers import AttentionInterface

            AttentionInterface.register(_IMPLEMENTATION, _edited_attention)
            # Encoder and decoder may have a configuration each: in one left alone no edit would be called.
            configs: list[Any] = [module.config for module in attention.values()]
            for config in {id(config): config for config in configs}.values():
                stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
                config._attn_implementation = _IMPLEMENTATION
            token = _ATTENTION.set({attention[t]: change for t, change in edit.attention.items()})
            stack.callback(_ATTENTION.reset, token)
        yield


def _named(root: nn.Module, name: str) -> nn.Module:
    try:
        return root.get_submodule(name)
    except AttributeError:
        raise ValueError(f"module {name!r}: {type(root).__name__} has no such module.") from None


def widened(x: Tensor) -> Tensor:
    """Return half-precision numbers in float32, all others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


def _plus(term: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return y + term(x)


def _before(
    change: Callable[[Tensor], Tensor], _: nn.Module, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    x = args[0] if args else kwargs["hidden_states"]
    new = change(widened(x)).to(x.dtype)
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _after(
    change: Callable[[Tensor, Tensor], Tensor], _: nn.Module, args: tuple, kwargs: dict, out: Any
) -> Any:
    x = args[0] if args else kwargs["hidden_states"]
    y, *rest = out if isinstance(out, tuple) else (out,)
    new = change(widened(x), widened(y)).to(y.dtype)
    return (new, *rest) if isinstance(out, tuple) else new
