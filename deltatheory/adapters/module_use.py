"""What an adapter does to each module: how far it moves it, and how much of its rank it uses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deltatheory.adapters.adapter import TrainedAdapter
from deltatheory.adapters.truncation import ZERO, spectrum
from deltatheory.backbones import Backbone
from deltatheory.deltas.targets import matrix_shape

__all__ = ["ModuleUse", "movement_of", "ratio", "use_of"]


@dataclass(frozen=True)
class ModuleUse:
    """How an adapter changes one module; where ranks do not apply, one parameter of a module.

    Attributes:
        name: in the backbone.
        shape: (out, in) of the matrix, or the shape of the parameter.
        change: ‖ΔW‖_F.
        weight: ‖W₀‖_F.
        movement: ‖ΔW‖_F / ‖W₀‖_F; `None` where W₀ = 0.
        rank: r, what the adapter pays for; this and all below is `None` where ranks do not apply.
        singular_values: of ΔW, the largest first.
        used: the smallest k with Σ_{i≤k} σ_i² ≥ keep · Σ σ_i².
        wasted: r − used.
        effective_rank: exp(−Σ p_i log p_i), p_i = σ_i² / Σ σ² (Roy & Vetterli 2007, with squares); 0
            for ΔW = 0.
        kept: rank in the truncated adapter.
        amplification: σ_1 / ‖W₀ v_1‖, how much stronger ΔW answers to its own strongest input direction than
            W₀ does (after Hu et al. 2022, sec. 7.3); `None` where either is 0.
    """

    name: str
    shape: tuple[int, ...]
    change: float
    weight: float
    movement: float | None
    rank: int | None = None
    singular_values: list[float] | None = None
    used: int | None = None
    wasted: int | None = None
    effective_rank: float | None = None
    kept: int | None = None
    amplification: float | None = None


def ratio(change: float, weight: float) -> float | None:
    """Return change / weight; `None` where the weight is 0."""
    return change / weight if weight else None


def use_of(backbone: Backbone, name: str, a: Tensor, b: Tensor, keep: float) -> ModuleUse:
    """Return how ΔW = B A uses the rank of one module."""
    module = backbone.model.get_submodule(name)
    rows, columns, transposed = matrix_shape(module)
    weight: Tensor = module.weight.detach().double()  # type: ignore[assignment,operator]
    values, direction = spectrum(a, b)
    squares = values.square()
    change, size, rank = float(squares.sum().sqrt()), float(weight.norm()), len(a)
    used, effective, amplification = 0, 0.0, None
    if change:
        rest = squares.sum() - squares.cumsum(0)  # what is lost at rank 1, 2, ...
        used = int((rest > (1 - keep + ZERO**2) * squares.sum()).sum()) + 1
        shares = squares[squares > 0] / squares.sum()
        effective = float((-shares * shares.log()).sum().exp())
        amplification = ratio(
            float(values[0]), float(((weight.T if transposed else weight) @ direction).norm())
        )
    return ModuleUse(
        name,
        (rows, columns),
        change,
        size,
        ratio(change, size),
        rank,
        values.tolist(),
        used,
        rank - used,
        effective,
        None,
        amplification,
    )


def movement_of(adapter: TrainedAdapter) -> list[ModuleUse]:
    """Return the movement of every parameter that an adapter of another kind than LoRA changes, if any."""
    modules = []
    for name, (before, after) in adapter.changes().items():
        change, size = (float(x.detach().double().norm()) for x in (after - before, before))
        modules.append(ModuleUse(name, tuple(before.shape), change, size, ratio(change, size)))
    return modules
