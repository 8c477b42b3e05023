"""`deltatheory explain`: what a trained adapter uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from deltatheory.cli.common import MaxLength, errors_in_one_line, print_table, table_of


def explain(
    adapter: Annotated[
        str, typer.Argument(help="A folder in peft's format, a hub id, or a file of `train`.")
    ],
    model: Annotated[str | None, Option(help="The base model, where the adapter does not name it.")] = None,
    task: Annotated[
        str | None, Option(help="Verify on this task; without one only the spectra are read.")
    ] = None,
    keep: Annotated[float, Option(help="Share of the effect to keep.")] = 0.99,
    head: Annotated[str, Option(help="The head that the adapter was trained with.")] = "label-words",
    suffix: Annotated[str, Option(help="The suffix that it was trained with.")] = "",
    examples: Annotated[int, Option(help="Examples of each split to use, at most.")] = 256,
    max_length: MaxLength = 64,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, ...")] = None,
    out: Annotated[Path, Option(help="Folder for explanation.json and truncated/.")] = Path("runs/explain"),
) -> None:
    """Say what a trained adapter uses: ranks, movement, and the smallest ranks that keep its effect."""
    with errors_in_one_line():
        from deltatheory.adapters.explanation import explain as read

        found = read(
            adapter,
            model,
            task,
            keep=keep,
            head=head,
            suffix=suffix,
            examples=examples,
            max_length=max_length,
            device=device,
        )
        found.save(out)
    table = table_of("module", "movement", "rank", "used", "kept", "effective rank")
    for one in found.modules:
        numbers = (one.rank, one.used, one.kept)
        movement = "" if one.movement is None else f"{one.movement:.3g}"
        effective = "" if one.effective_rank is None else f"{one.effective_rank:.1f}"
        table.add_row(one.name, movement, *("" if n is None else str(n) for n in numbers), effective)
    print_table(table)
    for sentence in found.findings:
        print(f"  - {sentence}")
    if found.adapter is not None:
        print(f"For peft: {out / 'truncated'}")
    print(f"Numbers: {out / 'explanation.json'}")
