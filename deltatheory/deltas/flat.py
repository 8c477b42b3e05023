"""All chosen parameters of a model as one vector, written and read in place."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from deltatheory._shapes import Float

__all__ = ["FlatParameters", "flatten_parameters"]


class FlatParameters:
    """Parameters of a module that live in one vector theta in R^D, and their gradients in another.

    Writing `theta` in place (for instance as `out=` of a projection) changes the model; `backward()` adds
    to `gradient`. Autograd does not see the writes: make them between steps, not between a forward pass and
    its backward pass. Build with `flatten_parameters`.

    Attributes:
        theta: shape (D,), the parameters.
        segments: (name, start, stop, shape) of each parameter in theta.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = list(parameters.values())
        self._sizes = [p.numel() for p in self._parameters]
        first = self._parameters[0]
        self.theta: Tensor = torch.empty(sum(self._sizes), dtype=first.dtype, device=first.device)
        self._gradient = torch.zeros_like(self.theta)
        self.segments: list[tuple[str, int, int, torch.Size]] = []
        stop = 0
        for name, parameter in parameters.items():
            start, stop = stop, stop + parameter.numel()
            self.segments.append((name, start, stop, parameter.shape))
        views = self.split(self.theta)
        for name, parameter in parameters.items():
            views[name].copy_(parameter.detach())
            # Replacing the data, not the Parameter object, keeps ties, also to modules outside the model.
            parameter.data = views[name]
            parameter.requires_grad_(True)
        self._attach()

    def _attach(self) -> None:
        for parameter, view in zip(self._parameters, self.split(self._gradient).values(), strict=True):
            parameter.grad = view

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order of theta."""
        return [name for name, *_ in self.segments]

    @property
    def gradient(self) -> Float[Tensor, " D"]:
        """The gradient accumulated by `backward()` since `zero_gradient()`.

        Raises:
            RuntimeError: when something has taken the parameters or gradients out of the flat vectors.
        """
        step = self.theta.element_size()
        for p, (name, start, *_) in zip(self._parameters, self.segments, strict=True):
            if p.data_ptr() != self.theta.data_ptr() + start * step:
                raise RuntimeError(
                    f"parameter {name!r} has left theta (`.to(...)` and loading with assign=True do that): "
                    "call flatten_parameters again afterwards"
                )
            if p.grad is None or p.grad.data_ptr() != self._gradient.data_ptr() + start * step:
                raise RuntimeError(
                    f"the gradient of {name!r} has left the flat vector (zero_grad() and create_graph=True "
                    "do that): use zero_gradient() instead"
                )
        return self._gradient

    def zero_gradient(self) -> None:
        """Set the gradient to zero, and put back any `.grad` that was replaced."""
        self._gradient.zero_()
        self._attach()

    def split(self, vector: Float[Tensor, " D"]) -> dict[str, Tensor]:
        """Return views of a vector of R^D, shaped and named as the parameters.

        One `torch.split`: its backward pass is one concatenation, that of D-long slices is quadratic.

        Raises:
            ValueError: for a vector that is not of shape (D,).
        """
        dimension = sum(self._sizes)
        if vector.shape != (dimension,):
            raise ValueError(f"vector.shape={tuple(vector.shape)}: allowed is ({dimension},)")
        pieces = torch.split(vector, self._sizes)
        return {
            name: piece.view(shape) for (name, _, _, shape), piece in zip(self.segments, pieces, strict=True)
        }


def flatten_parameters(model: nn.Module, names: Sequence[str] | None = None) -> FlatParameters:
    """Move parameters into one vector theta in R^D, in place; each parameter becomes a view and trainable.

    Arguments:
        model: any module.
        names: which of `model.named_parameters()`, in the order wanted; all by default. Tied weights are
            taken once, under the first of their names.

    Raises:
        ValueError: for an unknown name, no parameter, or parameters of mixed dtype or device.

    >>> flat = flatten_parameters(torch.nn.Linear(2, 1))
    >>> flat.names, flat.theta.numel()
    (['weight', 'bias'], 3)
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    chosen: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name in known if names is None else names:
        if name not in known:
            near = get_close_matches(name, known, n=3)
            raise ValueError(f"names holds {name!r}, not in the model; nearest: {', '.join(near) or 'none'}")
        if id(known[name]) not in seen:
            seen.add(id(known[name]))
            chosen[name] = known[name]
    if not chosen:
        raise ValueError(f"names={names!r} choose no parameter: give at least one")
    types = {(p.dtype, p.device) for p in chosen.values()}
    if len(types) > 1:
        raise ValueError(f"parameters of mixed (dtype, device)={types}: cast the model to one first")
    return FlatParameters(chosen)
