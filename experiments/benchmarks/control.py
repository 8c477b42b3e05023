"""How long do small optimal-control problems take, here and with other solvers?

LQR with n = 12, m = 4 over 100 steps: ours, crocoddyl's model of it in C++, and the infinite-horizon
solutions of python-control and scipy. 256 initial states of a pendulum and of a cart-pole at once, against
one after the other. Then twelve problems of the bank, whose optima are known, each from the same controls, by

- ours: DDP, with its default derivatives and with those by torch, and iLQR;
- IPOPT by CasADi, with states and controls as unknowns;
- crocoddyl's FDDP, BoxFDDP where controls have bounds: with a model in C++, compiled from the functions and
  exact derivatives that CasADi writes as C; with one in Python scalars and derivatives by differences, and by
  hand for two problems;
- JAX: the algorithm of our DDP in one jitted loop.

Each is told to stop at 1e-9 by its own rule (IPOPT at 1e-10), or after 500 iterations (crocoddyl 1000, IPOPT
3000).

    pip install crocoddyl control jax casadi      # what is missing is reported as not installed, as is c++
    OMP_NUM_THREADS=1 python -m experiments.benchmarks.control --out experiments/results/benchmarks

Times are medians of `--repeats` runs on one thread (of one run, where the first took more than half a
second): CPU time of the process, and of the compilers that it starts. In a first call the problem is put
together, compiled where that is done, and solved; imports stand apart.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.benchmarks import control_casadi, control_crocoddyl, control_jax
from experiments.benchmarks.control_bank import BANK
from experiments.benchmarks.control_crocoddyl import BY_HAND, COMPILER
from experiments.measuring import processor, write
from experiments.page import Table

NOTE = """
Reached: within 1e-6 of the optimum, of fishing's within 1e-5. Before a solve its problem is put together; for
a model in C++ the functions and their derivatives are compiled, for JAX the whole solver is. BoxFDDP is
crocoddyl's method where controls have bounds. FDDP and iLQR take no second derivatives of the dynamics, which
hold all the curvature of van der Pol and fishing.
""".strip().replace("\n", " ")

Solve = Callable[[], tuple[float, int]]

BATCH, SAMPLE = 256, 8
LONG = 0.5
"""Seconds beyond which a solve is measured once."""
PACKAGES = ("numpy", "scipy", "torch", "crocoddyl", "control", "jax", "casadi")
IMPORTS = ("deltatheory.control.solvers", "casadi", "crocoddyl", "jax")
TWELVE = (
    *("pendulum", "long pendulum", "weak pendulum", "stirred tank", "cart-pole", "cart-pole in a box"),
    *("acrobot", "unicycle", "van der Pol", "quadrotor", "rendezvous", "fishing"),
)


def timed(solve: Solve, repeats: int) -> dict[str, Any]:
    """Median CPU and wall milliseconds, and the cost and iterations of the last run."""
    cpu, wall, cost, iterations = [], [], math.nan, 0
    for _ in range(repeats):
        began = time.process_time(), time.perf_counter()
        cost, iterations = solve()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return {
        "cpu_ms": 1e3 * statistics.median(cpu),
        "wall_ms": 1e3 * statistics.median(wall),
        "cost": float(cost),
        "iterations": iterations,
        "repeats": repeats,
    }


def ours(problem: str, solver: str, by_torch: bool = False) -> Solve:
    from deltatheory.control.solvers.ilqr import DDP, ILQR
    from deltatheory.control.systems.analytic import _by_torch

    stated, method = BANK[problem], {"ILQR": ILQR, "DDP": DDP}[solver]()
    system = stated.system()
    if by_torch:
        system.derivatives = _by_torch(system._step, system._running, system._terminal)

    def solve() -> tuple[float, int]:
        found = method.solve(system, start=stated.first())
        return found.cost, found.details["iterations"]

    return solve


def by_ipopt(problem: str) -> Solve:
    stated = BANK[problem]
    solve = control_casadi.ipopt(stated)
    return lambda: solve(stated.first())


@dataclass(frozen=True)
class Contestant:
    """A solver of problems of the bank.

    Attributes:
        name: without bounds.
        needs: packages, and the compiler.
        build: name of a problem ↦ its solve, ↦ cost and iterations.
        problems: their names.
    """

    name: str
    needs: Sequence[str]
    build: Callable[[str], Solve]
    problems: Sequence[str] = TWELVE

    def missing(self) -> list[str]:
        """Return what is not installed of its needs."""
        there = {need: shutil.which(need) if need == COMPILER else find_spec(need) for need in self.needs}
        return [need for need, found in there.items() if found is None]

    def label(self, problem: str) -> str:
        """Return its name, with the method that takes bounds where there are some."""
        return self.name if BANK[problem].limits is None else self.name.replace("FDDP", "BoxFDDP")


CONTESTANTS = (
    Contestant("ours, DDP", (), lambda name: ours(name, "DDP")),
    Contestant("ours, ILQR", (), lambda name: ours(name, "ILQR")),
    Contestant("ours, DDP, derivatives by torch", ("torch",), lambda name: ours(name, "DDP", by_torch=True)),
    Contestant("CasADi + IPOPT", ("casadi",), by_ipopt),
    Contestant(
        "crocoddyl FDDP, C++ model",
        ("crocoddyl", "casadi", COMPILER),
        lambda name: control_crocoddyl.in_cpp(BANK[name]),
    ),
    Contestant(
        "crocoddyl FDDP, Python model, derivatives by hand",
        ("crocoddyl",),
        lambda name: control_crocoddyl.in_python(BANK[name], BY_HAND[name]),
        tuple(BY_HAND),
    ),
    Contestant(
        "crocoddyl FDDP, Python model, differences",
        ("crocoddyl",),
        lambda name: control_crocoddyl.in_python(BANK[name]),
    ),
    Contestant("JAX DDP, jitted", ("jax",), lambda name: control_jax.jitted(BANK[name])),
)


def spent() -> float:
    """Return the seconds of the processor that this process and the finished children of it took."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def compared(repeats: int) -> list[dict[str, Any]]:
    """Solve the twelve problems by all that takes them."""
    found = []
    for problem in TWELVE:
        for one in CONTESTANTS:
            if problem not in one.problems:
                continue
            row = {"problem": problem, "contestant": one.name, "solver": one.label(problem)}
            row |= {"optimum": BANK[problem].optimum, "tolerance": BANK[problem].tolerance}
            if missing := one.missing():
                found.append(row | {"skipped": f"{', '.join(missing)} not installed"})
                continue
            for need in one.needs:
                if need != COMPILER:
                    importlib.import_module(need)
            began = spent()
            solve = one.build(problem)
            built = spent()
            solve()
            first = spent()
            row |= {"build_cpu_ms": 1e3 * (built - began), "first_cpu_ms": 1e3 * (first - began)}
            found.append(row | timed(solve, 1 if first - built > LONG else repeats))
            print(found[-1], flush=True)
    return found


def error(row: dict[str, Any]) -> float:
    """Return how far a row's cost is above the optimum, relative to it."""
    return (row["cost"] - row["optimum"]) / abs(row["optimum"])


def comparison(found: list[dict[str, Any]]) -> str:
    """Return the table of all rows."""
    lines = []
    for row in found:
        if "skipped" in row:
            lines.append([row["problem"], row["solver"], row["skipped"], *[""] * 5])
            continue
        times = [f"{row[key]:.1f}" for key in ("first_cpu_ms", "build_cpu_ms", "cpu_ms")]
        figures = [row["iterations"], f"{row['cost']:.9g}", f"{error(row):.0e}"]
        lines.append([row["problem"], row["solver"], *times, *figures])
    columns = ["problem", "solver", "first call, CPU ms", "of it before the solve", "again"]
    return Table("", [*columns, "iterations", "cost", "above the optimum"], lines).body()


def summary(found: list[dict[str, Any]]) -> str:
    """Return the table of our DDP's times over each other solver's."""
    by_solver: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found:
        if "skipped" not in row:
            by_solver.setdefault(row["contestant"], {})[row["problem"]] = row
    mine, lines = by_solver[CONTESTANTS[0].name], []
    for solver, rows in by_solver.items():
        later, first = (
            [mine[problem][key] / row[key] for problem, row in rows.items()]
            for key in ("cpu_ms", "first_cpu_ms")
        )
        reached = sum(error(row) <= row["tolerance"] for row in rows.values())
        spread = f"{min(later):.2g} to {max(later):.2g}"
        figures = [f"{statistics.median(later):.2g}", spread, f"{statistics.median(first):.2g}"]
        lines.append([solver, f"{reached} of {len(rows)}", *figures])
    columns = ["solver", "optimum reached", "ours, DDP over it: later calls, median", "least to most"]
    return Table("", [*columns, "first calls, median"], lines).body()


def make(problem: str, x0: Any) -> Any:
    from deltatheory.control.systems.examples import cart_pole, pendulum

    return {"pendulum": pendulum, "cart-pole": cart_pole}[problem](x0)


def batch(problem: str, solver: str) -> dict[str, Any]:
    """256 initial states at once, and some of them one after the other, scaled to all."""
    from deltatheory.control.solvers.ilqr import DDP, ILQR

    method = {"ILQR": ILQR, "DDP": DDP}[solver]()
    x0 = np.random.default_rng(0).uniform(-0.5, 0.5, (BATCH, len(BANK[problem].x0)))
    began = time.process_time()
    together = method.solve(make(problem, x0))
    at_once = time.process_time() - began
    chosen = range(0, BATCH, BATCH // SAMPLE)
    began = time.process_time()
    alone = [method.solve(make(problem, x0[i])) for i in chosen]
    singles = (time.process_time() - began) * BATCH / len(alone)
    return {
        "problem": problem,
        "solver": f"ours, {solver}",
        "at_once_ms": 1e3 * at_once,
        "singles_ms": 1e3 * singles,
        "ratio": at_once / singles,
        "converged": int(sum(status == "converged" for status in together.details["status"])),
        "largest_difference": float(
            max(abs(together.cost[i] - one.cost) for i, one in zip(chosen, alone, strict=True))
        ),
    }


def of_lqr(repeats: int) -> list[dict[str, Any]]:
    """Solve LQR by all that takes it."""
    from scipy.linalg import solve_discrete_are

    from deltatheory.control.solvers.ilqr import DDP, ILQR
    from deltatheory.control.solvers.riccati import lqr
    from deltatheory.control.systems.examples import linear_quadratic

    system = linear_quadratic()
    n, m, T = system.state_size, system.control_size, system.horizon
    F = system.expand(np.zeros((T + 1, 1, n)), np.zeros((T, 1, m))).F[:, 0]
    A, B, Q, R = F[..., :n], F[..., n:], np.eye(n), 0.1 * np.eye(m)

    def riccati() -> tuple[float, int]:
        found = lqr(A, B, Q, R, terminal=Q)
        found.rollout(system.x0)
        return found.cost(system.x0), 1

    def iterate(method: Any) -> tuple[float, int]:
        found = method.solve(system)
        return found.cost, found.details["iterations"]

    def infinite(equation: Callable[..., np.ndarray]) -> tuple[float, int]:
        return 0.5 * system.x0 @ equation(A[0], B[0], Q, R) @ system.x0, 1

    def dlqr(*given: np.ndarray) -> np.ndarray:
        return importlib.import_module("control").dlqr(*given)[1]

    found = []
    for solver, package, build in (
        ("ours, Riccati", "numpy", lambda: riccati),
        ("ours, ILQR", "numpy", lambda: partial(iterate, ILQR())),
        ("ours, DDP", "numpy", lambda: partial(iterate, DDP())),
        ("crocoddyl DDP, C++ model", "crocoddyl", lambda: control_crocoddyl.lqr(system, F[0], "DDP")),
        ("crocoddyl FDDP, C++ model", "crocoddyl", lambda: control_crocoddyl.lqr(system, F[0], "FDDP")),
        ("python-control dlqr, infinite horizon", "control", lambda: partial(infinite, dlqr)),
        ("scipy, infinite horizon", "scipy", lambda: partial(infinite, solve_discrete_are)),
    ):
        missing = find_spec(package) is None
        row = {"skipped": f"{package} not installed"} if missing else timed(build(), repeats)
        found.append({"solver": solver} | row)
        print(found[-1], flush=True)
    return found


def table(
    lqr: list[dict[str, Any]],
    batches: list[dict[str, Any]],
    bank: list[dict[str, Any]],
    facts: dict[str, Any],
) -> str:
    """Return the page."""
    solved = []
    for row in lqr:
        figures = (
            [row["skipped"], "", "", ""]
            if "skipped" in row
            else [
                *(f"{row[key]:.1f}" for key in ("cpu_ms", "wall_ms")),
                row["iterations"],
                f"{row['cost']:.9g}",
            ]
        )
        solved.append([row["solver"], *figures])
    together = [
        [
            *(row[key] for key in ("problem", "solver")),
            *(f"{row[key]:.0f}" for key in ("at_once_ms", "singles_ms")),
            f"1/{1 / row['ratio']:.1f}",
            row["converged"],
            row["largest_difference"],
        ]
        for row in batches
    ]
    columns = ["problem", "solver", "at once, CPU ms", "one by one, CPU ms", "ratio", "converged"]
    parts = [
        "# Small optimal-control problems",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## LQR: 12 states, 4 controls, 100 steps",
        Table("", ["solver", "CPU ms", "wall ms", "iterations", "cost"], solved).body(),
        f"## {BATCH} initial states",
        Table("", [*columns, "cost differs by"], together).body(),
        f"One by one: {SAMPLE} of them, scaled to all.",
        "## Twelve problems of the bank",
        summary(bank),
        comparison(bank),
        NOTE,
    ]
    return "\n\n".join(parts)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def importing(module: str) -> str:
    """Return the milliseconds of the processor that a module's import takes in a process of its own."""
    if find_spec(module.split(".")[0]) is None:
        return "not installed"
    code = f"import time; began = time.process_time(); import {module}; print(time.process_time() - began)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return f"{1e3 * float(done.stdout.split()[-1]):.0f}"


def compiler() -> str:
    if shutil.which(COMPILER) is None:
        return "not installed"
    done = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for control-cpu.{json,md}.")] = Path(),
    repeats: int = 5,
) -> None:
    """Measure and write the tables."""
    if context.invoked_subcommand is not None:
        return
    lqr = of_lqr(repeats)
    batches = [batch(problem, solver) for problem in BY_HAND for solver in ("ILQR", "DDP")]
    bank = compared(repeats)
    facts = {
        "CPU": processor(),
        "threads": 1,
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        "compiler": compiler(),
        "import, CPU ms": ", ".join(f"{module} {importing(module)}" for module in IMPORTS),
    }
    values = {"facts": facts, "rows": lqr, "batches": batches, "bank": bank}
    write(out / "control-cpu", values, table(lqr, batches, bank, facts))


@app.command()
def optima(
    out: Annotated[Path, typer.Option(help="Folder for control-bank.{json,md}.")] = Path(), guesses: int = 3
) -> None:
    """Solve all problems of the bank with all that takes them, and certify the optima by IPOPT."""
    from deltatheory.control.solvers import solve

    found, cells = [], []
    for name, stated in BANK.items():
        least, times = control_casadi.certified(stated, guesses)
        row = {"problem": name, "statement": stated.statement, "source": stated.source}
        row |= {"optimum": stated.optimum, "ipopt": least, "found": times, "solvers": {}}
        for solver in ("augmented-lagrangian",) if stated.constrained else ("ilqr", "ddp"):
            answer = solve(stated.system(), solver, start=stated.first())
            error = (answer.cost - stated.optimum) / abs(stated.optimum)
            row["solvers"][solver] = {"status": answer.status, "cost": answer.cost, "error": error}
            print(name, solver, row["solvers"][solver], least, times, flush=True)
        found.append(row)
        ours = [
            f"{solver}: {one['status']}"
            + (f" ({one['error']:+.0e})" if abs(one["error"]) > stated.tolerance else "")
            for solver, one in row["solvers"].items()
        ]
        figures = [f"{stated.optimum:.12g}", f"{least:.12g} ({times})", "; ".join(ours)]
        cells.append([name, stated.statement, stated.source, *figures])
    columns = ["problem", "statement", "source", "optimum", f"IPOPT, best of {guesses} (how often)", "ours"]
    note = (
        "In brackets behind a solver: how far it ends above the optimum, where that is beyond the tolerance."
    )
    text = ["# Problems of optimal control with known optima", Table("", columns, cells).body(), note]
    write(out / "control-bank", {"rows": found}, "\n\n".join(text))


if __name__ == "__main__":
    app()
