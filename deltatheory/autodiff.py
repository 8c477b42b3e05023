"""Derivatives of pure functions of one tensor. The only module of the package that calls `torch.func`.

Second derivatives are always jvp of grad. The only derivative that may be differentiated again is one in
reverse mode that is not under a vmap: in torch 2.13 grad(jvp), jacfwd(jacfwd), jvp(jacrev) (which is
`torch.func.hessian`), jacrev(jacrev) and jvp(vmap(grad)) are silently wrong on networks with LayerNorm, by
30-90 % (pytorch/pytorch#196700, pytorch/pytorch#198017), and `linearize` fails on most transformers.
`tests/test_autodiff_ban.py` reads the source of the whole package for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.func as tf
from torch import Tensor, nn

from deltatheory._shapes import Float

__all__ = [
    "DerivativeError",
    "cast_inputs",
    "cast_output",
    "functional_call",
    "gauss_newton_product",
    "grad",
    "hvp",
    "jacobian_rows",
    "jvp",
    "per_example",
    "value_and_grad",
    "vjp",
]

Function = Callable[[Tensor], Tensor]

_EAGER = (
    "this attention has no forward-mode derivative: load the model with attention='eager', or call "
    "prepare(model, 'eager')"
)


class DerivativeError(RuntimeError):
    """A derivative is unavailable or wrong; the message names the failed test and the remedy."""


def functional_call(
    model: nn.Module, parameters: Mapping[str, Tensor], args: tuple = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """Call `model(*args, **kwargs)` with some parameters replaced, as a pure function of them.

    Arguments:
        model: any module.
        parameters: replacements named as in `model.named_parameters()`; the others keep their values, and
            one name of a tied weight replaces all its places, on their device. A module with a replacement
            of a wider type than its own runs in that: rounded, a small change would be gone.
        args: positional arguments.
        kwargs: keyword arguments.

    Raises:
        ValueError: for a name that is no parameter of the model.

    >>> import torch
    >>> sums, weight = torch.nn.Linear(2, 1, bias=False), torch.tensor([[2.0, 3.0]])
    >>> functional_call(sums, {"weight": weight}, (torch.ones(2),)).tolist()
    [5.0]
    """
    with _in_wider_types(model, _places(model, parameters)) as places:
        return tf.functional_call(model, places, args, kwargs, tie_weights=False)


def _places(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return replacements under one name for every place of a replaced parameter.

    A tied weight has several places. A module that is in the model several times is one: named twice, torch
    2.13 swaps its parameter twice, takes the first replacement for the original, and leaves it in the model.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    for name in parameters:
        if name not in known:
            raise ValueError(f"parameters has {name!r}: {type(model).__name__} has no such parameter.")
    new = {id(known[name]): value.to(known[name].device) for name, value in parameters.items()}
    return {
        f"{path}.{leaf}" if path else leaf: new[id(p)]
        for path, module in model.named_modules()
        for leaf, p in module.named_parameters(recurse=False, remove_duplicate=False)
        if id(p) in new
    }


@contextmanager
def _in_wider_types(model: nn.Module, places: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the replacements with what else the modules need that must run in a wider type than their own."""
    whole = dict(places)
    with ExitStack() as stack:
        for path in dict.fromkeys(name.rpartition(".")[0] for name in places):
            module = model.get_submodule(path)
            own = {f"{path}.{n}" if path else n: p for n, p in module.named_parameters(recurse=False)}
            narrow = next(iter(own.values())).dtype
            wide = next(places[name] for name in own if name in places).dtype
            if torch.promote_types(narrow, wide) != narrow:
                whole |= {name: p.to(wide) for name, p in own.items() if name not in places}
                enter, leave = partial(cast_inputs, wide), partial(cast_output, narrow)
                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        yield whole


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def cast_inputs(dtype: torch.dtype, _: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Give a module its floats in a type: a forward pre-hook once `dtype` is bound."""
    return tuple(_cast(x, dtype) for x in args), {name: _cast(x, dtype) for name, x in kwargs.items()}


def cast_output(dtype: torch.dtype, _: nn.Module, args: tuple, out: Any) -> Any:
    """Return a module's floats in a type: a forward hook once `dtype` is bound."""
    return tuple(_cast(x, dtype) for x in out) if isinstance(out, tuple) else _cast(out, dtype)


@contextmanager
def _forward_mode() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if "forward AD" in text or "forward mode AD" in text or "forward-mode AD" in text:
            raise DerivativeError(f"{_EAGER}. Cause: {text.splitlines()[0]}") from error
        raise


def jvp(f: Function, x: Float[Tensor, "*x"], v: Float[Tensor, "*x"]) -> tuple[Tensor, Tensor]:
    """Return (f(x), J v) with J = df/dx at x, in one forward pass.

    Arguments:
        f: pure function of one tensor.
        x: where.
        v: direction, shaped as x.

    Raises:
        DerivativeError: when f has no forward-mode derivative (sdpa attention).

    >>> import torch
    >>> jvp(lambda x: x**2, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    (tensor([1., 4.]), tensor([2., 4.]))
    """
    with _forward_mode():
        value, tangent, *_ = tf.jvp(f, (x,), (v,))
    return value, tangent


def vjp(f: Function, x: Float[Tensor, "*x"]) -> tuple[Tensor, Function]:
    """Return (f(x), w -> Jᵀ w); the pullback may be called many times.

    Arguments:
        f: pure function of one tensor.
        x: where.

    >>> import torch
    >>> value, pullback = vjp(lambda x: x**2, torch.tensor([1.0, 2.0]))
    >>> pullback(torch.tensor([1.0, 0.0]))
    tensor([2., 0.])
    """
    value, pullback, *_ = tf.vjp(f, x)
    return value, lambda w: pullback(w)[0]


def grad(f: Function, x: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """Return the gradient of a scalar function at x.

    Arguments:
        f: pure scalar function of one tensor.
        x: where.

    >>> import torch
    >>> grad(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    tensor([ 3., 12.])
    """
    return tf.grad(f)(x)


def value_and_grad(f: Function, x: Float[Tensor, "*x"]) -> tuple[Float[Tensor, ""], Float[Tensor, "*x"]]:
    """Return (f(x), its gradient) for a scalar function.

    Arguments:
        f: pure scalar function of one tensor.
        x: where.

    >>> import torch
    >>> value_and_grad(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
    (tensor(9.), tensor([ 3., 12.]))
    """
    gradient, value = tf.grad_and_value(f)(x)
    return value, gradient


def hvp(f: Function, x: Float[Tensor, "*x"], v: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """Return H v = d/ds grad f(x + s v) at s = 0, as jvp of grad (Pearlmutter 1994).

    Arguments:
        f: pure scalar function of one tensor.
        x: where.
        v: direction, shaped as x.

    Raises:
        DerivativeError: when f has no forward-mode derivative (sdpa attention).

    >>> import torch
    >>> hvp(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([ 6., 12.])
    """
    with _forward_mode():
        return tf.jvp(tf.grad(f), (x,), (v,))[1]


def gauss_newton_product(
    outputs_fn: Function,
    loss_of_outputs: Function,
    x: Float[Tensor, " m"],
    v: Float[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """Return Jᵀ H J v, J the Jacobian of the outputs, H the Hessian of the loss in them (Schraudolph 2002).

    Arguments:
        outputs_fn: x -> outputs of any shape.
        loss_of_outputs: outputs -> scalar.
        x: where.
        v: direction.

    Raises:
        DerivativeError: when the outputs have no forward-mode derivative (sdpa attention).

    With outputs x² and loss ½‖·‖², J = diag(2x) and H = I:

    >>> import torch
    >>> half = lambda y: (y**2).sum() / 2
    >>> gauss_newton_product(lambda x: x**2, half, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([ 4., 16.])
    """
    outputs, tangent = jvp(outputs_fn, x, v)
    _, pullback = vjp(outputs_fn, x)
    return pullback(hvp(loss_of_outputs, outputs, tangent))


def jacobian_rows(f: Function, x: Float[Tensor, " m"], chunk: int = 16) -> Iterator[Float[Tensor, "rows m"]]:
    """Yield J = df/dx in blocks of at most `chunk` rows, in the order of `f(x).flatten()`.

    One forward pass, then one batched backward pass per block: chunk × m numbers at a time.

    Arguments:
        f: pure function of a vector.
        x: where, m numbers.
        chunk: rows per block.

    Raises:
        ValueError: for chunk < 1.

    >>> import torch
    >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> [rows.tolist() for rows in jacobian_rows(lambda x: a @ x, torch.zeros(2), chunk=2)]
    [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: allowed is at least 1")
    value, pullback = vjp(f, x)
    for start in range(0, value.numel(), chunk):
        rows = torch.arange(start, min(start + chunk, value.numel()), device=value.device)
        units = torch.zeros(len(rows), value.numel(), dtype=value.dtype, device=value.device)
        units[torch.arange(len(rows), device=value.device), rows] = 1
        yield tf.vmap(pullback)(units.view(-1, *value.shape))


def per_example(
    f: Callable[..., tuple[Tensor, Tensor]], x: Float[Tensor, " m"], data: Sequence[Tensor]
) -> tuple[Float[Tensor, "n k"], Tensor, Callable[[], Float[Tensor, "n k m"]]]:
    """Return the outputs of n examples, what else f gives, and a function that returns the rows ∂outputs/∂x.

    Every example gets its own copy of x, so one backward pass over all of them gives one row of each: the
    rows cost k backward passes, whatever n is, and only when they are asked for.

    Arguments:
        f: (x, one example of each of `data`) ↦ (k outputs, anything), pure.
        x: where, m numbers.
        data: tensors whose first dimension counts the n examples.

    >>> import torch
    >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> outputs, _, rows = per_example(lambda x, a: ((a @ x)[None], a), torch.ones(2), [a])
    >>> outputs.tolist(), rows().tolist()
    ([[3.0], [7.0]], [[[1.0, 2.0]], [[3.0, 4.0]]])
    """
    copies = x.detach().expand(len(data[0]), -1).clone()
    found: Any = tf.vjp(lambda xs: tf.vmap(f)(xs, *data), copies, has_aux=True)
    outputs, pullback, other = found

    def rows() -> Tensor:
        unit = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        return torch.stack([pullback(row.expand_as(outputs))[0] for row in unit], 1)

    return outputs.detach(), other, rows
