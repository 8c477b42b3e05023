"""Where a delta acts at δ = 0, to first order: what `linearization.factors` needs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.backbones.edit import Attend
from deltatheory.deltas.coordinates import Coordinates

__all__ = ["EditPlace", "Place", "WeightPlace", "parameter_places"]


@dataclass(frozen=True, eq=False)
class WeightPlace:
    """The weight of a module moves by D M, with coordinates in D, so that J has the rows Σ_t b_t ⊗ M a_t.

    Attributes:
        module: name of a linear map or an embedding, with inputs a_t (one-hot for an embedding).
        matrix: M, shape (r, in); `None` is the identity.
        scale: what the module multiplies its product with, as some embeddings do.
        tied: other modules with the same weight and scale, which act in the same stage of a pass.
        positions: the module is an embedding of where a token stands in its text, and not of the token.
    """

    module: str
    matrix: Float[Tensor, "r in"] | None = None
    scale: float = 1.0
    tied: tuple[str, ...] = ()
    positions: bool = False


@dataclass(frozen=True, eq=False)
class EditPlace:
    """Coordinates d that act as `edit(d)`, which changes nothing at d = 0.

    A change may use what its own module gets, and what the same edit has kept of modules before it.

    Attributes:
        edit: d ↦ what the forward pass does differently; parameters are those of modules that run once.
        size: number of coordinates.
    """

    edit: Callable[[Tensor], Edit]
    size: int


Place = WeightPlace | EditPlace


def parameter_places(backbone: Backbone, names: Sequence[str]) -> dict[Place, list[str]] | None:
    """Return the places of whole parameters: matrices one by one, all others of a block together.

    With each the names of its parameters, in the order of its coordinates. `None` where one is a matrix of a
    module that is no plain product, or of several that are no embeddings.

    Args:
        backbone: whose parameters they are.
        names: entries of `backbone.model.named_parameters()`, each tuned as it is.
    """
    matrices: dict[Place, list[str]] = {}
    others: dict[int | None, list[str]] = {}
    holders: dict[int, dict[str, nn.Module]] = {}
    for name, p in backbone.model.named_parameters(remove_duplicate=False):
        module = name.rpartition(".")[0]
        holders.setdefault(id(p), {})[module] = backbone.model.get_submodule(module)
    for name in names:
        module, parameter = name.rpartition(".")[0], backbone.model.get_parameter(name)
        owner = backbone.model.get_submodule(module)
        tables = [t for t in range(len(backbone.layers)) if backbone.position_table(t) == module]
        if tables:
            matrices[_position_place(backbone, tables, parameter)] = [name]
        elif parameter.ndim < 2:
            others.setdefault(backbone.block_of(name), []).append(name)
        elif _is_product(owner) and _are_alike(holders[id(parameter)]):
            tied = tuple(other for other in holders[id(parameter)] if other != module)
            place = WeightPlace(module, scale=_scale(owner), tied=tied, positions=_is_of_positions(owner))
            matrices[place] = [name]
        else:
            return None
    return matrices | {_shifted(backbone, group): group for group in others.values()}


def _is_product(module: nn.Module) -> bool:
    """Whether a module gives W a of its first argument a, with a bias perhaps."""
    kinds = type(module) in (nn.Linear, nn.Embedding) or type(module).__name__ == "Conv1D"
    scaled = isinstance(module, nn.Embedding) and hasattr(module, "embed_scale")
    return kinds or scaled or _is_of_positions(module)


def _is_of_positions(module: nn.Module) -> bool:
    """Whether a module finds positions by itself, behind an offset (BART, OPT)."""
    return isinstance(module, nn.Embedding) and hasattr(module, "offset")


def _scale(module: nn.Module) -> float:
    return float(getattr(module, "embed_scale", 1.0))


def _are_alike(holders: Mapping[str, nn.Module]) -> bool:
    """Whether one module holds a weight, or several, each of its own, give the same product of it (words)."""
    modules = list(holders.values())
    words = all(isinstance(module, nn.Embedding) and _is_product(module) for module in modules)
    apart = len({id(module) for module in modules}) == len(modules)
    return len(modules) == 1 or (words and apart and len({*map(_scale, modules)}) == 1)


def _position_place(backbone: Backbone, blocks: Sequence[int], table: Tensor) -> EditPlace:
    """Return the place of relative positions, in the scores of all blocks that add them."""

    def edit(d: Tensor) -> Edit:
        return Edit(attention={t: partial(_moved_scores, backbone, t, d.view(table.shape)) for t in blocks})

    return EditPlace(edit, table.numel())


def _moved_scores(
    backbone: Backbone, t: int, change: Tensor, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> Tensor:
    places = backbone.relative_positions(t, q.shape[2], k.shape[2])
    return attend(q, k, v, mask + change[places.to(change.device)].permute(2, 0, 1))


def _shifted(backbone: Backbone, names: Sequence[str]) -> EditPlace:
    origin = {name: backbone.model.get_parameter(name).detach() for name in names}
    coordinates = Coordinates({name: tuple(p.shape) for name, p in origin.items()})

    def edit(d: Tensor) -> Edit:
        moved = {name: origin[name] + x.to(origin[name].device) for name, x in coordinates.split(d).items()}
        return Edit(parameters=moved)

    return EditPlace(edit, coordinates.size)
