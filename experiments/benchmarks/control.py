"""How long do small optimal-control problems take, here and with other solvers?

The same problems (LQR with n = 12, m = 4; swing-up of a pendulum and of a cart-pole; T = 100 steps each) from
the same start, zero controls: ours, crocoddyl with an action model in Python (plain scalars, and derivatives
by hand: the quickest way to write one; or by differences), a jitted iLQR in JAX in a fresh process, and the
infinite-horizon solutions of python-control and scipy. Then 256 initial states at once against one after the
other. Last the bank of problems with known optima: DDP with its default derivatives and with those by torch,
IPOPT by CasADi, and crocoddyl, each with its first call (the problem is put together in it) and a later one.

    pip install crocoddyl control jax casadi      # what is missing is reported as not installed
    OMP_NUM_THREADS=1 python -m experiments.benchmarks.control --out experiments/results/benchmarks

Times are medians of `--repeats` runs on one thread: CPU time of the process, and wall time beside it, which
other processes on the machine lengthen. A fresh process does one solve and reports the import apart.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from experiments.benchmarks import control_bank
from experiments.benchmarks.control_bank import BANK
from experiments.measuring import processor, write
from experiments.page import Table

PROBLEMS = ("lqr", "pendulum", "cart-pole")
BATCH, SAMPLE = 256, 8
PACKAGES = ("numpy", "scipy", "torch", "crocoddyl", "control", "jax", "casadi")
TWELVE = (
    *("pendulum", "long pendulum", "weak pendulum", "stirred tank", "cart-pole", "cart-pole in a box"),
    *("acrobot", "unicycle", "van der Pol", "quadrotor", "rendezvous", "fishing"),
)


def make(problem: str, x0: Any = None) -> Any:
    from deltatheory.control.systems.examples import cart_pole, linear_quadratic, pendulum

    if problem == "lqr":
        return linear_quadratic()
    system = {"pendulum": pendulum, "cart-pole": cart_pole}[problem]
    return system() if x0 is None else system(x0)


def timed(solve: Callable[[], tuple[float, int]], repeats: int) -> dict[str, Any]:
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


def ours(problem: str, solver: str) -> Callable[[], tuple[float, int]]:
    from deltatheory.control.solvers.ilqr import DDP, ILQR
    from deltatheory.control.solvers.riccati import lqr

    system = make(problem)
    if solver == "Riccati":
        F = system.expand(np.zeros((101, 1, 12)), np.zeros((100, 1, 4))).F[:, 0]

        def riccati() -> tuple[float, int]:
            found = lqr(F[:, :, :12], F[:, :, 12:], np.eye(12), 0.1 * np.eye(4), terminal=np.eye(12))
            found.rollout(system.x0)
            return found.cost(system.x0), 1

        return riccati

    def iterate() -> tuple[float, int]:
        found = {"ILQR": ILQR, "DDP": DDP}[solver]().solve(system)
        return found.cost, found.details["iterations"]

    return iterate


def crocoddyl_solver(problem: str, solver: str, differences: bool = False) -> Callable[[], tuple[float, int]]:
    import crocoddyl

    system = make(problem)
    running, terminal = (
        lqr_action(crocoddyl) if problem == "lqr" else swing_up_action(crocoddyl, problem, differences)
    )
    shooting = crocoddyl.ShootingProblem(system.x0, [running] * system.horizon, terminal)
    shooting.nthreads = 1

    def solve() -> tuple[float, int]:
        method = getattr(crocoddyl, f"Solver{solver}")(shooting)
        method.th_stop = 1e-9
        controls = [np.zeros(system.control_size)] * system.horizon
        method.solve(shooting.rollout(controls), controls, 1000, True)
        return method.cost, method.iter + 1

    return solve


def lqr_action(crocoddyl: Any) -> tuple[Any, Any]:
    """Crocoddyl's own linear-quadratic model, in C++."""
    F = make("lqr").expand(np.zeros((101, 1, 12)), np.zeros((100, 1, 4))).F[0, 0]
    weights = np.eye(12), 0.1 * np.eye(4), np.zeros((12, 4)), np.zeros(12), np.zeros(12), np.zeros(4)
    model = crocoddyl.ActionModelLQR(F[:, :12].copy(), F[:, 12:].copy(), *weights)
    return model, model


def swing_up_action(crocoddyl: Any, problem: str, differences: bool) -> tuple[Any, Any]:
    """The pendulum or the cart-pole of `deltatheory.control.systems.examples`, in scalars."""
    dt, g = 0.05, 9.81
    stage, effort, final = (1.0, 0.1, 100.0) if problem == "pendulum" else (0.1, 1.0, 10.0)
    goal = np.array([math.pi, 0.0] if problem == "pendulum" else [0.0, math.pi, 0.0, 0.0])
    n = len(goal)

    def pendulum_step(x: np.ndarray, u: float) -> list[float]:
        angle, rate = x.tolist()
        rate += dt * (u - g * math.sin(angle) - 0.1 * rate)
        return [angle + dt * rate, rate]

    def pendulum_derivative(x: np.ndarray, u: float) -> list[list[float]]:
        row = [-dt * g * math.cos(x[0]), 1 - 0.1 * dt, dt]
        return [[1 + dt * row[0], dt * row[1], dt * row[2]], row]

    M, m, l = 1.0, 0.3, 1.0

    def cart_step(x: np.ndarray, u: float) -> list[float]:
        position, angle, velocity, rate = x.tolist()
        s, c = math.sin(angle), math.cos(angle)
        a = (u + m * s * (l * rate * rate + g * c)) / (M + m * s * s)
        velocity, rate = velocity + dt * a, rate - dt / l * (a * c + g * s)
        return [position + dt * velocity, angle + dt * rate, velocity, rate]

    def cart_derivative(x: np.ndarray, u: float) -> list[list[float]]:
        _, angle, _, rate = x.tolist()
        s, c = math.sin(angle), math.cos(angle)
        D = M + m * s * s
        a = (u + m * s * (l * rate * rate + g * c)) / D
        a_angle = (m * (l * c * rate * rate + g * (c * c - s * s)) - a * 2 * m * s * c) / D
        v = [0.0, dt * a_angle, 1.0, dt * 2 * m * l * s * rate / D, dt / D]
        w = [0.0, -c / l * v[1] + dt / l * (a * s - g * c), 0.0, 1 - c / l * v[3], -c / l * v[4]]
        rows = [[dt * y for y in v], [dt * y for y in w], v, w]
        rows[0][0] += 1
        rows[1][1] += 1
        return rows

    step, derivative = (
        (pendulum_step, pendulum_derivative) if problem == "pendulum" else (cart_step, cart_derivative)
    )

    def by_differences(x: np.ndarray, u: float) -> np.ndarray:
        h, at = 1e-7, np.array(step(x, u))
        columns = [np.array(step(x + h * unit, u)) - at for unit in np.eye(n)]
        return np.array([*columns, np.array(step(x, u + h)) - at]).T / h

    class Action(crocoddyl.ActionModelAbstract):
        def __init__(self, terminal: bool) -> None:
            crocoddyl.ActionModelAbstract.__init__(self, crocoddyl.StateVector(n), 1, 1)
            self.terminal = terminal

        def calc(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
            error = x - goal
            if self.terminal or u is None:
                data.cost = 0.5 * final * float(error @ error)
                data.xnext = x
            else:
                force = float(u[0])
                data.cost = 0.5 * dt * (stage * float(error @ error) + effort * force * force)
                data.xnext = np.array(step(x, force))

        def calcDiff(self, data: Any, x: np.ndarray, u: np.ndarray | None = None) -> None:
            if self.terminal or u is None:
                data.Lx, data.Lxx = final * (x - goal), final * np.eye(n)
                return
            force = float(u[0])
            F = np.array(by_differences(x, force) if differences else derivative(x, force))
            data.Fx, data.Fu = F[:, :n], F[:, n:]
            data.Lx, data.Lu = dt * stage * (x - goal), np.array([dt * effort * force])
            data.Lxx, data.Luu = dt * stage * np.eye(n), np.array([[dt * effort]])

    return Action(False), Action(True)


def jax_solver(problem: str) -> Callable[[], tuple[float, int]]:
    """A plain jitted iLQR: the algorithm of ours (one model, six step sizes at once), in one while loop."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    dt, g = 0.05, 9.81
    stage, effort, final = (1.0, 0.1, 100.0) if problem == "pendulum" else (0.1, 1.0, 10.0)
    goal = jnp.array([math.pi, 0.0] if problem == "pendulum" else [0.0, math.pi, 0.0, 0.0])
    n, T = len(goal), 100

    def step(x: Any, u: Any) -> Any:
        if problem == "pendulum":
            rate = x[1] + dt * (u[0] - g * jnp.sin(x[0]) - 0.1 * x[1])
            return jnp.array([x[0] + dt * rate, rate])
        s, c = jnp.sin(x[1]), jnp.cos(x[1])
        a = (u[0] + 0.3 * s * (x[3] ** 2 + g * c)) / (1 + 0.3 * s * s)
        velocity, rate = x[2] + dt * a, x[3] - dt * (a * c + g * s)
        return jnp.array([x[0] + dt * velocity, x[1] + dt * rate, velocity, rate])

    def running(x: Any, u: Any) -> Any:
        return 0.5 * dt * (stage * jnp.sum((x - goal) ** 2) + effort * jnp.sum(u**2))

    def terminal(x: Any) -> Any:
        return 0.5 * final * jnp.sum((x - goal) ** 2)

    def rollout(X: Any, U: Any, k: Any, K: Any, size: Any) -> Any:
        def advance(x: Any, at: Any) -> Any:
            y, v, feed, gain = at
            u = v + size * feed + gain @ (x - y)
            return step(x, u), (x, u, running(x, u))

        end, (states, controls, costs) = jax.lax.scan(advance, X[0], (X[:-1], U, k, K))
        return jnp.concatenate([states, end[None]]), controls, costs.sum() + terminal(end)

    def backward(X: Any, U: Any, mu: Any) -> Any:
        A, B = jax.vmap(jax.jacfwd(step, (0, 1)))(X[:-1], U)
        lx, lu = jax.vmap(jax.grad(running, (0, 1)))(X[:-1], U)
        (lxx, lxu), (_, luu) = jax.vmap(jax.hessian(running, (0, 1)))(X[:-1], U)
        unit = jnp.abs(jnp.diagonal(luu, axis1=-1, axis2=-2)).mean()

        def eliminate(value: Any, at: Any) -> Any:
            P, p, promise = value
            A, B, lx, lu, lxx, lxu, luu = at
            Qx, Qu = lx + A.T @ p, lu + B.T @ p
            Qxx, Qxu = lxx + A.T @ P @ A, lxu + A.T @ P @ B
            Quu = luu + B.T @ P @ B + mu * unit * jnp.eye(1)
            k, K = -Qu / Quu[0], -Qxu.T / Quu[0]
            return (Qxx + Qxu @ K, Qx + Qxu @ k, promise - 0.5 * Qu @ k), (k, K)

        end = (jax.hessian(terminal)(X[-1]), jax.grad(terminal)(X[-1]), 0.0)
        value, (k, K) = jax.lax.scan(eliminate, end, (A, B, lx, lu, lxx, lxu, luu), reverse=True)
        return k, K, value[2]

    sizes = 0.5 ** jnp.arange(6)

    def iterate(carry: Any) -> Any:
        X, U, J, mu, count, _ = carry
        k, K, promise = backward(X, U, mu)
        states, controls, costs = jax.vmap(lambda a: rollout(X, U, k, K, a))(sizes)
        costs = jnp.where(jnp.isfinite(costs), costs, jnp.inf)
        best = costs.argmin()
        lower = costs[best] < J
        done = (promise <= 1e-9 * J) & (mu <= 1e-6)
        mu = jnp.where(lower & (best <= 1), mu / 10, jnp.where(lower & (best <= 3), mu, mu * 10))
        X, U = jnp.where(lower, states[best], X), jnp.where(lower, controls[best], U)
        return X, U, jnp.where(lower, costs[best], J), jnp.clip(mu, 1e-9, 1e12), count + 1, done

    @jax.jit
    def solve(x0: Any) -> Any:
        zero = jnp.zeros((T, 1))
        start = jnp.broadcast_to(x0, (T + 1, n))
        X, U, J = rollout(start, zero, zero, jnp.zeros((T, 1, n)), 0.0)
        carry = jax.lax.while_loop(lambda c: ~c[5] & (c[4] < 500), iterate, (X, U, J, 1e-6, 0, False))
        return carry[2], carry[4]

    x0 = np.zeros(n)
    return lambda: tuple(np.asarray(v).item() for v in solve(x0))  # type: ignore[return-value]


def fresh(which: str, problem: str) -> None:
    """In a process of its own: import, first solve (with compilation, where there is any), second solve."""
    solve = jax_solver(problem) if which == "jax" else ours(problem, which)
    imported = 1e3 * time.process_time()  # of all that the process has done: this module imports much itself
    print(json.dumps({"import_ms": imported, "first": timed(solve, 1), "second": timed(solve, 1)}))


def in_fresh_process(which: str, problem: str, repeats: int) -> dict[str, Any]:
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.benchmarks.control", "fresh", which, problem]
    rows = []
    for _ in range(repeats):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    row = rows[0]["first"] | {"repeats": repeats}
    for name in ("cpu_ms", "wall_ms"):
        row[name] = statistics.median(r["first"][name] for r in rows)
    row["second_cpu_ms"] = statistics.median(r["second"]["cpu_ms"] for r in rows)
    row["import_cpu_ms"] = statistics.median(r["import_ms"] for r in rows)
    return row


def batch(problem: str, solver: str) -> dict[str, Any]:
    """256 initial states at once, and some of them one after the other, scaled to all."""
    from deltatheory.control.solvers.ilqr import DDP, ILQR

    method = {"ILQR": ILQR, "DDP": DDP}[solver]()
    x0 = np.random.default_rng(0).uniform(-0.5, 0.5, (BATCH, make(problem).state_size))
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


def infinite_horizon(package: str) -> Callable[[], tuple[float, int]]:
    system = make("lqr")
    F = system.expand(np.zeros((101, 1, 12)), np.zeros((100, 1, 4))).F[0, 0]
    if package == "control":
        import control

        solve = lambda: control.dlqr(F[:, :12], F[:, 12:], np.eye(12), 0.1 * np.eye(4))[1]  # noqa: E731
    else:
        from scipy.linalg import solve_discrete_are

        solve = lambda: solve_discrete_are(F[:, :12], F[:, 12:], np.eye(12), 0.1 * np.eye(4))  # noqa: E731
    return lambda: (0.5 * system.x0 @ solve() @ system.x0, 1)


def rows(repeats: int, fresh_repeats: int) -> list[dict[str, Any]]:
    found = []

    def add(problem: str, solver: str, package: str, solve: Callable[[], dict[str, Any]]) -> None:
        row = {"problem": problem, "solver": solver}
        missing = importlib.util.find_spec(package) is None
        found.append(row | ({"skipped": f"{package} is not installed"} if missing else solve()))
        print(found[-1], flush=True)

    for problem in PROBLEMS:
        for solver in ("Riccati", "ILQR", "DDP") if problem == "lqr" else ("ILQR", "DDP"):
            add(problem, f"ours, {solver}", "numpy", lambda s=solver, p=problem: timed(ours(p, s), repeats))
        for solver in ("DDP", "FDDP"):
            name = f"crocoddyl {solver}, {'model in C++' if problem == 'lqr' else 'scalar Python model'}"
            call = lambda s=solver, p=problem: timed(crocoddyl_solver(p, s), repeats)  # noqa: E731
            add(problem, name, "crocoddyl", call)
        if problem == "lqr":
            for package, name in (("control", "python-control dlqr"), ("scipy", "scipy solve_discrete_are")):
                call = lambda p=package: timed(infinite_horizon(p), repeats)  # noqa: E731
                add(problem, f"{name}, infinite horizon", package, call)
            continue
        call = lambda p=problem: timed(crocoddyl_solver(p, "FDDP", True), 1)  # noqa: E731
        add(problem, "crocoddyl FDDP, the same, finite differences", "crocoddyl", call)
        for which in ("DDP", "jax"):
            name = "jitted JAX iLQR" if which == "jax" else f"ours, {which}"
            package = "jax" if which == "jax" else "numpy"
            call = lambda w=which, p=problem: in_fresh_process(w, p, fresh_repeats)  # noqa: E731
            add(problem, f"{name}, fresh process", package, call)
    return found


def bank_solvers(name: str) -> dict[str, tuple[str, Callable[[], Callable[[], tuple[float, int]]]]]:
    """Solver ↦ the package that it needs, and what puts the problem together and returns its solve."""
    from deltatheory.control.solvers.ilqr import DDP
    from deltatheory.control.systems.analytic import _by_torch

    stated = BANK[name]

    def ddp(by_torch: bool) -> Callable[[], tuple[float, int]]:
        system = stated.system()
        if by_torch:
            system.derivatives = _by_torch(system._step, system._running, system._terminal)

        def solve() -> tuple[float, int]:
            found = DDP().solve(system, start=stated.first())
            return found.cost, found.details["iterations"]

        return solve

    def by_ipopt() -> Callable[[], tuple[float, int]]:
        solve = control_bank.ipopt(stated)
        return lambda: solve(stated.first())

    return {
        "ours, DDP": ("numpy", lambda: ddp(False)),
        "ours, DDP, derivatives by torch": ("torch", lambda: ddp(True)),
        "CasADi + IPOPT": ("casadi", by_ipopt),
        "crocoddyl, Python model, differences": ("crocoddyl", lambda: control_bank.crocoddyl(stated)),
    }


def bank_rows(repeats: int) -> list[dict[str, Any]]:
    found = []
    for name in TWELVE:
        for solver, (package, build) in bank_solvers(name).items():
            row = {"problem": name, "solver": solver, "optimum": BANK[name].optimum}
            if importlib.util.find_spec(package) is None:
                found.append(row | {"skipped": f"{package} is not installed"})
                continue
            began = time.process_time()
            solve = build()
            solve()
            row["first_cpu_ms"] = 1e3 * (time.process_time() - began)
            found.append(row | timed(solve, 1 if "differences" in solver or "torch" in solver else repeats))
            print(found[-1], flush=True)
    return found


def bank_table(found: list[dict[str, Any]]) -> str:
    lines = []
    for row in found:
        if "skipped" in row:
            lines.append([row["problem"], row["solver"], row["skipped"], "", "", "", ""])
            continue
        error = (row["cost"] - row["optimum"]) / abs(row["optimum"])
        times = [f"{row['first_cpu_ms']:.1f}", f"{row['cpu_ms']:.1f}"]
        lines.append(
            [row["problem"], row["solver"], *times, row["iterations"], f"{row['cost']:.9g}", f"{error:.0e}"]
        )
    columns = ["problem", "solver", "first call, CPU ms", "again", "iterations", "cost", "above the optimum"]
    return Table("", columns, lines).body()


def table(
    found: list[dict[str, Any]],
    batches: list[dict[str, Any]],
    bank: list[dict[str, Any]],
    facts: dict[str, Any],
) -> str:
    solved = []
    for row in found:
        if "skipped" in row:
            solved.append([row["problem"], row["solver"], row["skipped"], "", "", ""])
            continue
        cpu = f"{row['cpu_ms']:.1f}"
        if "second_cpu_ms" in row:
            cpu += f" (again {row['second_cpu_ms']:.1f}; import {row['import_cpu_ms']:.0f})"
        rest = [f"{row['wall_ms']:.1f}", row["iterations"], f"{row['cost']:.9g}"]
        solved.append([row["problem"], row["solver"], cpu, *rest])
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
        Table("", ["problem", "solver", "CPU ms", "wall ms", "iterations", "cost"], solved).body(),
        f"## {BATCH} initial states",
        Table("", [*columns, "cost differs by"], together).body(),
        f"One by one: {SAMPLE} of them, scaled to all.",
        "## Twelve problems of the bank",
        bank_table(bank),
    ]
    return "\n\n".join(parts)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for control-cpu.{json,md}.")] = Path(),
    repeats: int = 5,
    fresh_repeats: int = 3,
) -> None:
    """Measure and write one table."""
    if context.invoked_subcommand is not None:
        return
    found = rows(repeats, fresh_repeats)
    batches = [batch(problem, solver) for problem in PROBLEMS[1:] for solver in ("ILQR", "DDP")]
    bank = bank_rows(repeats)
    facts = {
        "CPU": processor(),
        "threads": 1,
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    values = {"facts": facts, "rows": found, "batches": batches, "bank": bank}
    write(out / "control-cpu", values, table(found, batches, bank, facts))


app.command()(fresh)


@app.command()
def optima(
    out: Annotated[Path, typer.Option(help="Folder for control-bank.{json,md}.")] = Path(), guesses: int = 3
) -> None:
    """Solve all problems of the bank with all that takes them, and certify the optima by IPOPT."""
    from deltatheory.control.solvers import solve

    found, cells = [], []
    for name, stated in BANK.items():
        least, times = control_bank.certified(stated, guesses)
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
