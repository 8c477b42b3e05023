"""`deltatheory tasks`, `deltas` and `projections`: what there is by name."""

from typing import Annotated

from typer import Option

from deltatheory.cli.options import command
from deltatheory.cli.output import print_table, table_of


@command()
def tasks() -> None:
    """List the embedded tasks."""
    from deltatheory.tasks import EMBEDDED, load_task

    table = table_of("task", "classes", "train", "dev", "test", "labels")
    for name in EMBEDDED:
        found = load_task(name)
        sizes = (len(part) for part in (found.train, found.dev, found.test))
        table.add_row(name, str(found.num_classes), *map(str, sizes), ", ".join(found.label_names))
    print_table(table)


@command()
def deltas(
    model: Annotated[
        str | None, Option(help="Count the parameters that each would tune in this model, at its defaults.")
    ] = None,
) -> None:
    """List the deltas: the ways to change a frozen backbone, their family, and where in a layer they act."""
    from deltatheory.deltas import DELTAS, parameter_counts

    counts: dict[str, int | None] = {}
    if model is not None:
        from deltatheory.backbones import load_backbone

        counts = parameter_counts(load_backbone(model))
    table = table_of("delta", "family", "formula", "acts on", "affine", *(["parameters"] if counts else []))
    for name, kind in DELTAS.items():
        size = counts.get(name)
        row = [name, kind.family, kind.formula, kind.acts, "yes" if kind.affine else "no"]
        table.add_row(*row, *([] if not counts else ["by options" if size is None else f"{size:,}"]))
    print_table(table)
    print("affine: whether the map of a controlled layer is affine in δ, at a fixed input.")


@command()
def projections() -> None:
    """List the projections: the ways to draw a random subspace."""
    from deltatheory.projections import PROJECTIONS, make_projection

    table = table_of("projection", "nested", "isometry", "construction")
    for name, kind in PROJECTIONS.items():
        D = 64 if name == "identity" else 1 << 20
        bound = make_projection(name, 64, D, seed=0).isometry
        first = (kind.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, "yes" if kind.nested else "no", "exact" if bound == 0 else f"{bound:.1g}", first)
    print_table(table)
    print("nested: the subspaces of smaller d lie in those of larger d.")
    print("isometry: a bound on the norm of PᵀP - I, here at d = 64 and D = 2^20.")
