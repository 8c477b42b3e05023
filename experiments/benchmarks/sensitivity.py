"""How much stronger the right side of each theorem can be made before an instance of its own refutes it.

    python -m experiments.benchmarks.sensitivity --out experiments/results/benchmarks

Exact checks where the bound is attained or closest, and on eight samples of an identity. A factor of 1 - 1e-9
means that the bound is attained; a smaller one says by how much it is loose at best, as far as is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from deltatheory.theorems import THEOREMS, Theorem
from deltatheory.theorems.instances import Instance
from experiments.measuring import write
from experiments.page import Table

FACTORS = [1 - Fraction(1, 10**9), *(1 - Fraction(k, 100) for k in range(1, 100))]


def main(out: Annotated[Path, typer.Option(help="Folder for sensitivity.{json,md}.")]) -> None:
    """Write one row a theorem."""
    rows = [row(theorem) for theorem in THEOREMS.values()]
    text = Table("", list(rows[0]), [list(one.values()) for one in rows]).body() + "\n\n"
    noticed = sum(one["noticed at"] != "-" and float(one["noticed at"]) >= 0.9 for one in rows)
    recalled = sum("recalled" in theorem.source for theorem in THEOREMS.values())
    text += (
        f"A right side stronger by a tenth is noticed in {noticed} of {len(rows)} theorems. For lower bounds "
        "it is divided by the factor. A '-' stands where it is 0, and no factor changes it. Sources whose "
        f"statement is from memory are marked as recalled: {recalled} theorems."
    )
    write(out / "sensitivity", {"rows": rows}, text)


def row(theorem: Theorem) -> dict[str, str]:
    """Return the largest factor that is refuted, and what else is known of the theorem."""
    found = next((factor for factor in FACTORS if _refuted(theorem, factor)), None)
    return {
        "theorem": theorem.label,
        "kind": theorem.kind,
        "how checked": str(theorem.status),
        "certified claims": ", ".join(theorem.certificates),
        "noticed at": "-" if found is None else f"{float(found):.10g}",
        "source": theorem.source,
    }


def _refuted(theorem: Theorem, factor: Fraction) -> bool:
    def sides(x: Instance):
        left, right = theorem.sides(x)
        return left, right / factor if theorem.kind == "lower" else right * factor

    stronger = replace(theorem, sides=sides)
    return any(stronger.check(x, exact=True).holds is False for x in _instances(theorem))


def _instances(theorem: Theorem) -> Iterator[Instance]:
    nearest = theorem.extremal or theorem.closest
    if nearest is not None:
        yield nearest(0)
    if theorem.kind == "identity":
        yield from map(theorem.sampler, range(8))


if __name__ == "__main__":
    typer.run(main)
