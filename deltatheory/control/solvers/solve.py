"""One question, any solver: `solve(problem, "gauss-newton")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from deltatheory.control.solvers.constrained import Constrained, MinimumEnergy
from deltatheory.control.solvers.first_order import LBFGS, SGD, Adam
from deltatheory.control.solvers.ilqr import DDP, ILQR
from deltatheory.control.solvers.least_squares import GaussNewton
from deltatheory.control.solvers.msa import EMSA, MSA
from deltatheory.control.solvers.objective import DeltaSolver, Minimizer
from deltatheory.control.solvers.sampled import SampledGaussNewton
from deltatheory.control.solvers.solution import Solution
from deltatheory.control.systems.analytic import AnalyticSystem
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.problems import ClassificationProblem, GenerationProblem, Problem

__all__ = ["SOLVERS", "make_solver", "solve"]

# In the space of δ, over the layers of a network, and for small systems given as functions.
SOLVERS: dict[str, type] = {
    "gauss-newton": GaussNewton,
    "sampled-gauss-newton": SampledGaussNewton,
    "adam": Adam,
    "sgd": SGD,
    "l-bfgs": LBFGS,
    "minimum-energy": MinimumEnergy,
    "constrained": Constrained,
    "msa": MSA,
    "e-msa": EMSA,
    "ilqr": ILQR,
    "ddp": DDP,
}

# What they solve; a `ClassificationProblem` where nothing is said.
_TAKES: dict[type, type] = {
    SampledGaussNewton: GenerationProblem,
    Adam: Problem,
    SGD: Problem,
    LBFGS: Problem,
    ILQR: AnalyticSystem,
    DDP: AnalyticSystem,
}


def solve(
    problem: Problem | AnalyticSystem,
    solver: str = "gauss-newton",
    indices: Sequence[int] | None = None,
    *,
    energy: float = 0.0,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    watch: Callable[[Tensor], dict[str, Any]] | None = None,
    **options: Any,
) -> Solution:
    """Find the best control of a network's layers, or of a small system.

    Args:
        problem: a task under a backbone and a delta, or an `AnalyticSystem` for "ilqr" and "ddp".
        solver: a key of `SOLVERS`.
        indices: training examples; all by default.
        energy: weight of ½|δ|² beside the loss; "minimum-energy" and "constrained" minimize ½|δ|² itself.
        on_step: called with each row of the history.
        watch: δ ↦ further columns of the history, whose cost does not count; solvers in the space of δ only.
        options: settings of the solver, the fields of its class.

    Raises:
        ValueError: for an unknown solver, a setting that it does not have, or a problem that is not its kind.
    """
    made: Any = make_solver(problem, solver, options, energy=energy)
    if watch is not None and not issubclass(SOLVERS[solver], DeltaSolver):
        raise ValueError(f"watch: {solver!r} does not take it; solvers in the space of δ do.")
    if isinstance(problem, AnalyticSystem):
        return made.solve(problem, on_step)
    if isinstance(made, DeltaSolver):
        return made.solve(problem, indices, on_step=on_step, watch=watch)
    assert isinstance(problem, ClassificationProblem)  # MSA and E-MSA take nothing else
    return made.solve(LayeredSystem(problem, indices, energy=energy), on_step=on_step)


def make_solver(
    problem: Problem | AnalyticSystem, solver: str, options: Mapping[str, Any], *, energy: float = 0.0
) -> Any:
    """Return a solver with its settings; what does not fit is refused before anything is computed.

    Args:
        problem: that is to be solved.
        solver: a key of `SOLVERS`.
        options: settings of the solver.
        energy: as in `solve`.

    Raises:
        ValueError: as `solve`.
    """
    fitting = [
        name for name, kind in SOLVERS.items() if isinstance(problem, _TAKES.get(kind, ClassificationProblem))
    ]
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}: allowed are {', '.join(SOLVERS)}.")
    if solver not in fitting:
        raise ValueError(
            f"solver={solver!r}: takes {_TAKES.get(SOLVERS[solver], ClassificationProblem).__name__}; "
            f"allowed for {type(problem).__name__} are {', '.join(fitting)}."
        )
    kind = SOLVERS[solver]
    known = [field.name for field in fields(kind) if field.name != "energy"]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]}: {solver!r} has no such setting; it has {', '.join(known)}.")
    if issubclass(kind, Minimizer):
        return kind(**options, energy=energy)
    if energy and not issubclass(kind, (MSA, EMSA)):
        raise ValueError(f"energy={energy}: {solver!r} takes none.")
    return kind(**options)
