"""Which method, which size and which modules a task needs, from kernels at δ = 0, before any training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltatheory.backbones import Backbone, load_backbone
from deltatheory.deltas import Delta, LoRA, make_delta
from deltatheory.linearization.error import linearization_error
from deltatheory.linearization.outputs import LinearizationStart
from deltatheory.linearization.ridge import FOLDS, cross_fitted_logits, fit_path
from deltatheory.linearization.selection import greedy_log_det
from deltatheory.linearization.tangent import joint_tangent_rows
from deltatheory.problems import BACKWARD, FORWARD, ClassificationProblem, folds
from deltatheory.problems.heads import make_head
from deltatheory.results import provenance, write_json
from deltatheory.tasks import Task, load_task

__all__ = ["CANDIDATES", "Advice", "Candidate", "Estimate", "advise"]

_SKETCH = 2048
_BOOTSTRAP = 500
# Spread of logit(trained score) around logit(predicted score) that linearization leaves, beside sampling: so
# wide that 90 % of the trained scores of experiments/results/advice lie in their intervals.
_MODEL_SPREAD = 1.45
_TRUSTED_ERROR = 0.5
_KEPT_GAIN = 0.9  # share of the log-det gain of all modules that those chosen must have


@dataclass(frozen=True)
class Candidate:
    """A method with its size.

    Attributes:
        method: key in `deltatheory.deltas.DELTAS`.
        options: the arguments of its class.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return method and options in one line."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


CANDIDATES = (
    Candidate("layernorm"),
    Candidate("bitfit"),
    Candidate("ia3"),
    Candidate("prefix", {"length": 4, "gate": "values"}),
    Candidate("prefix", {"length": 16, "gate": "values"}),
    Candidate("lora", {"r": 1}),
    Candidate("lora", {"r": 8}),
    Candidate("lora", {"r": 8, "targets": ["all-linear"]}),
    Candidate("adapter", {"bottleneck": 8}),
    Candidate("adapter", {"bottleneck": 32}),
    Candidate("full"),
)


@dataclass(frozen=True)
class Estimate:
    """What to expect of one candidate.

    Attributes:
        method: its method.
        options: its size.
        score: predicted accuracy after training, with the best regularization.
        low: 5 % quantile.
        high: 95 % quantile.
        parameters: tuned numbers.
        optimizer_bytes: gradient and AdamW state.
        seconds_per_step: of one training step with the given batch, as measured here.
        within_budget: whether it keeps to the budget.
    """

    method: str
    options: dict[str, Any]
    score: float
    low: float
    high: float
    parameters: int
    optimizer_bytes: int
    seconds_per_step: float
    within_budget: bool

    @property
    def label(self) -> str:
        """Return method and options in one line."""
        return Candidate(self.method, self.options).label


@dataclass(frozen=True)
class Advice:
    """Candidates, the most promising first, and what the ranking rests on.

    Attributes:
        ranked: estimates; those outside the budget come last.
        frozen: accuracy of the frozen model on the kernel's examples.
        winner: label of the first one within the budget; `None` where nothing is.
        adapter_config: for a LoRA winner, what `peft` loads: ranks and targets from the per-module kernel.
        findings: sentences: what is not known, and why.
        passes: forward-equivalents.
        seconds: time taken.
        provenance: model, task, versions, seed, commit.
    """

    ranked: list[Estimate]
    frozen: float
    winner: str | None
    adapter_config: dict[str, Any] | None
    findings: list[str]
    passes: float
    seconds: float
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def plot(self) -> Any:
        """Return a matplotlib figure: every candidate's predicted score with its interval."""
        from deltatheory.report import advice_figure

        return advice_figure(self)

    def save(self, folder: str | Path) -> None:
        """Write `advice.json`, `advice.svg` and, for a LoRA winner, `adapter_config.json`."""
        write_json(Path(folder) / "advice.json", self.to_dict())
        self.plot().savefig(Path(folder) / "advice.svg", metadata={"Date": None})
        if self.adapter_config:
            write_json(Path(folder) / "adapter_config.json", self.adapter_config)


def advise(
    model: str | Backbone = "minilm",
    task: str | Task = "stdlib-topics",
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    max_parameters: int | None = None,
    max_minutes: float | None = None,
    steps: int = 120,
    batch_size: int = 32,
    examples: int = 448,
    head: str = "label-words",
    max_length: int = 64,
    seed: int = 0,
    device: str = "cpu",
    on_example: Callable[[int, int], None] | None = None,
) -> Advice:
    """Predict, before training, the score of every candidate, and rank them.

    All deltas are joined into one, so one forward and one backward pass an example give every Jacobian J_i at
    δ = 0, of a contrast of the logits by lot (`tangent.py`). With each K_i = J_i J_iᵀ the linearized logits
    z_c = z⁰_c + ½Kα_c are fitted by ridge-regularized logistic regression and judged on held-out folds; the
    best ridge stands for the best learning rate and number of steps. With two classes that is exact; with
    more, K stands for the kernels of all their differences.

    Args:
        model: a backbone, or what `load_backbone` takes.
        task: a classification task, or what `load_task` takes.
        candidates: what to compare.
        max_parameters: budget of tuned numbers.
        max_minutes: budget of training time for `steps` steps.
        steps: of the training that is planned.
        batch_size: of that training; steps are timed with it.
        examples: training examples whose Jacobian rows are computed, at most those there are.
        head: a key of `deltatheory.problems.heads.HEADS`.
        max_length: longer texts are cut here.
        seed: of the deltas, sketches and bootstrap.
        device: "cpu" or "cuda".
        on_example: called with (done, total), for progress bars.

    Raises:
        ValueError: for no candidates, an unknown method or option, or a budget that is not positive.
    """
    if not candidates:
        raise ValueError("candidates=(): give at least one.")
    for name, value in (("max_parameters", max_parameters), ("max_minutes", max_minutes)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: must be above 0.")
    began = time.perf_counter()
    task = load_task(task) if isinstance(task, str) else task
    backbone = load_backbone(model, device=device) if isinstance(model, str) else model
    examples = min(examples, len(task.train))
    task = task.limited(examples, min(len(task.test), 1), seed)
    frozen_head = make_head(head, backbone, task, seed=seed, max_length=min(max_length, backbone.max_length))
    deltas = [make_delta(c.method, backbone, **c.options) for c in candidates]

    def problem_of(delta: Delta) -> ClassificationProblem:
        return ClassificationProblem(backbone, task, delta, frozen_head, max_length=max_length, check=False)

    fits, passes = _fits(problem_of, deltas, examples, seed, on_example)
    solved = [fit.solved() for fit in fits]

    rng = np.random.default_rng(seed)
    estimates = []
    for candidate, delta, judged in zip(candidates, deltas, solved, strict=True):
        score, low, high = _interval(judged, rng)
        seconds = _seconds_per_step(problem_of(delta), batch_size)
        within = (max_parameters is None or delta.size <= max_parameters) and (
            max_minutes is None or seconds * steps <= 60 * max_minutes
        )
        number = backbone.dtype.itemsize
        estimates.append(
            Estimate(
                candidate.method,
                dict(candidate.options),
                score,
                low,
                high,
                delta.size,
                3 * number * delta.size,
                seconds,
                within,
            )
        )
    order = sorted(
        range(len(estimates)),
        key=lambda i: (not estimates[i].within_budget, -estimates[i].score, estimates[i].parameters),
    )
    best = order[0] if estimates[order[0]].within_budget else None
    findings, config = [], None
    if best is None:
        findings.append("Budget: no candidate keeps to it; add smaller ones, or raise it.")
    else:
        findings += _ties(estimates, solved, order)
        winner = problem_of(deltas[best])
        error = linearization_error(winner, _fitted(winner, fits[best]), folds(examples, FOLDS)[0][1])
        passes += winner.passes
        if error > _TRUSTED_ERROR:
            findings.append(
                f"Linearization: at the fitted δ of {estimates[best].label} the network's logits differ from "
                f"the linearized ones by {error:.0%} of their change (trusted to {_TRUSTED_ERROR:.0%}): the "
                "order of methods is better known than their scores."
            )
        if isinstance(chosen := deltas[best], LoRA):
            config, finding = _adapter_config(chosen, fits[best], backbone.name)
            findings.append(finding)
    frozen = next((fit for fit, delta in zip(fits, deltas, strict=True) if delta.exact_zero), fits[0])
    return Advice(
        ranked=[estimates[i] for i in order],
        frozen=float(frozen.start.solved(frozen.start.logits).double().mean()),
        winner=None if best is None else estimates[best].label,
        adapter_config=config,
        findings=findings,
        passes=passes + frozen_head.passes,
        seconds=time.perf_counter() - began,
        provenance={
            **provenance(),
            "model": backbone.provenance,
            "task": {"name": task.name, **task.provenance},
            "seed": seed,
            "settings": {
                "examples": examples,
                "head": head,
                "steps": steps,
                "batch_size": batch_size,
                "model_spread": _MODEL_SPREAD,
            },
        },
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """What a candidate's linearized logits need: K by module, and where they begin."""

    modules: dict[str, Tensor]
    start: LinearizationStart

    @property
    def kernel(self) -> Tensor:
        return torch.stack(list(self.modules.values())).sum(0)

    def solved(self) -> np.ndarray:
        """Return whether each example, held out, is solved by the fit with each ridge, shape (ridges, n)."""
        return self.start.solved(cross_fitted_logits(self.kernel, self.start)).numpy()


def _fits(
    problem_of: Callable[[Delta], ClassificationProblem],
    deltas: list[Delta],
    examples: int,
    seed: int,
    on_example: Callable[[int, int], None] | None,
) -> tuple[list[_Fit], float]:
    """Return every candidate's kernels, and what they cost.

    Deltas that are the frozen model at 0 share one pass; each of the others has a reference point of its own.
    """
    exact = [i for i, delta in enumerate(deltas) if delta.exact_zero]
    groups = [exact] * bool(exact) + [[i] for i in range(len(deltas)) if i not in exact]
    fits: dict[int, _Fit] = {}
    passes = 0.0
    for group in groups:
        joined = make_delta("combined", deltas[0].backbone, deltas=[deltas[i] for i in group])
        problem = problem_of(joined)
        problem.check()
        parts = {i: _modules(deltas[i]) for i in group}
        features = joint_tangent_rows(
            problem,
            [size for modules in parts.values() for size in modules.values()],
            train=examples,
            test=0,
            outputs="contrast",
            sketch=_SKETCH,
            seed=seed,
            on_example=on_example,
        )
        start, pieces = features[0].start.double(), iter(features)
        for i, modules in parts.items():
            kernels = {name: next(pieces).kernel().cpu() for name in modules}
            fits[i] = _Fit(kernels, start)
        passes += problem.passes
    return [fits[i] for i in range(len(deltas))], passes


def _modules(delta: Delta) -> dict[str, int]:
    """Return the lengths of the parts of δ whose kernels are kept apart: the modules of a LoRA."""
    if not isinstance(delta, LoRA):
        return {"": delta.size}
    sizes: dict[str, int] = {}
    for name, shape in delta.coordinates.shapes.items():
        module = name.rsplit(".", 1)[0]
        sizes[module] = sizes.get(module, 0) + math.prod(shape)
    return sizes


def _interval(solved: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the score of the best ridge and a 90 % interval of the trained score: examples and model."""
    count = solved.shape[1]
    score = float(solved.mean(1).max())
    draws = np.array([solved[:, rng.integers(0, count, count)].mean(1).max() for _ in range(_BOOTSTRAP)])
    edge = 0.5 / count
    logits = np.log(np.clip(draws, edge, 1 - edge) / (1 - np.clip(draws, edge, 1 - edge)))
    logits += _MODEL_SPREAD * rng.standard_normal(_BOOTSTRAP)
    low, high = 1 / (1 + np.exp(-np.quantile(logits, (0.05, 0.95))))
    return score, float(low), float(high)


def _ties(estimates: list[Estimate], solved: list[np.ndarray], order: list[int]) -> list[str]:
    """Say which candidates the examples cannot tell from the first, by a paired test."""
    first = order[0]
    best = solved[first][solved[first].mean(1).argmax()]
    tied = []
    for i in order[1:]:
        other = solved[i][solved[i].mean(1).argmax()]
        more, less = int((best & ~other).sum()), int((other & ~best).sum())
        if estimates[i].within_budget and more - less <= 1.645 * math.sqrt(more + less):
            tied.append(estimates[i])
    if not tied:
        return []
    cheapest = min([*tied, estimates[first]], key=lambda e: e.parameters)
    return [
        f"Ties: {len(tied)} candidate(s) cannot be told from {estimates[first].label} with these examples: "
        f"{', '.join(e.label for e in tied)}. The smallest of them is {cheapest.label} "
        f"({cheapest.parameters:,} parameters)."
    ]


def _seconds_per_step(problem: ClassificationProblem, batch_size: int) -> float:
    """Return the time of a training step: the shorter of two, the first one warms up."""
    delta = problem.delta.initial()
    batch, labels = problem.batch(problem.train, range(min(batch_size, len(problem.train))))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        problem.loss_and_gradient(delta, batch, labels)
        if problem.backbone.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    problem.restore()
    return min(seconds[1:])


def _fitted(problem: ClassificationProblem, fit: _Fit) -> Tensor:
    """Return the fitted δ = Jᵀα without the first fold, with the ridge whose loss is least there.

    Jᵀα is the gradient of Σ α_ic z_ic, so it costs one pass over the examples and no stored row.
    """
    kept, held = folds(len(fit.start), FOLDS)[0]
    alphas = fit_path(fit.kernel[kept][:, kept], fit.start.subset(kept))
    unseen = fit.start.subset(held)
    heldout = unseen.logits + fit.kernel[held][:, kept] @ alphas / 2
    losses = [float(cross_entropy(z, unseen.labels)) for z in heldout]
    alpha = alphas[int(np.argmin(losses))]
    delta = problem.delta.initial()
    for first in range(0, len(kept), 32):
        leaf = problem.delta.initial().requires_grad_()
        logits = problem.logits(leaf, problem.batch(problem.train, kept[first : first + 32])[0])
        (gradient,) = torch.autograd.grad((logits * alpha[first : first + 32].to(logits)).sum(), leaf)
        delta += gradient
    problem.passes += (FORWARD + BACKWARD) * len(kept)
    return delta


def _adapter_config(delta: LoRA, fit: _Fit, base: str) -> tuple[dict[str, Any], str]:
    """Return peft's configuration, with the ranks that promise most; equal ones if none promise more.

    At δ = 0 the kernel of a module is proportional to its rank, so another distribution of the same total
    rank has the kernel Σ (r_l/r) K_l: its score needs no further pass. Tried are ranks in proportion to the
    loss's gradient in each module, and equal ranks in the modules that a log-det selection takes first.
    """
    kernels = fit.modules
    pull = fit.start.residual()
    energy = {name: float((pull * (kernel @ pull)).sum()) for name, kernel in kernels.items()}
    total = delta.r * len(energy)
    selection = greedy_log_det(kernels, len(kernels))
    kept = 1 + int(np.searchsorted(np.cumsum(selection.gains), _KEPT_GAIN * selection.value))
    spreads = {
        "the gradient in each module": {n: total * e / sum(energy.values()) for n, e in energy.items()},
        "log-det gain": dict.fromkeys(selection.chosen[:kept], total / kept),
    }
    shapes = delta.coordinates.shapes
    tried = {"equal ranks": dict.fromkeys(kernels, delta.r)}
    for rule, spread in spreads.items():
        widest = {n: min(4 * delta.r, shapes[f"{n}.A"][1], shapes[f"{n}.B"][0]) for n in spread}
        ranks = {n: min(round(value), widest[n]) for n, value in spread.items()}
        tried[rule] = {n: rank for n, rank in ranks.items() if rank}
    scores = {
        rule: float(
            _Fit({n: rank / delta.r * kernels[n] for n, rank in ranks.items()}, fit.start)
            .solved()
            .mean(1)
            .max()
        )
        for rule, ranks in tried.items()
    }
    best = max(tried, key=lambda rule: scores[rule])
    ranks = tried[best]
    pattern = {name: rank for name, rank in ranks.items() if rank != delta.r}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": delta.r,
        "lora_alpha": delta.r,
        "target_modules": sorted(ranks),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
    }
    said = ", ".join(f"{scores[rule]:.3f} by {rule} ({len(tried[rule])} modules)" for rule in tried)
    finding = f"Ranks: predicted scores at the total rank {total}: {said}; adapter_config.json has {best}."
    return config, finding
