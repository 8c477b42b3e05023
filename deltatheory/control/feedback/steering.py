"""`steer`: how much of the accuracy that disturbances take away does a controller give back, at what cost?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltatheory._numbers import check_number
from deltatheory._shapes import Float
from deltatheory.backbones import Batch
from deltatheory.control.feedback.disturbances import (
    DISTURBANCES,
    Disturbance,
    disturbed_batches,
    make_disturbance,
)
from deltatheory.control.feedback.policies import (
    GRIDS,
    TUNED,
    Policy,
    check_policies,
    check_policy,
    make_policy,
    policies_of,
)
from deltatheory.control.feedback.setpoints import NominalStates, check_read_once, nominal_states
from deltatheory.deltas import Delta
from deltatheory.deltas.files import load_delta, save_delta
from deltatheory.problems import ClassificationProblem, Split
from deltatheory.results import Result, provenance
from deltatheory.training.trainer import Training, train

__all__ = [
    "PolicyTuning",
    "SteeringProtocol",
    "SteeringResult",
    "SteeringRow",
    "check_names",
    "latencies",
    "score",
    "steer",
    "tune_policy",
    "tuned_delta",
]

CLEAN = "clean"
_ROUNDING = 1e-9  # of differences of accuracies, which are shares of texts


def check_names(
    controllers: Sequence[str],
    disturbances: Iterable[str | Disturbance],
    problem: ClassificationProblem | None = None,
) -> None:
    """Refuse a name that is no controller's or no disturbance's, before anything is run.

    Args:
        controllers: names.
        disturbances: names, or disturbances.
        problem: whose delta must take the controllers, if it is known already.

    Raises:
        ValueError: for such a name, with those there are, or the own head of an
            encoder-decoder.
    """
    if problem is not None:
        check_read_once(problem)
    check_policies(controllers)
    if problem is not None and (unfit := set(controllers) - set(policies_of(problem))):
        raise ValueError(
            f"controller={min(unfit)!r}: the delta {problem.delta.name!r} does not take it; allowed are "
            f"{', '.join(policies_of(problem))}."
        )
    for name in disturbances:
        if isinstance(name, str) and name not in DISTURBANCES:
            raise ValueError(f"disturbance={name!r}: allowed are {', '.join(DISTURBANCES)}.")


def tuned_delta(
    problem: ClassificationProblem,
    file: str | os.PathLike[str] | None = None,
    training: Training | None = None,
) -> Float[Tensor, " m"]:
    """Return the δ of a tuned model: from a file, or trained here.

    Args:
        problem: the task and its backbone.
        file: with a δ of the problem's delta, as `deltatheory train` writes it; `None` to train.
        training: how; 60 steps at a learning rate of 0.01 by default.

    Raises:
        ValueError: for a δ of another delta, or where the training diverges.
    """
    if file is None:
        trained = train(problem, training or Training(steps=60, learning_rate=1e-2, seed=problem.seed))
        if trained.test is None:
            raise ValueError(f"training {trained.status}.")
        return trained.delta
    kept, value = load_delta(file, problem.backbone)
    asked = problem.delta.specification()
    if kept.specification() != asked:
        raise ValueError(f"tuned={os.fspath(file)!r} holds {kept.specification()}: asked for is {asked}.")
    return value


@dataclass(frozen=True)
class SteeringRow:
    """One controller under one disturbance.

    Attributes:
        controller: its name.
        disturbance: its name, or "clean".
        accuracy: share of texts that are right.
        energy: of the control, a text, in the mean: |δ|² of a fixed δ, |ψ|² of a robust prefix, Σ_t |u_t|²
            of feedback. Only those of the same kind compare.
        texts: how many.
    """

    controller: str
    disturbance: str
    accuracy: float
    energy: float
    texts: int


@torch.no_grad()
def score(
    policy: Policy,
    disturbance: Disturbance,
    batches: Sequence[tuple[Batch, Tensor]],
) -> tuple[float, float]:
    """Return the accuracy and the energy a text of a policy on disturbed batches.

    Args:
        policy: of `make_policy`.
        disturbance: what acts on the activations meanwhile.
        batches: of `disturbed_batches`, which have its texts and tokens.

    Raises:
        FloatingPointError: if a logit is not finite.
    """
    right, energy, texts = 0, 0.0, 0
    with disturbance.acting(policy.problem.backbone.layers):
        for batch, labels in batches:
            logits, spent = policy.run(batch)
            if not logits.isfinite().all():
                raise FloatingPointError("the logits under control are not finite: lower its gains.")
            right += int((logits.argmax(1) == labels).sum())
            energy += float(spent)
            texts += len(batch)
    return right / texts, energy / texts


@torch.no_grad()
def latencies(
    policies: Mapping[str, Policy],
    batches: Sequence[tuple[Batch, Tensor]],
    *,
    reference: str = TUNED,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Return the seconds that each policy takes a batch, and what it adds to the reference.

    The policies take turns on each batch, so that what else the machine does falls on all alike; what is
    added is the median over batches of the ratio of the two times on the same batch (each the least of the
    repeats), less 1.

    Args:
        policies: by name.
        batches: undisturbed.
        reference: the policy that others are compared with.
        repeats: turns on each batch.
        clock: wall-clock time by default; `time.process_time` on a machine that does other work.
    """

    def now(batch: Batch) -> float:
        if batch.input_ids.is_cuda:
            torch.cuda.synchronize()
        return clock()

    seconds: dict[str, list[float]] = {name: [] for name in policies}
    for batch, _ in batches:
        times: dict[str, list[float]] = {name: [] for name in policies}
        for _ in range(repeats):
            for name, policy in policies.items():
                began = now(batch)
                policy.run(batch)
                times[name].append(now(batch) - began)
        for name in policies:
            seconds[name].append(min(times[name]))
    return {
        name: {
            "seconds": median(values),
            "added": median(a / b for a, b in zip(values, seconds[reference], strict=True)) - 1,
        }
        for name, values in seconds.items()
    }


@dataclass(frozen=True)
class PolicyTuning:
    """Which settings of a policy are the best of a grid.

    Attributes:
        best: settings with the best mean accuracy over conditions; the first of equals.
        tried: settings and accuracies by condition of all.
    """

    best: dict[str, Any]
    tried: list[dict[str, Any]]


def tune_policy(
    name: str,
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    nominal: NominalStates,
    disturbed: Mapping[str, tuple[Disturbance, Sequence[tuple[Batch, Tensor]]]],
    grid: Sequence[Mapping[str, Any]] | None = None,
) -> PolicyTuning:
    """Compare settings of a policy under disturbances.

    Args:
        name: of the policy.
        problem: the task and its backbone.
        delta: δ of the tuned model.
        nominal: its states.
        disturbed: name ↦ disturbance and batches of the dev split; "clean" may be among them.
        grid: settings to try; `GRIDS[name]` by default.

    Raises:
        ValueError: for a policy without a grid.
    """
    grid = GRIDS.get(name) if grid is None else grid
    if not grid:
        raise ValueError(f"controller={name!r} has no grid: allowed are {', '.join(GRIDS)}.")
    tried = []
    for settings in grid:
        policy = make_policy(name, problem, delta, nominal, **settings)
        accuracies = {n: score(policy, d, batches)[0] for n, (d, batches) in disturbed.items()}
        tried.append({"settings": dict(settings), "accuracies": accuracies})
    return PolicyTuning(max(tried, key=lambda one: mean(one["accuracies"].values()))["settings"], tried)


@dataclass(frozen=True, eq=False)
class SteeringResult(Result):
    """What disturbances take and controllers give back.

    Attributes:
        rows: one a controller and disturbance, and a controller without any.
        latency: controller ↦ seconds a batch (median), and what it adds to the tuned model, as a share.
        settings: controller ↦ its settings.
        disturbances: name ↦ its settings.
        chance: share of the most frequent class, the accuracy of a constant.
        passes: forward-equivalents over single examples.
        seconds: time taken.
        provenance: versions, machine, commit and command.
        delta: whose δ was steered.
        value: δ.
    """

    BESIDE: ClassVar[tuple[str, ...]] = ("delta", "value")

    rows: list[SteeringRow]
    latency: dict[str, dict[str, float]]
    settings: dict[str, dict[str, Any]]
    disturbances: dict[str, dict[str, Any]]
    chance: float
    passes: float
    seconds: float
    provenance: dict[str, Any]
    delta: Delta = field(repr=False)
    value: Float[Tensor, " m"] = field(repr=False)

    def accuracy(self, controller: str, disturbance: str = CLEAN) -> float:
        """Return one accuracy."""
        found = [r for r in self.rows if (r.controller, r.disturbance) == (controller, disturbance)]
        if not found:
            raise ValueError(f"controller={controller!r}, disturbance={disturbance!r}: there is no such row.")
        return found[0].accuracy

    def recovered(self, controller: str, disturbance: str | None = None) -> float | None:
        """Return the share of the accuracy lost by the tuned model that a controller gives back.

        (a - b)/(c - b), a and b the accuracies with it and of the tuned model alone under the disturbance, c
        that of the tuned model undisturbed; over all disturbances together by default. `None` where nothing
        was lost.
        """
        names = list(self.disturbances) if disturbance is None else [disturbance]
        lost = sum(self.accuracy(TUNED) - self.accuracy(TUNED, name) for name in names)
        gained = sum(self.accuracy(controller, name) - self.accuracy(TUNED, name) for name in names)
        return gained / lost if lost > _ROUNDING else None

    def table(self) -> str:
        """Return a markdown table: accuracies, share recovered, energy under disturbance, added latency."""
        names = list(self.disturbances)
        head = ["controller", CLEAN, *names, "recovered", "energy", "seconds/batch", "added"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for controller in self.settings:
            own = [r for r in self.rows if r.controller == controller and r.disturbance != CLEAN]
            share, taken = self.recovered(controller), self.latency[controller]
            cells = [controller, *(f"{self.accuracy(controller, name):.3f}" for name in (CLEAN, *names))]
            cells += ["-" if share is None else f"{share:.0%}", f"{mean(r.energy for r in own):.3g}"]
            cells += [f"{taken['seconds']:.4f}", f"{taken['added']:+.0%}"]
            lines.append("| " + " | ".join(cells) + " |")
        constant = ["chance", *[f"{self.chance:.3f}"] * (1 + len(names)), *["-"] * 4]
        return "\n".join([*lines, "| " + " | ".join(constant) + " |"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the shares recovered."""
        names = {"all": None, **{name: name for name in self.disturbances}}
        shares = {c: {key: self.recovered(c, name) for key, name in names.items()} for c in self.settings}
        return {**super().to_dict(), "recovered": shares}

    def save_beside(self, folder: Path) -> None:
        """Write the δ that was steered."""
        save_delta(folder / "delta.safetensors", self.delta, self.value)


@dataclass(frozen=True)
class SteeringProtocol:
    """How policies are compared.

    Attributes:
        examples: training texts that nominal states come from, at most those there are.
        batch_size: of a pass; setpoints and prefixes that look at the batch see so many texts.
        seed: of disturbances given by name.
        timed: batches that latencies are measured on.
        clock: that they are measured with; see `latencies`.
        rehearsed: disturbances of the training texts that the setpoint "rehearsed-class" knows; others, or
            other draws, than those that are run say what that is worth.
    """

    examples: int = 256
    batch_size: int = 32
    seed: int = 0
    timed: int = 8
    clock: Callable[[], float] = time.perf_counter
    rehearsed: tuple[Disturbance, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("batch_size", 1), ("seed", 0), ("timed", 1)):
            check_number(name, getattr(self, name), whole=True, least=least)


def steer(
    problem: ClassificationProblem,
    delta: Float[Tensor, " m"],
    controllers: Sequence[str] | None = None,
    disturbances: Sequence[str | Disturbance] = tuple(DISTURBANCES),
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    split: Split | None = None,
    protocol: SteeringProtocol | None = None,
    on_row: Callable[[SteeringRow], None] | None = None,
) -> SteeringResult:
    """Run controllers on a tuned model under disturbances.

    The tuned model alone is always among the controllers: losses, shares and latencies refer to it.

    Args:
        problem: the task and its backbone.
        delta: δ of the tuned model.
        controllers: keys of `POLICIES`; all that the delta takes by default.
        disturbances: keys of `DISTURBANCES`, with their defaults, or disturbances.
        settings: controller ↦ its settings, as in `make_policy`; see `tune_policy`.
        split: what is disturbed; the test split by default.
        protocol: how they are compared.
        on_row: called with each row.

    Raises:
        ValueError: for an unknown name, no disturbance, or settings out of range.
    """
    problem.backbone.check_on_one_device("steer")
    began, before = time.perf_counter(), problem.passes
    if not disturbances:
        raise ValueError(f"disturbances: there are none; give some of {', '.join(DISTURBANCES)}.")
    chosen_split: Split = problem.test if split is None else split
    protocol = protocol or SteeringProtocol()
    controllers = policies_of(problem) if controllers is None else controllers
    check_names(controllers, disturbances, problem)
    names = [TUNED, *(name for name in controllers if name != TUNED)]
    if unused := sorted(set(settings or {}) - set(names)):
        raise ValueError(f"settings: has {unused[0]!r}; the controllers are {', '.join(names)}.")
    chosen = {name: dict((settings or {}).get(name, {})) for name in names}
    for name in names:
        check_policy(name, chosen[name])
    size = protocol.batch_size
    acting = [
        one if isinstance(one, Disturbance) else make_disturbance(one, problem, delta, seed=protocol.seed)
        for one in disturbances
    ]
    nominal = nominal_states(
        problem, delta, examples=protocol.examples, batch_size=size, rehearsed=protocol.rehearsed
    )
    policies = {name: make_policy(name, problem, delta, nominal, **chosen[name]) for name in names}
    rows = []
    clean = disturbed_batches(problem, chosen_split, Disturbance(), size)
    for disturbance in (Disturbance(), *acting):
        batches = disturbed_batches(problem, chosen_split, disturbance, size)
        for name, policy in policies.items():
            accuracy, energy = score(policy, disturbance, batches)
            rows.append(SteeringRow(name, disturbance.name, accuracy, energy, len(chosen_split)))
            if on_row:
                on_row(rows[-1])
    return SteeringResult(
        rows,
        latencies(policies, clean[: protocol.timed], clock=protocol.clock),
        chosen,
        {one.name: asdict(one) for one in acting},
        Counter(chosen_split.examples.labels).most_common(1)[0][1] / len(chosen_split),
        problem.passes - before,
        time.perf_counter() - began,
        {
            **provenance(),
            "model": problem.backbone.provenance,
            "task": {"name": problem.task.name, **problem.task.provenance},
        },
        problem.delta,
        delta,
    )
