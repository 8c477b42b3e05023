"""One controller for one task: solve for δ, hold it against the maximum principle, say what is reachable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.adapters import has_peft_form, to_peft
from deltatheory.control.pontryagin import MaximumPrinciple, maximum_principle
from deltatheory.control.reach.gramian import Gramian, LeastEnergy, minimum_energy, output_gramian
from deltatheory.control.solvers import make_solver
from deltatheory.control.solvers.base import OnStep, Solution
from deltatheory.control.systems.layered import LayeredSystem
from deltatheory.deltas import Delta
from deltatheory.deltas.files import save_delta
from deltatheory.linearization.error import linearization_error
from deltatheory.problems import ClassificationProblem
from deltatheory.results import Result, provenance

__all__ = ["ControlResult", "ControlledLayer", "design_controller"]

_MARGIN = 1.0  # the target of every example's margin: its loss is then 0.31
_SKETCH = 4096  # longest row of the Jacobian that is kept for a layer's Gramian
_CHECKED = 64  # examples on which the controller is compared with its linearization
_DELTA, _ADAPTER = "delta.safetensors", "adapter"


@dataclass(frozen=True)
class ControlledLayer:
    """One time step of the frozen network under control.

    Attributes:
        name: "embedding", "block 0", ..., "head".
        coordinates: how many of δ act here.
        energy: |u_t|² of the controller found; a coordinate that acts in several steps counts in each.
        costate: ‖p_t‖ under it.
        hamiltonian: H_t(x_t, u_t, p_{t+1}) under it.
        residual: ‖∂H_t/∂u_t‖ under it; 0 at a local minimum.
        residual_at_zero: the same where the solver started.
        minimum_gap: a bound on H_t(u_t) - min H_t where the minimum condition applies, else `None`.
        no_minimum_condition: why it does not apply; "" where it does.
        gramian_share: share of the trace of the output Gramian at δ = 0 that comes from coordinates which act
            here only.
    """

    name: str
    coordinates: int
    energy: float
    costate: float
    hamiltonian: float
    residual: float
    residual_at_zero: float
    minimum_gap: float | None
    no_minimum_condition: str
    gramian_share: float


@dataclass(frozen=True, eq=False)
class ControlResult(Result):
    """A controller, how it was found, and what the linearized network says can be reached.

    Attributes:
        solver: its name.
        status: why it stopped.
        remedy: what to do about it; "" where it converged.
        cost: the objective on the training examples.
        history: a row an iteration: cost, metric, passes, seconds.
        frozen: scores of δ = 0 on the test split.
        test: scores of the controller there.
        energy: |δ|².
        layers: one for each time step.
        spectrum: eigenvalues of the output Gramian of the margins at δ = 0, largest first.
        rank: of that Gramian.
        reachability: least energy that brings every linearized margin to 1, and whether any does.
        linearization_error: ‖f(δ) - f(0) - Jδ‖ / ‖Jδ‖ of the logits at the controller found.
        passes: forward-equivalents over single examples, by what they were spent on.
        seconds: time taken, by the same.
        files: what is written beside this: δ itself and, where PEFT has a form for the delta, an adapter.
        settings: of the run.
        provenance: model, task, versions, commit.
        delta: whose δ it is.
        value: δ.
    """

    BESIDE: ClassVar[tuple[str, ...]] = ("delta", "value")

    solver: str
    status: str
    remedy: str
    cost: float
    history: list[dict[str, Any]]
    frozen: dict[str, float]
    test: dict[str, float]
    energy: float
    layers: list[ControlledLayer]
    spectrum: list[float]
    rank: int
    reachability: dict[str, Any]
    linearization_error: float
    passes: dict[str, float]
    seconds: dict[str, float]
    files: list[str]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    delta: Delta = field(repr=False)
    value: Float[Tensor, " m"] = field(repr=False)

    def save_beside(self, folder: Path) -> None:
        """Write δ, and its PEFT form where there is one."""
        save_delta(folder / _DELTA, self.delta, self.value)
        if _ADAPTER in self.files:
            to_peft(self.delta, self.value, folder / _ADAPTER)


def design_controller(
    problem: ClassificationProblem,
    solver: str = "gauss-newton",
    settings: Mapping[str, Any] | None = None,
    *,
    energy_weight: float = 0.0,
    on_step: OnStep | None = None,
) -> ControlResult:
    """Find a controller δ of the frozen layers for a task, with all that is known about it.

    The mean loss over the training examples is the terminal cost Φ, w/2 |δ|² the running cost.

    Args:
        problem: a classification task under a backbone and a delta that can be cut at the layers.
        solver: a key of `deltatheory.control.SOLVERS` for networks.
        settings: its settings.
        energy_weight: w.
        on_step: called with each row of the history.

    Raises:
        ValueError: for bad settings, or a delta that no cut at the layers expresses.
    """
    problem.backbone.check_on_one_device("control")
    settings = dict(settings or {})
    weight = {"energy_weight": energy_weight} if energy_weight else {}
    made = make_solver(solver, problem, settings | weight)  # bad settings are refused before all the work
    backbone, task = problem.backbone, problem.task
    clock = _Clock(problem)
    origin = problem.delta.initial()
    frozen = problem.evaluate(origin, problem.test)
    clock.lap("evaluation")
    system = LayeredSystem(problem, energy_weight=energy_weight)
    before = maximum_principle(system, system.split(origin))
    gramian = output_gramian(problem, examples=len(problem.train), outputs="margin", sketch=_SKETCH)
    reach = minimum_energy(gramian, torch.full_like(gramian.start, _MARGIN))
    clock.lap("analysis at zero")
    solution = made.solve(problem, on_step=on_step)
    clock.lap("solver")
    after = maximum_principle(system, system.split(solution.value))
    error = linearization_error(problem, solution.value, range(min(len(problem.train), _CHECKED)))
    clock.lap("analysis of the controller")
    test = problem.evaluate(solution.value, problem.test)
    clock.lap("evaluation")
    problem.restore()
    return ControlResult(
        solver=solver,
        status=str(solution.status),
        remedy=solution.remedy,
        cost=float(solution.cost),
        history=solution.history,
        frozen=frozen,
        test=test,
        energy=float(solution.value.double().square().sum()),
        layers=_layers(system, solution, before, after, gramian),
        spectrum=gramian.eigenvalues.tolist(),
        rank=gramian.rank(),
        reachability=_reachability(reach),
        linearization_error=error,
        passes=clock.passes,
        seconds=clock.seconds,
        files=[_DELTA, _ADAPTER] if has_peft_form(problem.delta) else [_DELTA],
        settings={
            **problem.identity(),
            "solver": {"name": solver, **settings},
            "energy": energy_weight,
            "seed": problem.seed,
            "examples": len(problem.train),
            "device": str(backbone.device),
        },
        provenance={
            **provenance(),
            "model": backbone.provenance,
            "task": {"name": task.name, **task.provenance},
        },
        delta=problem.delta,
        value=solution.value,
    )


class _Clock:
    """Passes and seconds since the last lap, by name."""

    def __init__(self, problem: ClassificationProblem) -> None:
        self.problem = problem
        self.passes: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._last = problem.passes, time.perf_counter()

    def lap(self, name: str) -> None:
        now = self.problem.passes, time.perf_counter()
        self.passes[name] = self.passes.get(name, 0.0) + now[0] - self._last[0]
        self.seconds[name] = self.seconds.get(name, 0.0) + now[1] - self._last[1]
        self._last = now


def _layers(
    system: LayeredSystem,
    solution: Solution,
    before: MaximumPrinciple,
    after: MaximumPrinciple,
    gramian: Gramian,
) -> list[ControlledLayer]:
    shares = gramian.shares()
    return [
        ControlledLayer(
            name=name,
            coordinates=len(u),
            energy=float(u.double().square().sum()),
            costate=after.costate_norm[t],
            hamiltonian=after.hamiltonian[t],
            residual=after.residual[t],
            residual_at_zero=before.residual[t],
            minimum_gap=after.gap[t],
            no_minimum_condition=after.reason[t],
            gramian_share=shares.get(name, 0.0),
        )
        for t, (name, u) in enumerate(zip(system.names, system.split(solution.value), strict=True))
    ]


def _reachability(reach: LeastEnergy) -> dict[str, Any]:
    values = {name: value for name, value in vars(reach).items() if name != "multipliers"}
    return {**values, "status": str(reach.status), "target_margin": _MARGIN}
