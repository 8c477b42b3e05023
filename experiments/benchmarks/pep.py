"""Performance estimation: exact certificates beside PEPit on the same problems.

    python -m experiments.benchmarks.pep --out experiments/results/benchmarks

The worst case of N steps h/L of gradient descent, on the whole space (T09) and along an orthogonal
projector (T10), scaled so that L = 1. Every exact worst case is known: the certificate proves that it is an
upper bound, and its witness function attains it. PEPit's answer is a double; it is an upper bound if it is
not below (the doubles in its problem are off by 1e-17, its answers by 1e-11 or more). Seconds are wall clock
in one process after a warm-up of both, without imports.
"""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.measuring import write
from experiments.page import Table
from proofs_check.catalogue import first_verified
from proofs_check.certificate import seal
from proofs_check.prove import performance
from proofs_check.verifier import Outcome, verify

STEPS = (1, 2, 3, 5, 8, 10)
LENGTHS = (Fraction(1), Fraction(1, 2))
SOLVERS = ("SCS", "CLARABEL")
HALF = Fraction(1, 2)


def main(out: Annotated[Path, typer.Option(help="Folder for pep.{json,md}.")]) -> None:
    """Measure and write one table."""
    for solver in SOLVERS:
        _pepit(1, Fraction(1), False, solver)
    _ours(1, Fraction(1), False)
    rows = []
    for two_blocks in (False, True):
        for h in LENGTHS:
            for steps in STEPS:
                rows.append(_row(steps, h, two_blocks))
                typer.echo(rows[-1])
    text = Table("", list(rows[0]), [list(row.values()) for row in rows]).body() + "\n\n"
    for solver in SOLVERS:
        gaps = [row[f"PEPit {solver} - exact"] for row in rows]
        below = sum(gap < 0 for gap in gaps)
        text += (
            f"PEPit's upper bound with {solver} lies below the true worst case in {below} of {len(rows)} "
            f"problems, by up to {-min(gaps):.1e}, and above it by up to {max(gaps):.1e}.\n"
        )
    text += (
        "Ours is the exact rational in every row: the certificate is VERIFIED and its witness attains it. "
        "T10 is scaled so that the worst case is 1: its initial condition is the claimed bound itself. "
        "SCS is what PEPit chooses where MOSEK is not installed; 'ours' solves with Clarabel."
    )
    write(out / "pep", {"rows": rows}, text)


def _row(steps: int, h: Fraction, two_blocks: bool) -> dict[str, Any]:
    exact = Fraction(1) if two_blocks else 1 / (4 * steps * h + 2)
    row: dict[str, Any] = {"theorem": "T10" if two_blocks else "T09", "N": steps, "h": str(h)}
    row["exact = ours"] = str(exact)
    for solver in SOLVERS:
        began = time.perf_counter()
        value = _pepit(steps, h, two_blocks, solver)
        seconds = round(time.perf_counter() - began, 2)
        gap = Fraction(value) - exact
        row[f"PEPit {solver} - exact"] = float(f"{float(gap):.2e}")
        row[f"{solver} is a bound"] = "yes" if gap >= 0 else "no"
        row[f"{solver} s"] = seconds
    began = time.perf_counter()
    text = _ours(steps, h, two_blocks)
    proved = time.perf_counter()
    if verify(text).outcome is not Outcome.VERIFIED:
        raise RuntimeError(f"steps={steps}, h={h}, two_blocks={two_blocks}: not verified")
    row["ours is a bound"] = "yes"
    row["ours, solve and prove s"] = round(proved - began, 2)
    row["ours, re-verify s"] = round(time.perf_counter() - proved, 2)
    return row


def _ours(steps: int, h: Fraction, two_blocks: bool) -> str:
    """Solve, round, put back on the equations, and verify; the text of the certificate."""
    rates = [1 / (4 * steps * h + 2), *[HALF] * two_blocks]
    witness = performance.huber(steps, h, two_blocks)
    setting = "gradient_descent" if two_blocks else "gradient_descent_in_subspace"
    found = performance.candidates(setting, rates, witness, h=h, steps=steps)
    theorem = "T10" if two_blocks else "T09"
    text, verdict = first_verified(seal(theorem, "performance", data) for data in found)
    if verdict.outcome is not Outcome.VERIFIED:
        raise RuntimeError(f"no certificate for steps={steps}, h={h}, two_blocks={two_blocks}")
    return text


def _pepit(steps: int, h: Fraction, two_blocks: bool, solver: str) -> float:
    """PEPit's upper bound (its dual value, which it returns by default) of the same problem."""
    from PEPit import PEP
    from PEPit.functions import SmoothConvexFunction

    problem = PEP()
    function = problem.declare_function(SmoothConvexFunction, L=1)
    best = function.stationary_point()
    start = x = problem.set_initial_point()
    if two_blocks:
        partition = problem.declare_block_partition(d=2)
        p, q = (partition.get_block(start - best, i) for i in range(2))
        problem.set_initial_condition(float(1 / (4 * steps * h + 2)) * p**2 + 0.5 * q**2 <= 1)
    else:
        problem.set_initial_condition((start - best) ** 2 <= 1)
    for _ in range(steps):
        gradient = function.gradient(x)
        x = x - float(h) * (partition.get_block(gradient, 0) if two_blocks else gradient)
    problem.set_performance_metric(function(x) - function(best))
    return float(problem.solve(verbose=0, solver=solver))


if __name__ == "__main__":
    typer.run(main)
