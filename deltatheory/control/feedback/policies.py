"""What runs a tuned model: δ alone, a controller that acts on what it sees, a prefix tuned on every batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Batch
from deltatheory.backbones.batch import pool
from deltatheory.control.feedback.controllers import PID, Controller, LQRFeedback, lqr_gains, steered
from deltatheory.control.feedback.hooks import watching
from deltatheory.control.feedback.robust_prefix import RobustPrefix, principal_bases
from deltatheory.control.feedback.setpoints import (
    ClassSetpoint,
    NominalStates,
    Setpoint,
    check_setpoint,
    make_setpoint,
)
from deltatheory.deltas.prefix import PrefixTuning
from deltatheory.problems import ClassificationProblem

__all__ = [
    "GRIDS",
    "POLICIES",
    "TUNED",
    "Policy",
    "check_policies",
    "check_policy",
    "make_policy",
    "policies_of",
]

TUNED = "tuned"


class Policy(ABC):
    """A model as it runs: which δ, and what corrects it on the way."""

    def __init__(self, problem: ClassificationProblem) -> None:
        self.problem = problem

    @abstractmethod
    def run(self, batch: Batch) -> tuple[Float[Tensor, "B C"], float | Tensor]:
        """Return the logits of a batch, and the energy of the control summed over its texts."""


class OpenLoop(Policy):
    """A fixed δ; its energy is |δ|² a text."""

    def __init__(self, problem: ClassificationProblem, delta: Float[Tensor, " m"]) -> None:
        super().__init__(problem)
        self.delta, self._energy = delta, float(delta.square().sum())

    def run(self, batch: Batch) -> tuple[Float[Tensor, "B C"], float | Tensor]:
        """Return the logits at δ."""
        self.problem.count(len(batch), forward=1.0)
        return self.problem.logits(self.delta, batch), self._energy * len(batch)


class Feedback(Policy):
    """A controller over a fixed δ; its energy is Σ_t |u_t|² over the blocks."""

    def __init__(
        self,
        problem: ClassificationProblem,
        delta: Float[Tensor, " m"],
        controller: Controller,
        nominal: NominalStates,
    ) -> None:
        super().__init__(problem)
        self.delta, self.controller, self.nominal = delta, controller, nominal

    def run(self, batch: Batch) -> tuple[Float[Tensor, "B C"], float | Tensor]:
        """Return the logits at δ under control."""
        self.problem.count(len(batch), forward=1.0)
        backbone = self.problem.backbone
        with steered(backbone.model, backbone.layers, self.controller, self.nominal.pooling) as meter:
            return self.problem.logits(self.delta, batch), meter.squares


class AdaptedPrefix(Policy):
    """A prefix that is tuned on every batch; its energy is |ψ|², the further prefix alone, a text."""

    def __init__(
        self, problem: ClassificationProblem, delta: Float[Tensor, " m"], robust: RobustPrefix
    ) -> None:
        super().__init__(problem)
        self.delta, self.robust = delta, robust

    def run(self, batch: Batch) -> tuple[Float[Tensor, "B C"], float | Tensor]:
        """Return the logits at δ + ψ(batch)."""
        adapted = self.robust.adapted(self.delta, batch)
        self.problem.count(len(batch), forward=1.0)
        energy = (adapted - self.delta).square().sum() * len(batch)
        return self.problem.logits(adapted, batch), energy


class ProbeAlone(Policy):
    """The linear classifier of a class setpoint, read from the states of a fixed δ, which nothing moves.

    What a controller does beyond it is due to actuation. Its energy is 0.
    """

    def __init__(
        self, problem: ClassificationProblem, delta: Float[Tensor, " m"], setpoint: ClassSetpoint
    ) -> None:
        super().__init__(problem)
        self.delta, self.setpoint = delta, setpoint

    def run(self, batch: Batch) -> tuple[Float[Tensor, "B C"], float | Tensor]:
        """Return the log odds of the classes, summed over the blocks."""
        backbone, nominal = self.problem.backbone, self.setpoint.nominal
        memory: list[Tensor] = []
        with watching(backbone.model, backbone.layers, partial(self._read, memory)):
            logits = self.problem.logits(self.delta, batch)
        self.problem.count(len(batch), forward=1.0)
        odds = torch.full_like(logits, torch.finfo(logits.dtype).min)  # of a class without a nominal text
        odds[:, nominal.labels.unique()] = memory[-1].to(logits.dtype)
        return odds, 0.0

    def _read(self, memory: list[Tensor], t: int, x: Tensor, mask: Tensor) -> None:
        self.setpoint.error(t, pool(x, mask, self.setpoint.nominal.pooling), memory)


def _probe(
    problem: ClassificationProblem,
    delta: Tensor,
    nominal: NominalStates,
    setpoint: str | Setpoint = "recentred-class",
) -> Policy:
    made = make_setpoint(setpoint, nominal)
    if not isinstance(made, ClassSetpoint):
        raise ValueError(f"setpoint={setpoint!r}: a probe tells classes; allowed are class, recentred-class.")
    return ProbeAlone(problem, delta, made)


def _pid(
    problem: ClassificationProblem,
    delta: Tensor,
    nominal: NominalStates,
    setpoint: str | Setpoint = "recentred-class",
    **gains: float,
) -> Policy:
    return Feedback(problem, delta, PID(make_setpoint(setpoint, nominal), **gains), nominal)


def _lqr(
    problem: ClassificationProblem,
    delta: Tensor,
    nominal: NominalStates,
    setpoint: str | Setpoint = "recentred-class",
    control_weight: float = 1.0,
    principal: int = 0,
) -> Policy:
    about = {"control_weight": control_weight, "principal": principal}
    solution = lqr_gains(problem, delta, nominal, **about)
    if solution.value is None:
        raise ValueError(f"lqr: {solution.status}; {solution.remedy}.")
    return Feedback(problem, delta, LQRFeedback(make_setpoint(setpoint, nominal), solution.value), nominal)


def _robust(problem: ClassificationProblem, delta: Tensor, nominal: NominalStates, **options: Any) -> Policy:
    options = {"blocks": min(3, len(nominal.states)), **options}
    robust = RobustPrefix(problem, nominal, principal_bases(nominal.states), **options)
    return AdaptedPrefix(problem, delta, robust)


# "none" is the frozen backbone, "tuned" δ alone, "probe" what its states tell without control; the others
# act on top of δ.
POLICIES: dict[str, Callable[..., Policy]] = {
    "none": lambda problem, delta, nominal: OpenLoop(problem, problem.delta.initial()),
    TUNED: lambda problem, delta, nominal: OpenLoop(problem, delta),
    "probe": _probe,
    "robust-prefix": _robust,
    "pid": _pid,
    "lqr": _lqr,
}

# What each may be told, and which numbers are allowed.
_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "probe": {"setpoint": {}},
    "pid": {"setpoint": {}, "proportional": {}, "integral": {}, "derivative": {}},
    "lqr": {"setpoint": {}, "control_weight": {"above": 0}, "principal": {"whole": True, "least": 0}},
    "robust-prefix": {
        "learning_rate": {"above": 0},
        "iterations": {"whole": True, "least": 1},
        "blocks": {"whole": True, "least": 1},
    },
}

# What `tune` tries: as many settings for each.
GRIDS: dict[str, list[dict[str, Any]]] = {
    "robust-prefix": [{"learning_rate": rate} for rate in (0.003, 0.01, 0.03)],
    "pid": [
        {"setpoint": "population", "proportional": 0.5},
        *({"setpoint": "recentred-class", "proportional": p} for p in (0.3, 0.6)),
    ],
    "lqr": [
        {"setpoint": "population", "control_weight": 0.2},
        *({"setpoint": "recentred-class", "control_weight": r} for r in (0.2, 1.0)),
    ],
}


def make_policy(
    name: str,
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    nominal: NominalStates,
    **settings: Any,
) -> Policy:
    """Return a controller by name.

    Args:
        name: a key of `POLICIES`.
        problem: the task and its backbone.
        delta: δ of the tuned model.
        nominal: its states on clean training texts.
        settings: of "probe" setpoint; of "pid" setpoint, proportional, integral and derivative; of "lqr"
            setpoint, control_weight and principal (directions held beside the classes'); of "robust-prefix"
            learning_rate, iterations and blocks.

    Raises:
        ValueError: for an unknown name, or settings out of range.
    """
    check_policy(name, settings)
    return POLICIES[name](problem, delta, nominal, **settings)


def check_policies(names: Iterable[str]) -> None:
    """Refuse a name that is no policy's, before anything is run.

    Raises:
        ValueError: for such a name; it says which there are.
    """
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"controller={name!r}: allowed are {', '.join(POLICIES)}.")


def check_policy(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown policy, settings that are not its own, and what is out of range.

    Raises:
        ValueError: with the first, and what is allowed.
    """
    check_policies([name])
    known = _SETTINGS.get(name, {})
    for key, value in settings.items():
        if key not in known:
            there = f"they are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{key}={value!r}: {name!r} has no such setting; {there}.")
        if key == "setpoint":
            check_setpoint(value)
        else:
            check_number(key, value, **known[key])


def policies_of(problem: ClassificationProblem) -> list[str]:
    """Return the policies that the problem's delta takes: "robust-prefix" only a prefix without an MLP."""
    delta = problem.delta
    raw = isinstance(delta, PrefixTuning) and delta.hidden is None
    return [name for name in POLICIES if raw or name != "robust-prefix"]
