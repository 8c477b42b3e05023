"""Which modules a delta changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from deltatheory.backbones import Backbone

__all__ = ["linear_modules", "matrix_shape", "name_of"]

# The attention projections of query and value in the families that `load_backbone` takes.
_QUERY_VALUE = ("query", "value", "q_proj", "v_proj", "c_attn", "query_key_value", "q", "v")


def linear_modules(backbone: Backbone, targets: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the linear modules that targets name, in the model's order.

    Args:
        backbone: whose modules.
        targets: last parts of module names ("query", "q_proj", ...), or ends of dotted names; "all-linear"
            alone for every one in the blocks; `None` for the query and value projections.

    Raises:
        ValueError: for an entry that matches no linear module (which, and how many of the entries do).
    """
    linear = {
        name: module
        for name, module in backbone.model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and getattr(module, "weight").ndim == 2  # noqa: B009
        and not isinstance(module, nn.Embedding)
        and not name.startswith("pooler.")
    }

    def matches(entry: str) -> list[str]:
        return [name for name in linear if name == entry or name.endswith("." + entry)]

    if targets is not None and list(targets) == ["all-linear"]:
        inside = {id(module) for module in backbone.layers.modules()}
        return {name: module for name, module in linear.items() if id(module) in inside}
    entries = targets if targets is not None else [e for e in _QUERY_VALUE if matches(e)]
    if not entries:
        raise ValueError(f"targets={targets!r}: give at least one.")
    missed = [entry for entry in entries if not matches(entry)]
    if missed:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(
            f"targets has {missed[0]!r}, which matches no linear module; there are {known} "
            f"({len(missed)} of {len(entries)} entries match none)."
        )
    chosen = {name for entry in entries for name in matches(entry)}
    return {name: module for name, module in linear.items() if name in chosen}


def matrix_shape(module: nn.Module) -> tuple[int, int, bool]:
    """Return (out, in, transposed) of a linear module; GPT-2's Conv1D keeps its matrix as (in, out)."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    transposed = type(module).__name__ == "Conv1D"
    rows, columns = weight.shape[::-1] if transposed else weight.shape
    return rows, columns, transposed


def name_of(backbone: Backbone, module: nn.Module) -> str:
    """Return the name of a module of the model."""
    return next(name for name, m in backbone.model.named_modules() if m is module)
