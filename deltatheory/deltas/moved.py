"""Parameters of a model at θ₀ + change, formed module by module while it runs: θ₀ stays as it was loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deltatheory._shapes import Float
from deltatheory.autodiff import cast_inputs, cast_output
from deltatheory.backbones.recompute import is_recomputed

__all__ = ["MovedParameters", "Movement"]

# Up to so many numbers, a quarter of a gigabyte, formed weights are kept for the backward pass, which saves
# time; in larger models they are formed again, as they are in blocks that run again.
KEPT = 1 << 26


@dataclass(frozen=True, eq=False)
class Movement:
    """What acts on the parameters while modules run.

    Attributes:
        form: (number of a parameter, θ₀ of it, flat) ↦ θ₀ + change, flat, new, float32 or float64.
        collect: called with the number of a parameter and a part of its gradient, in the parameter's shape.
    """

    form: Callable[[int, Tensor], Tensor]
    collect: Callable[[int, Tensor], None]


@dataclass(eq=False)
class _Unit:
    """A module with parameters of its own, by their names in it and their numbers; undone after its run."""

    module: nn.Module
    numbers: dict[str, int]
    undo: list[Callable[[], None]] = field(default_factory=list)


class MovedParameters:
    """Parameters one after another in R^D, which move without being written.

    Between `move` and `rest` every module that holds some of them runs with θ₀ + change. A weight lives while
    its module runs, and again for a moment in the backward pass; its gradient is handed on at once. So a
    large model (`KEPT`) has never more than one module's weights beside θ₀. A module runs in the type of the
    change: beside half-precision weights, in which a small change would be rounded away, its inputs and
    outputs are cast.

    A parameter that is replaced, as in `functional_call`, is left alone.

    Args:
        roots: the modules that use the parameters.
        parameters: by name, each once; a tied one moves in all its places.

    Attributes:
        segments: (name, start, stop, shape) of each parameter in R^D.
        size: D.
    """

    def __init__(self, roots: Iterable[nn.Module], parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = list(parameters.values())
        self.segments: list[tuple[str, int, int, torch.Size]] = []
        self.size = 0
        for name, parameter in parameters.items():
            start, self.size = self.size, self.size + parameter.numel()
            self.segments.append((name, start, self.size, parameter.shape))
        number = {id(p): i for i, p in enumerate(self._parameters)}
        modules = {id(module): module for root in roots for module in root.modules()}
        self._units = [
            _Unit(module, own)
            for module in modules.values()
            if (own := {n: number[id(p)] for n, p in module._parameters.items() if id(p) in number})
        ]
        self._movement: Movement | None = None
        self._handles: list[Any] = []
        self._anchor = torch.zeros((), requires_grad=True)  # what autograd follows a formed parameter to

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order of R^D."""
        return [name for name, *_ in self.segments]

    def split(self, vector: Float[Tensor, " D"]) -> dict[str, Tensor]:
        """Return views of a vector of R^D, shaped and named as the parameters.

        One `torch.split`: its backward pass is one concatenation, that of D-long slices is quadratic.

        Raises:
            ValueError: for a vector that is not of shape (D,).
        """
        if vector.shape != (self.size,):
            raise ValueError(f"vector.shape={tuple(vector.shape)}: allowed is ({self.size},)")
        pieces = torch.split(vector, [stop - start for _, start, stop, _ in self.segments])
        return {
            name: piece.view(shape) for (name, _, _, shape), piece in zip(self.segments, pieces, strict=True)
        }

    def plus(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return θ₀ + change by name, differentiable in the changes."""
        return {
            name: p + changes[name] for (name, *_), p in zip(self.segments, self._parameters, strict=True)
        }

    def move(self, movement: Movement) -> None:
        """Let a movement act from now on, instead of another one that may have acted."""
        self._movement = movement
        if not self._handles:
            for unit in self._units:
                self._handles += [
                    unit.module.register_forward_pre_hook(partial(self._enter, unit), with_kwargs=True),
                    unit.module.register_forward_hook(partial(self._leave, unit), always_call=True),
                ]

    def rest(self) -> None:
        """Let nothing act: the model is at θ₀."""
        self._movement = None
        while self._handles:
            self._handles.pop().remove()

    def formed(self, movement: Movement, number: int) -> Tensor:
        """Return one parameter at θ₀ + change."""
        parameter = self._parameters[number].detach()
        return movement.form(number, parameter.reshape(-1)).view(parameter.shape)

    def _enter(self, unit: _Unit, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Put what the parameters are now into a module that begins to run."""
        own: dict[str, Any] = module._parameters
        numbers, movement = list(unit.numbers.values()), self._movement
        if movement is None or any(own[n] is not self._parameters[i] for n, i in unit.numbers.items()):
            return None
        unit.undo.append(partial(own.update, dict(own)))
        graph = torch.is_grad_enabled()
        if graph:
            formed = _Form.apply(self._anchor, self, movement, numbers)
        else:
            formed = [self.formed(movement, i) for i in numbers]
        dtype = formed[0].dtype
        wide = cast_inputs(dtype, module, args, kwargs)
        if graph and self.size > KEPT and not is_recomputed():
            places = {x.untyped_storage().data_ptr(): i for x, i in zip(formed, numbers, strict=True)}
            cast = _cast_from((args, kwargs), wide)
            hooks = saved_tensors_hooks(partial(_pack, places, cast), partial(_unpack, self, movement))
            hooks.__enter__()
            unit.undo += [partial(hooks.__exit__, None, None, None), cast.clear]
        own.update({name: p.to(dtype) for name, p in own.items() if p is not None})
        own.update(zip(unit.numbers, formed, strict=True))
        return wide

    def _leave(self, unit: _Unit, module: nn.Module, args: tuple, out: Any) -> Any:
        """Put θ₀ back into a module that has run, or failed, and cast what it gives to the type of θ₀."""
        if not unit.undo:
            return None
        while unit.undo:
            unit.undo.pop()()
        dtype = module._parameters[next(iter(unit.numbers))].dtype  # type: ignore[union-attr]
        return cast_output(dtype, module, args, out)


class _Form(torch.autograd.Function):
    """The formed parameters of a module; their gradients go to `collect` and nowhere else."""

    @staticmethod
    def forward(
        ctx: Any, _anchor: Tensor, moved: MovedParameters, movement: Movement, numbers: list[int]
    ) -> tuple[Tensor, ...]:
        ctx.movement, ctx.numbers = movement, numbers
        ctx.set_materialize_grads(False)
        return tuple(moved.formed(movement, i) for i in numbers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        for number, gradient in zip(ctx.numbers, gradients, strict=True):
            if gradient is not None:
                ctx.movement.collect(number, gradient)
        return None, None, None, None


def _cast_from(before: tuple[tuple, dict], after: tuple[tuple, dict]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return the storage of what was cast for a module ↦ what it was, and itself, which keeps the storage."""
    (args, kwargs), (new_args, new_kwargs) = before, after
    pairs = [*zip(args, new_args, strict=True), *((kwargs[name], new_kwargs[name]) for name in kwargs)]
    return {
        new.untyped_storage().data_ptr(): (old.detach(), new)
        for old, new in pairs
        if new is not old and old.is_contiguous()
    }


def _pack(places: dict[int, int], cast: dict[int, tuple[Tensor, Tensor]], saved: Tensor) -> Any:
    """Keep of a formed parameter, or a view of it, which one it is; of an input that was cast what it was.

    That loses no bit, and what several modules get is then kept once.
    """
    storage = saved.untyped_storage().data_ptr()
    number, (old, _) = places.get(storage), cast.get(storage, (None, None))
    kept = number if old is None else old
    return saved if kept is None else (kept, saved.dtype, saved.shape, saved.stride(), saved.storage_offset())


def _unpack(moved: MovedParameters, movement: Movement, kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    what, dtype, *view = kept
    whole = what.to(dtype) if isinstance(what, Tensor) else moved.formed(movement, what)
    return whole.as_strided(*view)
